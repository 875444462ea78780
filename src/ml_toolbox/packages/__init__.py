"""The model package format: manifest, safe loaders, engines, signatures, verification.

Also used inside a training job's own environment, so nothing here imports more than the standard library at the top.
"""
