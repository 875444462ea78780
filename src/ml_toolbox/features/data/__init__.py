"""Datasets by name and version: put, get, list, show, verify, export, and what a job gets as its input.

How data becomes bytes is the business of ``ml_toolbox.datasets``; here are only names, numbers and promises about them.
"""

from __future__ import annotations

from ml_toolbox.features.data.catalogue import Datasets
from ml_toolbox.features.data.versions import Damage, DatasetDetails, DatasetVersion, VerifyReport

__all__ = ["Damage", "DatasetDetails", "DatasetVersion", "Datasets", "VerifyReport"]
