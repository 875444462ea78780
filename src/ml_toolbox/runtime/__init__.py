"""What runs inside the container or local job: the train entry point, the model server, the platform contracts.

Stands alone: imports neither features nor providers, and the standard library only until a model is touched.
"""
