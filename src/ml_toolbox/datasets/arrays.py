"""NumPy arrays as ``.npy`` files: exact dtype, shape and order, memory-mapped when they come back.

The npy format is NumPy's own (NEP 1); its header is parsed with ``ast.literal_eval``, and object arrays, which npy would
pickle, go another way (:mod:`ml_toolbox.datasets.cells`).
"""

from __future__ import annotations

import ast
import io
import itertools
import math
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_toolbox.base.errors import Conflict, Invalid
from ml_toolbox.datasets.blobs import CHUNK, Blobs
from ml_toolbox.datasets.cells import NotExact
from ml_toolbox.datasets.manifest import Item, Part

Array = npt.NDArray[Any]

_READERS = 4
_SMALL = 64 * 1024
"""Below this, reading is as fast as mapping and needs no open file."""

_MAX_HEADER = 256 * 1024
"""Parsing a Python literal from an unbounded header could exhaust the stack; NumPy's own limit (10,000) is too low for
dtypes with many fields that we wrote ourselves."""


def check_array(array: Array, name: str) -> None:
    """Raise ``Invalid`` for what npy would not bring back exactly: subclasses that carry more than the values, dtypes
    that would be pickled."""
    where = f"the array {name!r}" if name else "the array"
    if type(array) not in (np.ndarray, np.memmap):
        hint = {
            "MaskedArray": "save a tuple of array.data and array.mask",
            "recarray": "save array.view(numpy.ndarray) with the same fields",
            "matrix": "save numpy.asarray(matrix)",
        }.get(type(array).__name__, "save numpy.asarray(array)")
        raise Invalid(
            f"{where} is a {type(array).__name__}, which would come back as another type", hint=hint, field=name
        )
    if array.dtype.kind == "T":
        raise Invalid(
            f"{where} has the dtype {array.dtype}, which the npy format cannot hold",
            hint="convert it with astype(object) or astype('U')",
            field=name,
        )
    if array.dtype.hasobject and array.dtype != np.dtype(object):
        fields = [field for field, (dtype, *_) in (array.dtype.fields or {}).items() if dtype.hasobject]
        raise Invalid(
            f"{where} has Python objects in its field {fields[0]!r}" if fields else f"{where} holds Python objects",
            hint="give the field a fixed dtype such as 'U32', or save the fields as separate arrays",
            field=fields[0] if fields else name,
        )
    if array.dtype.metadata or _descr_of(array.dtype, where, name) != array.dtype:
        extra = f" with the metadata {dict(array.dtype.metadata)}" if array.dtype.metadata else ""
        raise Invalid(
            f"{where} has the dtype {array.dtype!r}{extra}, which the npy format does not bring back exactly",
            hint="convert it with astype() to a plain dtype first",
            field=name,
        )


def _descr_of(dtype: np.dtype[Any], where: str, name: str) -> np.dtype[Any]:
    """The dtype after a trip through the header."""
    try:
        return np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype))
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"{where} has the dtype {dtype!r}, which the npy format cannot hold",
            hint="convert it with astype() first, for text to 'U' or object",
            field=name,
        ) from error


def header_of(array: Array) -> bytes:
    """The npy header that ``numpy.save`` would write: version 1, or 3 for long headers and field names beyond Latin-1."""
    out = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    try:
        np.lib.format.write_array_header_1_0(out, header)
        return out.getvalue()
    except (ValueError, UnicodeEncodeError):
        text = repr(header).encode()
    start = len(np.lib.format.magic(3, 0)) + 4
    text += b" " * (-(start + len(text) + 1) % 64) + b"\n"
    if len(text) > _MAX_HEADER:
        raise Invalid(
            f"the dtype of the array has {len(array.dtype.names or ())} fields, which is more than a header may hold",
            hint="save it as a table, one column per field",
            field="data",
        ) from None
    return np.lib.format.magic(3, 0) + struct.pack("<I", len(text)) + text


def is_held(array: Array) -> bool:
    """Whether its bytes can be written without a copy."""
    return bool(array.flags.c_contiguous or array.flags.f_contiguous)


def buffers_of(array: Array) -> Iterator[memoryview]:
    """Header and data in file order; views when the array is contiguous, else copies of a few rows at a time."""
    yield memoryview(header_of(array))
    if array.size == 0 or array.itemsize == 0:
        return
    if is_held(array):
        flat = array.T if not array.flags.c_contiguous else array
        view = np.ascontiguousarray(flat).reshape(-1).view(np.uint8).data
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]
        return
    rows = max(1, CHUNK // max(1, array.itemsize * (array.size // len(array))))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8).data


def write_array(name: str, array: Array, blobs: Blobs) -> Item:
    """Store the array; raises ``Invalid`` when it cannot be kept exactly."""
    check_array(array, name)
    if array.dtype.hasobject:
        return _write_objects(name, array, blobs)
    sha256, size = blobs.put_chunks(lambda: buffers_of(array), array.nbytes, held=is_held(array))
    rows = len(array) if array.ndim else 1
    part = Part(sha256=sha256, size=size, format="npy", rows=rows)
    spec = {"dtype": str(array.dtype), "shape": list(array.shape), "data_offset": len(header_of(array))}
    return Item(name=name, kind="numpy", rows=rows, parts=(part,), spec=spec)


def read_array(item: Item, blobs: Blobs, *, mmap: bool, check: bool | None) -> Array:
    """The array. From a local store either mapped (copy-on-write: changes stay in memory) or read; from elsewhere streamed
    into memory, its hash checked on the way unless ``check`` is False."""
    if "object" in item.spec:
        return _read_objects(item, blobs, check=check)
    part = item.parts[0]
    path = blobs.path(part)
    try:
        if path is None or check:
            return _read_stream(item, blobs, check=check is not False)
        return _map(item, path) if mmap and part.size > _SMALL else _read_file(item, path)
    except (
        ValueError,
        EOFError,
        LookupError,
        SyntaxError,
        TypeError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        raise _unreadable(item, error) from error


def _map(item: Item, path: Path) -> Array:
    """Opened in the time of one header, whatever its size."""
    with path.open("rb", buffering=0) as file:
        shape, fortran, dtype, offset = _layout(item, file.read(int(item.spec["data_offset"])))
    return np.asarray(np.memmap(path, dtype, "c", offset, shape, order="F" if fortran else "C"))


def _write_objects(name: str, array: Array, blobs: Blobs) -> Item:
    from ml_toolbox.datasets import objects
    from ml_toolbox.datasets.columns import Column, chunked, write_columns

    where = f"the array {name!r}" if name else "the array"
    try:
        kind, values = objects.encode(array.reshape(-1))
    except NotExact as error:
        raise Invalid(
            f"{where} cannot be kept exactly: {error}", hint="convert it to a plain dtype with astype()", field=name
        ) from error
    parts = write_columns([Column(where, chunked(values))], blobs)
    spec = {"object": kind, "dtype": "object", "shape": list(array.shape)}
    return Item(name=name, kind="numpy", rows=len(array) if array.ndim else 1, parts=parts, spec=spec)


def _read_objects(item: Item, blobs: Blobs, *, check: bool | None) -> Array:
    from ml_toolbox.datasets import objects
    from ml_toolbox.datasets.columns import ColumnReader

    flat = objects.decode(item.spec["object"], ColumnReader(item, blobs, check=check)(0))
    array: Array = flat.reshape(item.spec["shape"])
    return array


def _read_file(item: Item, path: Path) -> Array:
    """A local file into new memory, in threads: most of the time goes into first touching the memory."""
    offset = int(item.spec["data_offset"])
    with path.open("rb", buffering=0) as file:
        array = _allocate(item, file.read(offset))
        target = _bytes_view(array)

        def fill(start: int) -> None:
            rest = target[start : start + CHUNK]
            while rest:
                count = os.preadv(file.fileno(), [rest], offset + start)
                if not count:
                    raise ValueError("the file ends inside its data")
                rest, start = rest[count:], start + count

        with ThreadPoolExecutor(_READERS, thread_name_prefix="dataset-read") as pool:
            for _ in pool.map(fill, range(0, len(target), CHUNK)):
                continue
    return array


def _read_stream(item: Item, blobs: Blobs, *, check: bool) -> Array:
    chunks = blobs.chunks(item.parts[0], check=check)
    offset = int(item.spec["data_offset"])
    head = b""
    while len(head) < offset:
        more = next(chunks, b"")
        if not more:
            raise ValueError("the file ends inside its header")
        head += more
    array = _allocate(item, head[:offset])
    target = _bytes_view(array)
    at = 0
    for chunk in itertools.chain((head[offset:],), chunks):
        target[at : at + len(chunk)] = chunk
        at += len(chunk)
    return array


def _layout(item: Item, head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, Fortran order, dtype, offset of the data), the size of the file compared with what they need."""
    shape, fortran, dtype = read_header(head)
    if dtype.hasobject:
        raise ValueError("an object array is never loaded from npy")
    expected = len(head) + math.prod(shape) * dtype.itemsize
    if expected != item.parts[0].size:
        raise ValueError(f"the header announces {expected} bytes, the part has {item.parts[0].size}")
    return shape, fortran, dtype, len(head)


def _allocate(item: Item, head: bytes) -> Array:
    shape, fortran, dtype, _ = _layout(item, head)
    return np.empty(shape, dtype=dtype, order="F" if fortran else "C")


def read_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of an npy header of any version; ``ValueError`` for anything else."""
    major, _ = np.lib.format.read_magic(io.BytesIO(data))
    layout, encoding = {1: ("<H", "latin1"), 2: ("<I", "latin1"), 3: ("<I", "utf8")}[major]
    start = np.lib.format.MAGIC_LEN + struct.calcsize(layout)
    (length,) = struct.unpack(layout, data[np.lib.format.MAGIC_LEN : start])
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = ast.literal_eval(data[start : start + length].decode(encoding))
    return tuple(header["shape"]), bool(header["fortran_order"]), np.lib.format.descr_to_dtype(header["descr"])


def _bytes_view(array: Array) -> memoryview:
    if array.size == 0 or array.itemsize == 0:
        return memoryview(bytearray())
    flat = array.T if not array.flags.c_contiguous else array
    return flat.reshape(-1).view(np.uint8).data


def iterate_rows(item: Item, blobs: Blobs, batch_rows: int, *, check: bool | None) -> Iterator[Array]:
    """The array in slices of ``batch_rows`` along its first axis, memory bounded by a few slices."""
    part = item.parts[0]
    if "object" in item.spec or (blobs.path(part) is not None and not check):
        array = read_array(item, blobs, mmap=True, check=check)
        for start in range(0, len(array), batch_rows):
            yield array[start : start + batch_rows].copy()
        return
    yield from _stream_rows(item, blobs, batch_rows, check=check is not False)


def _stream_rows(item: Item, blobs: Blobs, batch_rows: int, *, check: bool) -> Iterator[Array]:
    offset = int(item.spec["data_offset"])
    with blobs.open(item.parts[0]) as file:
        shape, fortran, dtype = read_header(file.read(offset))
    if fortran and len(shape) > 1:
        # Rows of a Fortran-ordered array lie all over the file: nothing to gain from a stream.
        array = _read_stream(item, blobs, check=check)
        for start in range(0, len(array), batch_rows):
            yield array[start : start + batch_rows]
        return
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    waiting = bytearray()
    skip = offset
    for chunk in blobs.chunks(item.parts[0], check=check):
        waiting += chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))
        while row_bytes and len(waiting) >= row_bytes * batch_rows:
            yield _rows_from(waiting[: row_bytes * batch_rows], dtype, shape)
            del waiting[: row_bytes * batch_rows]
    if waiting:
        yield _rows_from(waiting, dtype, shape)


def _rows_from(data: bytearray, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.frombuffer(bytes(data), dtype=dtype).reshape((-1, *shape[1:])).copy()


def read_bytes(data: bytes) -> Array:
    """The array in the bytes of an ``.npy`` file; ``Invalid`` when it would have to be unpickled, or is none."""
    try:
        array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Invalid(f"the npy file cannot be loaded: {error}", hint="load it as_='path'", field="as_") from error
    return array


def map_file(path: Path) -> Array:
    """An ``.npy`` file of the user's, mapped read-only; never unpickles."""
    return np.lib.format.open_memmap(path, mode="r")


def _unreadable(item: Item, error: Exception) -> Conflict:
    return Conflict(
        f"the array {item.name!r} cannot be read: {error}",
        hint="`mltoolbox data verify` shows whether it was changed after it was saved",
        field=item.name,
    )
