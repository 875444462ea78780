"""safetensors: the header is JSON with offsets; here every offset is compared with the file before anything is allocated."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from ml_toolbox.base.errors import Invalid

_MAX_HEADER = 100 * 1024 * 1024  # the format's own limit
_WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor's bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(data: bytes | memoryview, *, size: int, name: str) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file of ``size`` bytes that begins with ``data`` (which must hold the whole header).

    Raises :class:`Invalid` for a header that is larger than the file, holds duplicate names, tensors that overlap, leave
    the file, or whose shape does not fit their bytes.
    """
    if len(data) < 8:
        raise Invalid(f"{name} is too short for a safetensors file", field=name)
    (length,) = struct.unpack("<Q", data[:8])
    if length > _MAX_HEADER or length + 8 > size:
        raise Invalid(f"{name}: its header claims {length} bytes, the file has {size}", field=name)
    if len(data) < length + 8:
        raise Invalid(f"{name}: the header is cut off", field=name)
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{name}: its header is not JSON: {error}", field=name) from error
    if not isinstance(header, dict):
        raise Invalid(f"{name}: its header is not an object", field=name)
    header.pop("__metadata__", None)
    entries = {key: _entry(key, value, 8 + length, name) for key, value in header.items()}
    at = 8 + length
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.end)):
        if entry.start != at:
            raise Invalid(f"{name}: its tensors overlap or leave gaps", field=name)
        at = entry.end
    if at != size:
        raise Invalid(f"{name}: its tensors end at {at}, the file at {size}", field=name)
    return entries


def _entry(key: str, value: Any, base: int, name: str) -> TensorEntry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = (*shape, start, end)
        if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or dtype not in _WIDTHS:
            raise ValueError("not plain sizes")
        if end - start != math.prod(shape) * _WIDTHS[dtype]:
            raise ValueError("the shape does not fit the bytes")
    except (TypeError, KeyError, ValueError) as error:
        raise Invalid(f"{name}: tensor {key!r:.80} is malformed: {error}", field=name) from error
    return TensorEntry(dtype=dtype, shape=tuple(shape), start=base + start, end=base + end)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name occurs twice")
    return mapping
