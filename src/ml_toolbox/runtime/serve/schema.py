"""Rows of a request -> the arrays the model's signature asks for, or a refusal that names the field.

Two ways in. The fast one takes numbers from simdjson's tape straight into numpy and accepts only what is certainly right;
whatever it is unsure of goes the careful way, column by column over Python objects, which knows how to explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.packages.manifest import ColumnSpec, Signature
from ml_toolbox.runtime.serve.problems import Refused, shown

Array = NDArray[Any]
Batch = Array | dict[str, Array]

_OPEN: Final = ord("[")
_KINDS: Final = {"f": "a number", "i": "an integer", "u": "an integer, 0 or above,", "b": "true or false"}


def brackets(body: bytes) -> int:
    """How many ``[`` the text has. numpy's comparison is vectorised; below 4 KB its call overhead is the larger part."""
    if len(body) < 4096:
        return body.count(b"[")
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == _OPEN))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The array type of a signature's dtype; text and ``any`` travel as Python objects."""
    return np.dtype(object) if name in ("string", "any", "object") else np.dtype(name)


def batch_rows(batch: Batch) -> int:
    """Rows in a batch of either layout."""
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch
    return int(first.shape[0])


class Schema:
    """A signature compiled for decoding. Stateless after construction."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.columns = signature.inputs
        self.names = tuple(column.name for column in signature.inputs)
        self.layout = signature.layout
        self._known = frozenset(self.names)
        self._dtypes = tuple(numpy_dtype(column.dtype) for column in signature.inputs)
        self.dtype = self._dtypes[0] if self._dtypes else np.dtype(np.float64)
        """Of the one array of ``matrix`` and ``tensor``."""
        self.row_shape: tuple[int | None, ...] = (
            (len(self.names),) if self.layout == "matrix" else self.columns[0].shape if self.columns else ()
        )
        flat = self.layout == "matrix" or (self.layout == "tensor" and len(self.row_shape) == 1)
        self.width = self.row_shape[0] if flat else None
        """Values per row where a row is a flat list of known length."""
        self.tape = {"f": "d", "i": "i", "u": "u"}.get(self.dtype.kind) if self.width is not None else None
        """simdjson's type code when the fast way is open, else ``None``."""
        self._from_tape = np.dtype({"d": "f8", "i": "i8", "u": "u8"}[self.tape]) if self.tape else self.dtype
        # float32 is left to `settle`, which casts once per batch instead of once per request.
        self._narrow = self.dtype.kind in "iu" and self.dtype != self._from_tape

    # -- the fast way ---------------------------------------------------------------------------------------------

    def fast_rows(self, array: Any, inner: int) -> Array | None:
        """Rows of a simdjson array of flat rows, or ``None`` when the careful way has to look.

        ``inner``: how many ``[`` lie inside ``array`` according to the text. Flattening forgets where rows end, so each
        row's own length is compared, and the bracket count rules out lists nested deeper (``[[[], [1, 2]]]``).
        """
        try:
            rows = len(array)
            if inner != rows or not rows:
                return None
            width = self.width
            if rows == 1:
                if len(array[0]) != width:
                    return None
            elif any(n != width for n in map(len, array)):
                return None
            return self._taped(array, rows)
        except (TypeError, ValueError):
            return None

    def fast_flat(self, array: Any, rows: int) -> Array | None:
        """``rows`` rows written as one flat simdjson array (whose flatness the caller has checked), or ``None``."""
        try:
            if len(array) != rows * (self.width or 0) or not rows:
                return None
            return self._taped(array, rows)
        except (TypeError, ValueError):
            return None

    def _taped(self, array: Any, rows: int) -> Array | None:
        values = np.frombuffer(array.as_buffer(of_type=self.tape), self._from_tape)
        if values.size != rows * (self.width or 0):
            return None
        if self._narrow:
            narrow = values.astype(self.dtype)
            if not np.array_equal(narrow, values):
                return None
            values = narrow
        return values.reshape(rows, -1)

    def settle(self, batch: Batch) -> Batch:
        """The last step before the model, once per batch: cast to float32 where the signature wants it.

        Raises :class:`Refused` when a number does not fit; the caller then looks at each request alone.
        """
        if isinstance(batch, dict) or batch.dtype == self.dtype:
            return batch
        with np.errstate(over="ignore"):
            cast = batch.astype(self.dtype)
        if np.isinf(cast).any():
            self._check_finite(cast, np.isinf(batch))
        return cast

    def _check_finite(self, cast: Array, allowed: Array) -> None:
        bad = np.argwhere(np.isinf(cast) & ~allowed)
        if len(bad):
            name = self.names[int(bad[0][1])] if self.layout == "matrix" else self.names[0]
            raise Refused(400, f"{name}: a number is too large for {self.dtype}", field=name)

    # -- the careful way ------------------------------------------------------------------------------------------

    def rows(self, rows: Any) -> Batch:
        """Rows as decoded JSON: a list of lists (in the order of the signature) or of objects (by name)."""
        if not isinstance(rows, list):
            raise Refused(400, "the rows are a JSON list", field="instances", hint=self.example_hint())
        if not rows:
            raise Refused(400, "there are no rows", field="instances")
        if self.layout == "tensor":
            return self._tensor([row[self.names[0]] if _names_only(row, self.names[0]) else row for row in rows])
        if isinstance(rows[0], dict):
            return self._from_records(rows)
        if len(self.names) == 1 and not isinstance(rows[0], list):
            return self.columns_of({self.names[0]: rows})
        for i, row in enumerate(rows):
            if not isinstance(row, list):
                raise Refused(
                    400, f"row {i} is not a list of values", field=f"instances[{i}]", hint=self.example_hint()
                )
            if len(row) != len(self.names):
                raise Refused(
                    400,
                    f"row {i} has {len(row)} values, the model takes {len(self.names)}",
                    field=f"instances[{i}]",
                    hint=self.example_hint(),
                )
        return self.columns_of({name: [row[i] for row in rows] for i, name in enumerate(self.names)})

    def _from_records(self, rows: list[Any]) -> Batch:
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise Refused(400, f"row {i} is not an object like the first row", field=f"instances[{i}]")
            if row.keys() != self._known:
                self._refuse_names(row.keys(), f" in row {i}")
        return self.columns_of({name: [row[name] for row in rows] for name in self.names})

    def _refuse_names(self, given: Any, where: str = "") -> None:
        for name in self.names:
            if name not in given:
                raise Refused(400, f"feature {name!r} is missing{where}", field=name, hint=self.example_hint())
        for name in given:
            if name not in self._known:
                raise Refused(
                    400,
                    f"feature {shown(name)!r} is not known to the model{where}",
                    field=shown(name),
                    hint=self.example_hint(),
                )

    def columns_of(self, columns: Mapping[str, Any]) -> Batch:
        """One list (or 1-D array) of values per feature."""
        if self.layout == "tensor":
            if set(columns) != self._known:
                self._refuse_names(columns.keys())
            return self._tensor(columns[self.names[0]])
        if columns.keys() != self._known:
            self._refuse_names(columns.keys())
        arrays = {c.name: self._column(c, d, columns[c.name]) for c, d in zip(self.columns, self._dtypes, strict=True)}
        lengths = {array.shape[0] for array in arrays.values()}
        if len(lengths) > 1 or 0 in lengths:
            raise Refused(400, "the features have different numbers of rows, or none", field=self.names[0])
        if self.layout == "columns":
            return arrays
        return np.column_stack([arrays[name] for name in self.names]).astype(self.dtype, copy=False)

    def _column(self, column: ColumnSpec, dtype: np.dtype[Any], values: Any) -> Array:
        if isinstance(values, np.ndarray):
            return self.array_column(column, dtype, values)
        if not isinstance(values, list):
            raise Refused(400, f"{column.name}: the values are a list", field=column.name)
        if dtype.kind == "O":
            return _objects(column, values)
        checked = [_value(column, dtype.kind, value, i) for i, value in enumerate(values)]
        try:
            with np.errstate(over="ignore"):
                array = np.array(checked, dtype)
        except (OverflowError, ValueError, TypeError) as error:
            raise Refused(400, f"{column.name}: a number does not fit into {dtype}", field=column.name) from error
        if dtype.kind == "f" and np.isinf(array).any():
            raise Refused(400, f"{column.name}: a number is too large for {dtype}", field=column.name)
        return array

    def array_column(self, column: ColumnSpec, dtype: np.dtype[Any], values: Array) -> Array:
        """A column that arrives as an array: cast only when no value changes kind, and check for NaN."""
        if values.ndim != 1:
            values = values.reshape(values.shape[0], -1)
            if values.shape[1] != 1:
                raise Refused(400, f"{column.name}: one value per row is needed", field=column.name)
            values = values[:, 0]
        if dtype.kind == "O":
            return values.astype(object)
        if values.dtype.kind not in "fiub":
            raise Refused(400, f"{column.name}: every value must be {_KINDS[dtype.kind]}", field=column.name)
        if values.dtype.kind == "f" and not column.nullable and np.isnan(values).any():
            raise _missing(column, int(np.argmax(np.isnan(values))))
        if dtype.kind != "f":
            with np.errstate(invalid="ignore"):
                cast = values.astype(dtype)
            if not np.array_equal(cast, values):
                raise Refused(
                    400, f"{column.name}: every value must be {_KINDS[dtype.kind]} ({dtype})", field=column.name
                )
            return cast
        return values.astype(dtype)

    def array(self, values: Array) -> Batch:
        """Rows that arrive as one array (CSV, tensors): checked for shape, type and NaN as a whole."""
        if self.layout == "columns" or values.dtype.kind not in "fiub":
            if values.ndim != 2 or values.shape[1] != len(self.names):
                raise self._wrong_shape(values.shape)
            return self.columns_of({name: values[:, i] for i, name in enumerate(self.names)})
        if self.layout == "matrix" and values.ndim == 1 and self.width == 1:
            values = values.reshape(-1, 1)
        shape = values.shape[1:]
        if not values.ndim or not values.shape[0] or not self._fits(shape):
            raise self._wrong_shape(values.shape)
        if values.dtype.kind == "f" and np.isnan(values).any():
            self._check_nan(values)
        if self.dtype.kind == values.dtype.kind == "f":
            return values if values.dtype == np.float64 else values.astype(self.dtype, copy=False)
        if self.dtype.kind == "f":
            return values.astype(self.dtype)
        with np.errstate(invalid="ignore"):
            cast = values.astype(self.dtype)
        if not np.array_equal(cast, values):
            raise Refused(
                400, f"every value must be {_KINDS.get(self.dtype.kind, 'text')} ({self.dtype})", field=self.names[0]
            )
        return cast

    def _fits(self, shape: tuple[int, ...]) -> bool:
        wanted = self.row_shape
        return len(shape) == len(wanted) and all(w is None or w == s for w, s in zip(wanted, shape, strict=True))

    def _wrong_shape(self, shape: Sequence[int]) -> Refused:
        wanted = ", ".join("any" if n is None else str(n) for n in ("rows", *self.row_shape))
        field = self.names[0] if self.layout == "tensor" else "instances"
        return Refused(400, f"the input has shape {list(shape)}, the model takes [{wanted}]", field=field)

    def _check_nan(self, values: Array) -> None:
        where = np.argwhere(np.isnan(values))
        if self.layout == "tensor":
            if not self.columns[0].nullable:
                raise _missing(self.columns[0], int(where[0][0]))
            return
        for row, column in where:
            if not self.columns[int(column)].nullable:
                raise _missing(self.columns[int(column)], int(row))

    def _tensor(self, nested: Any) -> Array:
        column = self.columns[0]
        try:
            values = np.array(nested)
        except ValueError as error:  # numpy: inhomogeneous shape
            raise Refused(400, f"{column.name}: the lists have different lengths", field=column.name) from error
        if values.dtype.kind == "O" and self.dtype.kind == "f":
            values = _with_nan(values, column)
        if values.dtype.kind not in "fiub" or (values.dtype.kind == "b") != (self.dtype.kind == "b"):
            raise Refused(
                400, f"{column.name}: every value must be {_KINDS.get(self.dtype.kind, 'text')}", field=column.name
            )
        batch = self.array(values)
        return batch if isinstance(batch, np.ndarray) else batch[column.name]

    def example_hint(self) -> str:
        """What a right row looks like, short."""
        names = ", ".join(self.names[:6]) + (", ..." if len(self.names) > 6 else "")
        return f"the model takes {len(self.names)} feature(s): {names}; GET /openapi.json shows them all"


def _names_only(row: Any, name: str) -> bool:
    return isinstance(row, dict) and set(row) == {name}


def _missing(column: ColumnSpec, row: int) -> Refused:
    return Refused(400, f"{column.name}: no value in row {row}, and the model takes none missing", field=column.name)


def _objects(column: ColumnSpec, values: list[Any]) -> Array:
    for i, value in enumerate(values):
        if value is None and not column.nullable:
            raise _missing(column, i)
        if column.dtype == "string" and value is not None and not isinstance(value, str):
            raise Refused(400, f"{column.name}: row {i} is not text", field=column.name)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _value(column: ColumnSpec, kind: str, value: Any, row: int) -> Any:
    """One JSON value as the column wants it: null is NaN where allowed, ``1.0`` is an integer, ``"1"`` is not."""
    if value is None:
        if column.nullable and kind == "f":
            return math.nan
        raise _missing(column, row)
    if isinstance(value, bool) != (kind == "b") or not isinstance(value, int | float):
        raise Refused(400, f"{column.name}: row {row} must hold {_KINDS[kind]}", field=column.name)
    if isinstance(value, float):
        if math.isnan(value) and not column.nullable:
            raise _missing(column, row)
        if kind in "iu" and not value.is_integer():
            raise Refused(400, f"{column.name}: row {row} must hold {_KINDS[kind]}", field=column.name)
        return int(value) if kind in "iu" else value
    return value


def _with_nan(values: Array, column: ColumnSpec) -> Array:
    flat = values.reshape(-1)
    numbers = [_value(column, "f", value, 0) for value in flat.tolist()]
    return np.array(numbers, np.float64).reshape(values.shape)
