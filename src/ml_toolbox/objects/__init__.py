"""Object storage on obstore: file, memory, s3, az. Conditional writes, transfers, folder sync. One implementation for all.

Knows nothing of datasets, models or platforms' services; credentials come from settings or each cloud's environment.
"""
