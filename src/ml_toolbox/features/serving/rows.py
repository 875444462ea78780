"""What users call rows -> the JSON body of a prediction request. No library is imported here: objects are asked what they
are by what they can do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_toolbox.base.errors import Invalid


def encode_rows(rows: Any) -> tuple[bytes, bool]:
    """The body, and whether it is one single row (whose prediction comes back bare).

    Takes numpy arrays, pandas, polars and pyarrow tables, a list of lists or of dicts, one dict, or one flat list.
    NaN becomes null. ``Invalid`` for anything else.
    """
    value, single = _plain(rows)
    try:
        return json.dumps({"instances": value}, allow_nan=False, default=_scalar).encode(), single
    except ValueError:
        return json.dumps({"instances": _without_nan(value)}, default=_scalar).encode(), single
    except TypeError as error:
        raise Invalid(f"rows: {error}", field="rows", hint="send numbers, text, true or false") from error


def _plain(rows: Any) -> tuple[Any, bool]:
    if hasattr(rows, "to_dicts"):  # polars
        return rows.to_dicts(), False
    if hasattr(rows, "to_pylist"):  # pyarrow
        return rows.to_pylist(), False
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        return rows.to_dict("records"), False
    if hasattr(rows, "to_dict"):  # pandas Series: one row by name
        return [dict(rows.to_dict())], True
    if hasattr(rows, "tolist") and hasattr(rows, "ndim"):  # numpy
        return ([rows.tolist()], True) if rows.ndim == 1 else (rows.tolist(), False)
    if isinstance(rows, Mapping):
        return [dict(rows)], True
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes) and len(rows):
        first = rows[0]
        if isinstance(first, Mapping | Sequence) and not isinstance(first, str | bytes):
            return [dict(row) if isinstance(row, Mapping) else list(row) for row in rows], False
        if hasattr(first, "tolist") and getattr(first, "ndim", False):
            return [row.tolist() for row in rows], False
        return [list(rows)], True
    raise Invalid(
        f"rows: {type(rows).__name__} is not understood",
        field="rows",
        hint="send a list of lists or dicts, a numpy array, or a pandas, polars or pyarrow table",
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _scalar(value: Any) -> Any:
    if hasattr(value, "item"):  # a numpy scalar
        return _without_nan(value.item())
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own missing values
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent")
