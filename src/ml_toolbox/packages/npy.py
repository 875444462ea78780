"""Reading ``.npy`` and ``.npz`` from outside: no object arrays, no header larger than its data, no bombs.

numpy refuses object arrays itself (``allow_pickle=False``), but allocates what the header asks for before it looks at
the data, and evaluates the header with ``ast.literal_eval``; here the sizes are compared first.
"""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import zipfile
from typing import Any

from ml_toolbox.base.errors import Invalid, Untrusted
from ml_toolbox.packages.zips import check_zip

MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
# Plain and structured-free: an optional byte order, a kind that holds no pointers, an item size.
_DESCR = re.compile(r"[<>|=][biufcSUV?][0-9]{1,6}\Z")


def check_npy(data: bytes | memoryview, *, size: int, name: str) -> None:
    """Raise unless ``data`` (the beginning of a file of ``size`` bytes) is an ``.npy`` whose shape fits its size.

    Raises :class:`Untrusted` for object arrays (they are pickles), :class:`Invalid` for the rest.
    """
    head = bytes(data[: _MAX_HEADER + 12])
    if not head.startswith(MAGIC) or len(head) < 12:
        raise Invalid(f"{name} is not a numpy array", field=name)
    major = head[6]
    start, length = (10, struct.unpack("<H", head[8:10])[0]) if major == 1 else (12, struct.unpack("<I", head[8:12])[0])
    if major not in (1, 2, 3) or length > _MAX_HEADER or start + length > size:
        raise Invalid(f"{name}: its numpy header claims {length} bytes", field=name)
    descr, shape = _parse_header(head[start : start + length], name)
    if "O" in str(descr):
        raise Untrusted(
            f"{name} is a numpy array of Python objects, which is a pickle",
            resource=name,
            hint="save numbers or fixed-width strings instead: array.astype(str) or array.astype(float)",
        )
    if not isinstance(descr, str) or not _DESCR.match(descr):
        raise Invalid(f"{name}: its dtype {descr!r:.60} is not a plain one", field=name)
    width = int(descr[2:]) * (4 if descr[1] == "U" else 1)
    expected = math.prod(shape) * width
    if start + length + expected != size:
        raise Invalid(f"{name}: the header asks for {expected} bytes, the file has {size - start - length}", field=name)


def _parse_header(text: bytes, name: str) -> tuple[Any, tuple[int, ...]]:
    try:
        header = ast.literal_eval(text.decode("latin-1").strip())
        descr, shape = header["descr"], header["shape"]
        if set(header) != {"descr", "fortran_order", "shape"}:
            raise ValueError("unexpected keys")
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise Invalid(f"{name}: its numpy header cannot be read", field=name) from error
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 32:
        raise Invalid(f"{name}: its shape {shape!r:.60} is not a shape", field=name)
    return descr, shape


def read_npz(data: bytes, *, name: str) -> dict[str, Any]:
    """All arrays of an ``.npz`` as numpy arrays, each checked by :func:`check_npy` before numpy sees it."""
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_zip(archive, name=name)
            arrays = {}
            for info in archive.infolist():
                content = archive.read(info)
                member = f"{name}/{info.filename}"
                check_npy(content, size=len(content), name=member)
                arrays[info.filename.removesuffix(".npy")] = np.load(io.BytesIO(content), allow_pickle=False)
            return arrays
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise Invalid(f"{name} is not a readable .npz: {error}", field=name) from error
