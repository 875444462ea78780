"""One pandas column or index as Arrow arrays plus the recipe that brings back exactly the same dtype and values.

The recipe (a JSON value) refers to arrays by number: ``{"rows": n}`` has one entry per row and may be sliced,
``{"whole": n}`` (categories, levels) must be read in full. What has no recipe raises ``NotExact`` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.tseries.frequencies import to_offset

from ml_toolbox.base.errors import Conflict
from ml_toolbox.datasets import cells, objects
from ml_toolbox.datasets.cells import NotExact
from ml_toolbox.datasets.columns import Chunked, chunked

Spec: TypeAlias = dict[str, Any]
Add: TypeAlias = Callable[[Any, bool], dict[str, int]]
"""Takes an Arrow array and whether it has one entry per row; returns the reference to put into the recipe."""
Get: TypeAlias = Callable[[dict[str, int]], Chunked]


def encode_values(data: Any, add: Add, *, rows: bool = True) -> Spec:
    """The recipe of a Series or a flat Index; hands its arrays to ``add``."""
    dtype = data.dtype
    if isinstance(dtype, np.dtype):
        return _encode_numpy(data.to_numpy(), add, rows)
    if isinstance(dtype, pd.DatetimeTZDtype):
        ticks = data.array.asi8
        zone = _encode_zone(dtype.tz)
        return {"type": "zoned", "unit": dtype.unit, "zone": zone, "array": add(pa.array(ticks), rows)}
    if isinstance(dtype, pd.CategoricalDtype):
        codes = add(pa.array(data.array.codes), rows)
        categories = encode_index(dtype.categories, add, rows=False)
        return {"type": "category", "ordered": bool(dtype.ordered), "codes": codes, "categories": categories}
    if isinstance(dtype, pd.StringDtype):
        values = add(_strings(data.array), rows)
        return {"type": "string", **string_dtype_to_json(dtype), "array": values}
    if isinstance(dtype, pd.ArrowDtype):
        return {"type": "arrow", "array": add(chunked(pa.array(data.array)), rows)}
    if isinstance(dtype, pd.PeriodDtype):
        ordinals = add(pa.array(data.array.asi8), rows)
        return {"type": "period", "dtype": str(dtype), "array": ordinals}
    if isinstance(dtype, pd.IntervalDtype):
        sides = {side: encode_index(getattr(data.array, side), add, rows=rows) for side in ("left", "right")}
        return {"type": "interval", "closed": dtype.closed, **sides}
    if str(dtype) in _MASKED:
        return {"type": "masked", "dtype": str(dtype), "array": add(pa.array(data.array), rows)}
    if isinstance(dtype, pd.SparseDtype):
        raise NotExact(f"the sparse dtype {dtype}; save it dense: column.sparse.to_dense()")
    raise NotExact(f"the dtype {dtype} ({type(dtype).__module__})")


_MASKED = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)} | {"Float32", "Float64", "boolean"}


def _encode_numpy(values: Any, add: Add, rows: bool) -> Spec:
    dtype = values.dtype
    if dtype.kind == "O":
        kind, array = objects.encode(values)
        return {"type": kind, "array": add(array, rows)}
    if not dtype.isnative:
        raise NotExact(f"the big-endian dtype {dtype.str}; convert it with astype({dtype.newbyteorder('=').str!r})")
    if dtype.kind in "mM":
        array = pa.array(values.view("i8"))
    elif dtype.kind in "biu" or dtype.str in ("<f2", "<f4", "<f8"):
        array = pa.array(values, from_pandas=False)
    elif dtype.str in ("<c8", "<c16"):
        buffer = pa.py_buffer(np.ascontiguousarray(values))
        array = pa.Array.from_buffers(pa.binary(dtype.itemsize), len(values), [None, buffer])
    else:
        raise NotExact(f"the NumPy dtype {dtype}")
    return {"type": "numpy", "dtype": dtype.str, "array": add(array, rows)}


def _strings(array: Any) -> Any:
    """pandas' text as Arrow text, always the large variant, so that a file does not depend on the size of its neighbours."""
    return chunked(pa.array(array)).cast(pa.large_string())


def string_dtype_to_json(dtype: Any) -> Spec:
    return {"storage": dtype.storage, "na": "NA" if dtype.na_value is pd.NA else "nan"}


def string_dtype_from_json(spec: Spec) -> Any:
    return pd.StringDtype(spec["storage"], na_value=pd.NA if spec["na"] == "NA" else np.nan)


def _encode_zone(zone: Any) -> Any:
    module = type(zone).__module__
    if module.startswith("pytz"):
        return ["p", zone.zone] if getattr(zone, "zone", None) else _refuse_zone(zone)
    return cells.zone_to_plain(zone)


def _refuse_zone(zone: Any) -> Any:
    raise NotExact(f"the time zone {zone!r}")


def decode_values(spec: Spec, get: Get) -> Any:
    """The pandas (or NumPy) array that the recipe describes; what it returns is writable and its own."""
    decoder = _DECODERS.get(spec["type"])
    if decoder is None:
        raise Conflict(f"the manifest has a column of unknown type {spec['type']!r}", hint="upgrade ml-toolbox")
    return decoder(spec, get)


def _numpy(spec: Spec, get: Get) -> Any:
    dtype = np.dtype(spec["dtype"])
    values = get(spec["array"])
    out = np.empty(len(values), dtype=dtype)
    target = out.view("i8") if dtype.kind in "mM" else out
    at = 0
    for chunk in values.chunks:
        if dtype.kind == "c":
            data = np.frombuffer(chunk.buffers()[1], dtype=dtype)[chunk.offset : chunk.offset + len(chunk)]
        else:
            data = chunk.to_numpy(zero_copy_only=False)
        target[at : at + len(chunk)] = data
        at += len(chunk)
    return out


def _objects(spec: Spec, get: Get) -> Any:
    return objects.decode(spec["type"], get(spec["array"]))


def _zoned(spec: Spec, get: Get) -> Any:
    dtype = pd.DatetimeTZDtype(spec["unit"], cells.zone_from_plain(spec["zone"]))
    ticks = _numpy({"dtype": "<i8", "array": spec["array"]}, get)
    moments = pd.DatetimeIndex(ticks.view(f"M8[{spec['unit']}]"), tz="UTC")
    return moments.tz_convert(dtype.tz).array


def _category(spec: Spec, get: Get) -> Any:
    codes = get(spec["codes"])
    codes = _numpy({"dtype": codes.type.to_pandas_dtype()().dtype.str, "array": spec["codes"]}, get)
    categories = decode_index(spec["categories"], get)
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories, ordered=spec["ordered"]))


def _string(spec: Spec, get: Get) -> Any:
    dtype = string_dtype_from_json(spec)
    return dtype.__from_arrow__(get(spec["array"]))


def _masked(spec: Spec, get: Get) -> Any:
    dtype: Any = pd.api.types.pandas_dtype(spec["dtype"])
    return dtype.__from_arrow__(get(spec["array"]))


def _arrow(spec: Spec, get: Get) -> Any:
    return pd.arrays.ArrowExtensionArray(get(spec["array"]))


def _period(spec: Spec, get: Get) -> Any:
    ordinals = _numpy({"dtype": "<i8", "array": spec["array"]}, get)
    dtype: Any = pd.api.types.pandas_dtype(spec["dtype"])
    return pd.arrays.PeriodArray(ordinals, dtype=dtype)


def _interval(spec: Spec, get: Get) -> Any:
    left, right = decode_index(spec["left"], get), decode_index(spec["right"], get)
    return pd.arrays.IntervalArray.from_arrays(left, right, closed=spec["closed"])


_DECODERS: dict[str, Callable[[Spec, Get], Any]] = {
    "numpy": _numpy,
    "object": _objects,
    "object-text": _objects,
    "zoned": _zoned,
    "category": _category,
    "string": _string,
    "masked": _masked,
    "arrow": _arrow,
    "period": _period,
    "interval": _interval,
}


def encode_index(index: Any, add: Add, *, rows: bool) -> Spec:
    """The recipe of any index; raises ``NotExact``."""
    if type(index) is pd.RangeIndex:
        name = cells.label_to_json(index.name)
        return {"type": "range", "start": index.start, "stop": index.stop, "step": index.step, "name": name}
    if type(index) is pd.MultiIndex:
        return {
            "type": "multi",
            "names": [cells.label_to_json(name) for name in index.names],
            "levels": [encode_index(level, add, rows=False) for level in index.levels],
            "codes": [add(pa.array(np.asarray(codes)), rows) for codes in index.codes],
        }
    freq = getattr(index, "freq", None) if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    spec: Spec = {
        "type": "flat",
        "name": cells.label_to_json(index.name),
        "freq": freq.freqstr if freq is not None else None,
        "values": encode_values(index, add, rows=rows),
    }
    if freq is not None and to_offset(spec["freq"]) != freq:
        raise NotExact(f"an index with the frequency {freq!r}")
    return spec


def decode_index(spec: Spec, get: Get) -> Any:
    if spec["type"] == "range":
        name = cells.label_from_json(spec["name"])
        return pd.RangeIndex(spec["start"], spec["stop"], spec["step"], name=name)
    if spec["type"] == "multi":
        levels = [decode_index(level, get) for level in spec["levels"]]
        codes: Any = [np.asarray(get(ref)) for ref in spec["codes"]]
        names = [cells.label_from_json(name) for name in spec["names"]]
        return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=True)
    values = decode_values(spec["values"], get)
    index = pd.Index(values, dtype=values.dtype, name=cells.label_from_json(spec["name"]))
    if spec["freq"] is not None:
        index.freq = to_offset(spec["freq"])
    return index
