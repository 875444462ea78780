"""Sample rows: what they say about a model's inputs, and how they are kept in the package.

The sample serves three ends: it teaches the signature, it proves engines against the original (now, and again when an
engine's library changes), and it is the reference for drift.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.manifest import ColumnSpec
from ml_toolbox.packages.npy import read_npz

MAX_ROWS = 256
Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows in the signature's layout."""

    layout: Literal["matrix", "columns", "tensor"]
    inputs: tuple[ColumnSpec, ...]
    matrix: Array | None = None
    """The rows of ``matrix`` and ``tensor``."""
    columns: dict[str, Array] = field(default_factory=dict)
    """The rows of ``columns``."""
    synthetic: bool = False
    """Drawn, not given: proves engines, says nothing about the data."""

    @property
    def batch(self) -> Any:
        """As a predictor takes it."""
        return self.columns if self.matrix is None else self.matrix

    @property
    def rows(self) -> int:
        array = next(iter(self.columns.values())) if self.matrix is None else self.matrix
        return len(array)


def read_sample(
    rows: Any, *, names: tuple[str, ...] = (), tensor: bool = False, limit: int | None = MAX_ROWS
) -> Sample:
    """The first ``limit`` of ``rows`` (array, sequence, DataFrame, Arrow table, mapping of columns, tensor) as a sample.

    ``names`` are the features' names when ``rows`` has none. ``tensor`` keeps one input of any rank. Raises
    :class:`Invalid` naming the column whose dtype no engine can take.
    """
    frame = _as_columns(rows, limit)
    if frame is not None and not tensor:
        return _from_columns(frame)
    array = _as_array(rows, limit)
    if tensor:
        spec = ColumnSpec(
            name=names[0] if names else "input",
            dtype=_dtype_name(array, "input"),
            shape=array.shape[1:],
            nullable=_has_nan(array),
        )
        return Sample(layout="tensor", inputs=(spec,), matrix=array)
    if array.ndim != 2:
        raise Invalid(
            f"sample_input has {array.ndim} dimensions",
            field="sample_input",
            hint="give rows of features: a 2-D array, a DataFrame or a list of lists",
        )
    return matrix_sample(array, names)


def matrix_sample(array: Array, names: tuple[str, ...] = (), *, synthetic: bool = False) -> Sample:
    """A sample of the ``matrix`` layout; features are called ``x0``, ``x1``... unless ``names`` fit."""
    if len(names) != array.shape[1]:
        names = tuple(f"x{i}" for i in range(array.shape[1]))
    dtype = _dtype_name(array, "sample_input")
    inputs = tuple(ColumnSpec(name=name, dtype=dtype, nullable=_has_nan(array[:, i])) for i, name in enumerate(names))
    return Sample(layout="matrix", inputs=inputs, matrix=np.ascontiguousarray(array), synthetic=synthetic)


def with_rows(sample: Sample, batch: Any) -> Sample:
    """The same inputs with other rows."""
    if sample.matrix is None:
        return Sample(layout=sample.layout, inputs=sample.inputs, columns=batch, synthetic=sample.synthetic)
    return Sample(layout=sample.layout, inputs=sample.inputs, matrix=batch, synthetic=sample.synthetic)


def dump_sample(sample: Sample, outputs: Mapping[str, Array]) -> bytes:
    """The sample and the original's outputs as an ``.npz`` without any object array."""
    arrays: dict[str, Any] = {f"output.{name}": array for name, array in outputs.items()}
    if sample.matrix is not None:
        arrays["input"] = sample.matrix
    for number, spec in enumerate(sample.inputs):
        if spec.name in sample.columns:
            column = sample.columns[spec.name]
            if column.dtype == object:
                arrays[f"null.{number}"] = np.array([value is None for value in column])
                column = np.array(["" if value is None else value for value in column], dtype=np.str_)
            arrays[f"input.{number}"] = column
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def load_sample(
    data: bytes, layout: Literal["matrix", "columns", "tensor"], inputs: tuple[ColumnSpec, ...]
) -> tuple[Sample, dict[str, Array]]:
    """The inverse of :func:`dump_sample`. Raises :class:`Invalid` or ``Untrusted`` when ``data`` is not such a file."""
    arrays = read_npz(data, name="the package's sample")
    outputs = {name.removeprefix("output."): a for name, a in arrays.items() if name.startswith("output.")}
    if layout != "columns":
        if "input" not in arrays:
            raise Invalid("the package's sample has no 'input' array", field="sample")
        return Sample(layout=layout, inputs=inputs, matrix=arrays["input"]), outputs
    columns: dict[str, Array] = {}
    for number, spec in enumerate(inputs):
        if f"input.{number}" not in arrays:
            raise Invalid(f"the package's sample lacks the column {spec.name!r}", field="sample")
        column: Array = arrays[f"input.{number}"]
        if column.dtype.kind == "U":
            column = column.astype(object)
            if f"null.{number}" in arrays:
                missing = arrays[f"null.{number}"].astype(np.bool_)
                column = np.array([None if m else v for v, m in zip(column, missing, strict=True)], dtype=object)
        columns[spec.name] = column
    return Sample(layout=layout, inputs=inputs, columns=columns), outputs


def _as_columns(rows: Any, limit: int | None) -> dict[str, Any] | None:
    """The columns of anything tabular, or None. Duck-typed, so that neither pandas, polars nor pyarrow is imported."""
    if isinstance(rows, Mapping):
        return {str(name): np.asarray(values)[:limit] for name, values in rows.items()}
    if hasattr(rows, "column_names") and hasattr(rows, "slice"):  # pyarrow.Table
        head = rows.slice(0, limit)
        return {name: np.asarray(head[name].to_numpy()) for name in head.column_names}
    if hasattr(rows, "columns") and hasattr(rows, "head"):  # pandas and polars
        head = rows if limit is None else rows.head(limit)
        names = [str(name) for name in head.columns]
        if len(set(names)) != len(names):
            raise Invalid("sample_input has two columns of one name", field="sample_input")
        return {name: np.asarray(head[column]) for name, column in zip(names, head.columns, strict=True)}
    return None


def _as_array(rows: Any, limit: int | None) -> Array:
    if hasattr(rows, "detach"):  # torch.Tensor
        rows = rows.detach().cpu().numpy()
    if hasattr(rows, "toarray"):  # scipy sparse
        rows = rows[:limit].toarray()
    if hasattr(rows, "to_numpy"):
        rows = rows.to_numpy()
    try:
        array = np.asarray(rows)[:limit]
    except (ValueError, IndexError) as error:
        raise Invalid(
            f"sample_input is not rows of equal length: {error}", field="sample_input", hint="give a 2-D array"
        ) from error
    if array.ndim == 0 or len(array) == 0:
        raise Invalid("sample_input has no rows", field="sample_input", hint="give a few rows of the training input")
    return array


def _from_columns(columns: dict[str, Any]) -> Sample:
    if not columns:
        raise Invalid("sample_input has no columns", field="sample_input")
    tidy = {name: _tidy(name, values) for name, values in columns.items()}
    lengths = {len(values) for values in tidy.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise Invalid("sample_input needs columns of equal length and at least one row", field="sample_input")
    if all(values.dtype.kind in "fiu" for values in tidy.values()):
        return matrix_sample(np.column_stack(list(tidy.values())), tuple(tidy))
    inputs = tuple(
        ColumnSpec(name=name, dtype=_dtype_name(values, name), nullable=_has_nan(values))
        for name, values in tidy.items()
    )
    return Sample(layout="columns", inputs=inputs, columns=tidy)


def _tidy(name: str, values: Array) -> Array:
    if values.dtype.kind in "US":
        return values.astype(np.str_).astype(object)
    if values.dtype != object:
        _dtype_name(values, name)
        return values
    present = [v for v in values if not (v is None or (isinstance(v, float) and v != v))]
    if all(isinstance(v, str) for v in present):
        return np.array([v if isinstance(v, str) else None for v in values], dtype=object)
    if all(isinstance(v, (bool, np.bool_)) for v in present) and len(present) == len(values):
        return values.astype(np.bool_)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"column {name!r} of sample_input mixes types",
            field=f"sample_input.{name}",
            hint="convert it to numbers or to strings",
        ) from error


def _dtype_name(array: Array, name: str) -> str:
    if array.dtype.kind in "fiub":
        return str(array.dtype)
    if array.dtype.kind in "UO":
        return "string"
    raise Invalid(
        f"{name!r} of sample_input has dtype {array.dtype}",
        field=f"sample_input.{name}" if name != "sample_input" else name,
        hint="models take numbers, booleans and strings; convert dates to one of them",
    )


def _has_nan(array: Array) -> bool:
    if array.dtype.kind == "f":
        return bool(np.isnan(array.astype(np.float64, copy=False)).any())
    return array.dtype == object and any(value is None for value in array.ravel())
