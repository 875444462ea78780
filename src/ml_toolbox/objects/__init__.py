"""Object storage on obstore: file, memory, s3, az. Conditional writes, transfers, folder sync. One implementation for all.

Knows nothing of datasets, models or platforms' services; credentials come from settings or each cloud's environment.
Importing this package loads no client library: obstore is imported by the first call of the first remote store.
"""

from __future__ import annotations

from ml_toolbox.objects.opening import locate, open_store
from ml_toolbox.objects.settings import AzureCredentials, S3Credentials, Secret, StoreSettings

__all__ = ["AzureCredentials", "S3Credentials", "Secret", "StoreSettings", "locate", "open_store"]
