"""The dataset format: schema, parts, checksums, loaders. Never pickle.

numpy, pyarrow and friends are imported inside the functions that need them.
"""
