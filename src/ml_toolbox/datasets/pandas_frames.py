"""pandas DataFrames and Series: every column by position, so that odd, duplicate and non-text labels do no harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from ml_toolbox.base.errors import Invalid
from ml_toolbox.datasets import cells
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.cells import NotExact
from ml_toolbox.datasets.columns import Chunked, Column, ColumnReader, read_all, summarise, write_columns
from ml_toolbox.datasets.manifest import ColumnSummary, Item
from ml_toolbox.datasets.pandas_values import (
    Get,
    Spec,
    decode_index,
    decode_values,
    encode_index,
    encode_values,
    string_dtype_from_json,
    string_dtype_to_json,
)


class _Collector:
    """Gathers the arrays of one frame and numbers them."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.label = ""

    def values(self, data: Any) -> Spec:
        """The recipe of one column, proven on no rows to bring back the same dtype."""
        spec = encode_values(data, self.add)
        back = decode_values(spec, self._no_rows)
        if back.dtype != data.dtype:
            raise NotExact(f"its dtype {data.dtype!r} would come back as {back.dtype!r}")
        return spec

    def _no_rows(self, ref: dict[str, int]) -> Chunked:
        return self.columns[ref["rows"]].values.slice(0, 0) if "rows" in ref else self.columns[ref["whole"]].values

    def add(self, values: Any, rows: bool) -> dict[str, int]:
        self.columns.append(
            Column(self.label, values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values]))
        )
        return {"rows" if rows else "whole": len(self.columns) - 1}


def write_frame(name: str, frame: Any, blobs: Blobs) -> Item:
    """Store a DataFrame; ``Invalid`` names the column that cannot be kept exactly."""
    _check_type(frame, pd.DataFrame)
    collector = _Collector()
    specs, summaries = [], []
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        label = frame.columns[position]
        specs.append(_encode(collector, f"the column {label!r}", lambda column=column: collector.values(column)))
        summaries.append(_summary(str(label), column))
    spec: Spec = {
        "values": specs,
        "index": _encode(collector, "the index", lambda: encode_index(frame.index, collector.add, rows=True)),
        "labels": _encode(collector, "the column labels", lambda: _encode_labels(frame.columns, collector)),
        "attrs": _encode(collector, "DataFrame.attrs", lambda: cells.label_to_json(frame.attrs)),
        "unique_labels": not frame.flags.allows_duplicate_labels,
    }
    parts = write_columns(collector.columns, blobs)
    return Item(name=name, kind="pandas", rows=len(frame), parts=parts, spec=spec, columns=tuple(summaries))


def write_series(name: str, series: Any, blobs: Blobs) -> Item:
    """Store a Series; ``Invalid`` when it cannot be kept exactly."""
    _check_type(series, pd.Series)
    collector = _Collector()
    spec: Spec = {
        "values": [_encode(collector, f"the series {series.name!r}", lambda: collector.values(series))],
        "index": _encode(collector, "the index", lambda: encode_index(series.index, collector.add, rows=True)),
        "name": _encode(collector, "the name", lambda: cells.label_to_json(series.name)),
        "attrs": _encode(collector, "Series.attrs", lambda: cells.label_to_json(series.attrs)),
    }
    parts = write_columns(collector.columns, blobs)
    summary = (_summary(str(series.name), series),)
    return Item(name=name, kind="series", rows=len(series), parts=parts, spec=spec, columns=summary)


def _check_type(value: Any, expected: type) -> None:
    if type(value) is not expected:
        raise Invalid(
            f"a {type(value).__name__} would come back as a {expected.__name__}",
            hint=f"convert it: pandas.{expected.__name__}(data)",
            field="data",
        )


def _encode(collector: _Collector, label: str, encode: Any) -> Any:
    collector.label = label
    try:
        return encode()
    except (NotExact, pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError) as error:
        raise Invalid(
            f"{label} cannot be kept exactly: {error}",
            hint="convert it to a plain dtype (astype), or leave it out",
            field=label,
        ) from error


def _encode_labels(labels: Any, collector: _Collector) -> Spec:
    """Plain text labels stay readable in the manifest; all others are stored like an index."""
    text = labels.dtype == object or isinstance(labels.dtype, pd.StringDtype)
    if type(labels) is pd.Index and text and all(type(label) is str for label in labels):
        dtype = "object" if labels.dtype == object else string_dtype_to_json(labels.dtype)
        names = [cells.label_to_json(label) for label in labels]
        return {"type": "text", "labels": names, "dtype": dtype, "name": cells.label_to_json(labels.name)}
    return encode_index(labels, collector.add, rows=False)


def _decode_labels(spec: Spec, get: Get) -> Any:
    if spec["type"] != "text":
        return decode_index(spec, get)
    dtype: Any = object if spec["dtype"] == "object" else string_dtype_from_json(spec["dtype"])
    return pd.Index(spec["labels"], dtype=dtype, name=cells.label_from_json(spec["name"]))


def _summary(name: str, column: Any) -> ColumnSummary:
    nulls = int(column.isna().sum())
    dtype = str(column.dtype)
    if dtype == "object" or not len(column):
        return ColumnSummary(name=name, dtype=dtype, nulls=nulls)
    try:
        counted = summarise(name, dtype, pa.chunked_array([pa.array(column)]) if dtype != "category" else _no_values())
    except (pa.ArrowException, TypeError, ValueError):
        return ColumnSummary(name=name, dtype=dtype, nulls=nulls)  # a type without an order
    return ColumnSummary(name=name, dtype=dtype, nulls=nulls, minimum=counted.minimum, maximum=counted.maximum)


def _no_values() -> Chunked:
    return pa.chunked_array([pa.array([], pa.null())])


# Reading


def column_labels(item: Item, reader: ColumnReader) -> Any:
    """The labels of the stored frame, as the pandas index they were."""
    return _decode_labels(item.spec["labels"], lambda ref: reader(next(iter(ref.values()))))


def _select(labels: Any, columns: Sequence[Any] | None) -> list[int]:
    """Positions of the wanted columns, in the order asked for; a duplicate label selects all its columns."""
    if columns is None:
        return list(range(len(labels)))
    positions: list[int] = []
    for wanted in columns:
        found = [i for i, label in enumerate(labels) if type(label) is type(wanted) and label == wanted]
        if not found:
            raise Invalid.choice("columns", wanted, [str(label) for label in labels])
        positions.extend(found)
    return positions


def read_frame(item: Item, blobs: Blobs, *, columns: Sequence[Any] | None, check: bool | None) -> Any:
    """The DataFrame as it was saved, or only some of its columns."""
    reader = ColumnReader(item, blobs, check=check)
    labels = column_labels(item, reader)
    positions = _select(labels, columns)
    arrays = read_all(reader, sorted(_references([item.spec["values"][p] for p in positions], item.spec["index"])))
    return _assemble(item, labels, positions, lambda ref: arrays[next(iter(ref.values()))])


def iterate_frame(
    item: Item, blobs: Blobs, batch_rows: int, *, columns: Sequence[Any] | None, check: bool | None
) -> Iterator[Any]:
    """The DataFrame in pieces of ``batch_rows`` rows, each with its part of the index."""
    reader = ColumnReader(item, blobs, check=check)
    labels = column_labels(item, reader)
    positions = _select(labels, columns)
    specs = [item.spec["values"][p] for p in positions]
    for start, get in iterate_arrays(item, reader, [*specs, item.spec["index"]], batch_rows):
        yield _assemble(item, labels, positions, get, start=start, rows=min(batch_rows, (item.rows or 0) - start))


def iterate_arrays(item: Item, reader: ColumnReader, specs: Any, batch_rows: int) -> Iterator[tuple[int, Get]]:
    """For each batch its first row and a getter that answers ``rows`` references with just that batch's values."""
    row_numbers = sorted(_references(specs, only="rows"))
    whole = {number: reader(number) for number in sorted(_references(specs, only="whole"))}
    streams = {number: reader.slices(number, batch_rows) for number in row_numbers}
    for start in range(0, item.rows or 0, batch_rows):
        batch = {number: next(stream) for number, stream in streams.items()}

        def get(ref: dict[str, int], batch: dict[int, Chunked] = batch) -> Chunked:
            return batch[ref["rows"]] if "rows" in ref else whole[ref["whole"]]

        yield start, get


def _references(*specs: Any, only: str | None = None) -> set[int]:
    """The numbers of all arrays that the recipes refer to."""
    found: set[int] = set()
    for spec in specs:
        if isinstance(spec, list):
            found |= _references(*spec, only=only)
        elif isinstance(spec, dict):
            if len(spec) == 1 and next(iter(spec)) in ("rows", "whole"):
                kind, number = next(iter(spec.items()))
                found |= {number} if only in (None, kind) else set()
            else:
                found |= _references(*spec.values(), only=only)
    return found


def _assemble(
    item: Item, labels: Any, positions: list[int], get: Get, *, start: int = 0, rows: int | None = None
) -> Any:
    index = _index_rows(item.spec["index"], get, start, rows)
    arrays = [decode_values(item.spec["values"][p], get) for p in positions]
    # Series of a stated dtype, because a frame made of object arrays would guess other types for them.
    columns = {i: pd.Series(array, dtype=array.dtype, copy=False) for i, array in enumerate(arrays)}
    frame = pd.DataFrame(columns, copy=False) if columns else pd.DataFrame(index=index)
    frame.index = index
    frame.columns = (
        labels if len(positions) == len(labels) and positions == list(range(len(labels))) else labels[positions]
    )
    frame.attrs = cells.label_from_json(item.spec["attrs"])
    return frame.set_flags(allows_duplicate_labels=False) if item.spec["unique_labels"] else frame


def _index_rows(spec: Spec, get: Get, start: int, rows: int | None) -> Any:
    if rows is None or spec["type"] != "range":
        # A slice of a regular index need not be regular by itself: the frequency belongs to the whole.
        return decode_index(spec if rows is None else {**spec, "freq": None}, get)
    return decode_index(spec, get)[start : start + rows]


def read_series(item: Item, blobs: Blobs, *, check: bool | None) -> Any:
    reader = ColumnReader(item, blobs, check=check)
    arrays = read_all(reader, sorted(_references(item.spec["values"], item.spec["index"])))
    return _assemble_series(item, lambda ref: arrays[next(iter(ref.values()))])


def iterate_series(item: Item, blobs: Blobs, batch_rows: int, *, check: bool | None) -> Iterator[Any]:
    reader = ColumnReader(item, blobs, check=check)
    for start, get in iterate_arrays(item, reader, [item.spec["values"], item.spec["index"]], batch_rows):
        yield _assemble_series(item, get, start=start, rows=min(batch_rows, (item.rows or 0) - start))


def _assemble_series(item: Item, get: Get, *, start: int = 0, rows: int | None = None) -> Any:
    values = decode_values(item.spec["values"][0], get)
    index = _index_rows(item.spec["index"], get, start, rows)
    series = pd.Series(values, index=index, dtype=values.dtype, copy=False)
    series.name = cells.label_from_json(item.spec["name"])
    series.attrs = cells.label_from_json(item.spec["attrs"])
    return series
