"""Arrays of Python objects as Arrow columns: text as text, everything else cell by cell. Never pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ml_toolbox.datasets import cells
from ml_toolbox.datasets.cells import NotExact
from ml_toolbox.datasets.columns import Chunked


def encode(values: Any) -> tuple[str, Any]:
    """(kind, Arrow array) of a flat object array; ``NotExact`` names the row and the type that has no exact form."""
    if all(type(value) is str or value is None for value in values):
        try:
            return "object-text", pa.array(values, pa.large_string())
        except UnicodeEncodeError as error:
            raise NotExact(f"text that is not valid Unicode ({error.reason})") from error
    packed = []
    for row, value in enumerate(values):
        try:
            packed.append(cells.pack(value))
        except NotExact as error:
            raise NotExact(f"{error} (row {row})") from error
    return "object", pa.array(packed, pa.large_binary())


def decode(kind: str, values: Chunked) -> Any:
    """The inverse of :func:`encode`."""
    out = np.empty(len(values), dtype=object)
    at = 0
    for chunk in values.chunks:
        found = chunk.to_pylist()
        out[at : at + len(chunk)] = found if kind == "object-text" else _unpacked(found)
        at += len(chunk)
    return out


def _unpacked(packed: list[bytes]) -> Any:
    """A one-dimensional array: assigning a list of lists to a slice would let NumPy look inside."""
    out = np.empty(len(packed), dtype=object)
    for row, data in enumerate(packed):
        out[row] = cells.unpack(data)
    return out
