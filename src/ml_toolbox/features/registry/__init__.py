"""The model registry: versions, stages, aliases, tags, lineage and audit on any object store, without a database.

Here belongs everything that reads or writes below ``models/`` and ``blobs/`` of a registry's store. Model code is never
loaded: a package is its manifest and its files. Layout and protocol: ``design/registry.md``.
"""

from __future__ import annotations

from ml_toolbox.features.registry.registry import Registry
from ml_toolbox.features.registry.values import (
    AuditLine,
    Comparison,
    LineageReport,
    ModelVersion,
    RegisteredModel,
    SearchPage,
    Verification,
    VersionList,
)

__all__ = [
    "AuditLine",
    "Comparison",
    "LineageReport",
    "ModelVersion",
    "RegisteredModel",
    "Registry",
    "SearchPage",
    "Verification",
    "VersionList",
]
