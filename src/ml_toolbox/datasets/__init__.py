"""The dataset format: schema, parts, checksums, loaders. Never pickle.

Data goes in as arrays, frames, tables or files and comes back as the same kind, exactly, or is refused with the name of
the column. Stored as content-addressed blobs plus one manifest (``design/datasets.md``). Names and versions of datasets
belong to ``ml_toolbox.features.data``. numpy, pyarrow and friends are imported inside the functions that need them.
"""

from __future__ import annotations

from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.manifest import MANIFEST_NAME, ColumnSummary, DatasetManifest, Item, Part
from ml_toolbox.datasets.reading import As, iterate, load, load_batches, read, read_manifest
from ml_toolbox.datasets.writing import save, write

__all__ = [
    "MANIFEST_NAME",
    "As",
    "Blobs",
    "ColumnSummary",
    "DatasetManifest",
    "Item",
    "Part",
    "iterate",
    "load",
    "load_batches",
    "read",
    "read_manifest",
    "save",
    "write",
]
