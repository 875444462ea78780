"""polars DataFrames and Series: every column through Arrow, its polars type proven to come back before anything is stored."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from ml_toolbox.base.errors import Invalid
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.columns import Chunked, Column, ColumnReader, chunked, read_all, summarise, write_columns
from ml_toolbox.datasets.manifest import ColumnSummary, Item


def write_frame(name: str, frame: Any, blobs: Blobs) -> Item:
    """Store a DataFrame; ``Invalid`` names the column that cannot be kept exactly."""
    series = frame.get_columns()
    columns = [Column(f"the column {column.name!r}", _to_arrow(column)) for column in series]
    summaries = tuple(_summary(column, to.values) for column, to in zip(series, columns, strict=True))
    spec = {"schema": _schema_to_json(frame), "names": [column.name for column in series]}
    parts = write_columns(columns, blobs)
    return Item(name=name, kind="polars", rows=frame.height, parts=parts, spec=spec, columns=summaries)


def write_series(name: str, series: Any, blobs: Blobs) -> Item:
    item = write_frame(name, series.to_frame(), blobs)
    return Item(name=name, kind="polars-series", rows=item.rows, parts=item.parts, spec=item.spec, columns=item.columns)


def _schema_to_json(frame: Any) -> str:
    """polars' own types, in a file of polars' own without rows: no type is translated twice."""
    out = io.BytesIO()
    frame.clear().write_ipc(out)
    return base64.b64encode(out.getvalue()).decode()


def _empty_frame(item: Item) -> Any:
    return pl.read_ipc(io.BytesIO(base64.b64decode(item.spec["schema"])))


def _to_arrow(column: Any) -> Chunked:
    try:
        if column.dtype == pl.Object:
            raise Invalid("polars Object columns hold Python objects")
        values = chunked(column.to_arrow())
        back = _from_arrow(column.name, values.slice(0, 64), column.dtype)
        same = back.dtype == column.dtype and back.equals(column.head(64), null_equal=True)
    except (pl.exceptions.PolarsError, pa.ArrowException, Invalid, ValueError, TypeError) as error:
        raise _refused(column, str(error)) from error
    if not same:
        raise _refused(column, f"it would come back as {back.dtype}")
    return values


def _refused(column: Any, reason: str) -> Invalid:
    return Invalid(
        f"the column {column.name!r} of type {column.dtype} cannot be kept exactly: {reason}",
        hint="cast it to another polars type first",
        field=column.name,
    )


def _from_arrow(name: str, values: Chunked, dtype: Any) -> Any:
    if isinstance(dtype, pl.Array):
        # polars 2.1 rejects a slice of a fixed-size list that has nulls; joining copies it to its own start.
        values = chunked(pa.concat_arrays([*values.chunks, pa.array([], values.type)]))
    series = pl.from_arrow(values)
    assert isinstance(series, pl.Series)  # noqa: S101 - told to the type checker: an array gives a Series
    series = series.alias(name)
    return series if series.dtype == dtype else series.cast(dtype)


def _summary(column: Any, values: Chunked) -> ColumnSummary:
    try:
        return summarise(column.name, str(column.dtype), values)
    except (pa.ArrowException, NotImplementedError):
        return ColumnSummary(name=column.name, dtype=str(column.dtype), nulls=column.null_count())


def _select(names: list[str], columns: Sequence[Any] | None) -> list[int]:
    for wanted in columns or ():
        if wanted not in names:
            raise Invalid.choice("columns", wanted, names)
    return list(range(len(names))) if columns is None else [names.index(wanted) for wanted in columns]


def read_frame(item: Item, blobs: Blobs, *, columns: Sequence[Any] | None, check: bool | None) -> Any:
    """The polars DataFrame as it was saved, or only some of its columns."""
    schema = _empty_frame(item).schema
    names = list(schema.names())
    positions = _select(names, columns)
    arrays = read_all(ColumnReader(item, blobs, check=check), positions)
    return pl.DataFrame([_from_arrow(names[p], arrays[p], schema[names[p]]) for p in positions])


def read_series(item: Item, blobs: Blobs, *, check: bool | None) -> Any:
    return read_frame(item, blobs, columns=None, check=check).to_series(0)


def iterate_frame(
    item: Item, blobs: Blobs, batch_rows: int, *, columns: Sequence[Any] | None, check: bool | None
) -> Iterator[Any]:
    """The DataFrame in pieces of ``batch_rows`` rows."""
    schema = _empty_frame(item).schema
    names = list(schema.names())
    positions = _select(names, columns)
    reader = ColumnReader(item, blobs, check=check)
    streams = [reader.slices(p, batch_rows) for p in positions]
    for _ in range(0, item.rows or 0, batch_rows):
        yield pl.DataFrame(
            [
                _from_arrow(names[p], next(stream), schema[names[p]])
                for p, stream in zip(positions, streams, strict=True)
            ]
        )
