"""Arrow columns as column files: one file per column (up to 256 files), so that an unchanged column is stored once.

Parquet where it brings the type back exactly, else Arrow's own IPC format (dictionaries, seconds, intervals, unions). The
field inside a file has no name: the same values under another name or in another table are the same file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_toolbox.base.errors import Conflict, Invalid
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.manifest import ColumnSummary, Item, Part

Chunked: TypeAlias = Any  # pyarrow ships no types

MAX_FILES = 256
"""Column files per table; wider tables put neighbouring columns together, so that a save is not thousands of fsyncs."""

THREADS = 4
"""Threads that encode, hash and store column files. More than cores, because each of them also waits for fsync."""

_SAMPLE = 4096
_ROW_GROUP = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Column:
    """One array on its way into a file; ``label`` names it in errors."""

    label: str
    values: Chunked


def chunked(values: Any) -> Chunked:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values], type=values.type)


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Neighbours of equal length and format together, ``MAX_FILES`` groups at most when all are equally long."""
    per_file = max(1, math.ceil(len(columns) / MAX_FILES))
    groups: list[list[Column]] = []
    for column in columns:
        last = groups[-1] if groups else []
        if (
            last
            and len(last) < per_file
            and len(last[0].values) == len(column.values)
            and format_of(last[0].values.type) == format_of(column.values.type)
        ):
            last.append(column)
        else:
            groups.append([column])
    return groups


def write_columns(columns: Sequence[Column], blobs: Blobs) -> tuple[Part, ...]:
    """Store the columns; the n-th column is the n-th over all parts, in order. ``Invalid`` names the column at fault."""
    groups = _groups(columns)
    if len(groups) <= 1:
        return tuple(_write_group(group, blobs) for group in groups)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dataset-column") as pool:
        return tuple(pool.map(lambda group: _write_group(group, blobs), groups))


def _write_group(group: list[Column], blobs: Blobs) -> Part:
    table = pa.table([_whole(column.values) for column in group], names=[str(i) for i in range(len(group))])
    kind = format_of(group[0].values.type)
    out = pa.BufferOutputStream()
    try:
        if kind == "parquet":
            pq.write_table(table, out, **parquet_options(table))
        else:
            options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
            with pa.ipc.new_file(out, table.schema, options=options) as writer:
                writer.write_table(table)
    except (pa.ArrowException, OSError) as error:
        labels = ", ".join(column.label for column in group)
        raise Invalid(
            f"{labels} cannot be stored: {error}", hint="cast it to another type first", field=group[0].label
        ) from error
    sha256, size = blobs.put_bytes(out.getvalue())
    return Part(sha256=sha256, size=size, format=kind, columns=len(group), rows=table.num_rows)


def _whole(values: Chunked) -> Chunked:
    """One chunk where that is possible: page boundaries, and so hashes, do not depend on how the data arrived."""
    if values.num_chunks <= 1 or values.nbytes > 2**31 - 2**20:
        return values
    try:
        return chunked(pa.concat_arrays(values.chunks))
    except pa.ArrowException:
        return values  # dictionaries that differ between chunks; the writer unifies them


def format_of(kind: Any) -> Any:
    """``"parquet"`` when a Parquet file brings exactly this Arrow type back, else ``"arrow"``."""
    if _has(kind, pa.types.is_dictionary):
        return "arrow"  # Parquet forgets unused values and the order of the dictionary
    try:
        out = pa.BufferOutputStream()
        pq.write_table(pa.table([pa.array([], type=kind)], names=["0"]), out)
        same = pq.read_schema(pa.BufferReader(out.getvalue())).field(0).type.equals(kind, check_metadata=True)
    except (pa.ArrowException, NotImplementedError):
        return "arrow"
    return "parquet" if same else "arrow"


def _has(kind: Any, test: Any) -> bool:
    if test(kind):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return _has(kind.storage_type, test)
    return any(_has(kind.field(i).type, test) for i in range(kind.num_fields))


def parquet_options(table: Any) -> dict[str, Any]:
    """Encodings per column (figures: docs/benchmarks/datasets.md).

    Numbers: byte-stream-split without dictionary, which with zstd is both smaller and faster than the default, and keeps
    every bit of NaN and -0.0 (a dictionary may merge them). Text: a dictionary only when a sample repeats itself.
    """
    split = [name for name in table.column_names if _is_fixed(table.schema.field(name).type)]
    repeated = [name for name in table.column_names if _is_repeated(table.column(name))]
    return {
        "compression": "zstd",
        "use_dictionary": repeated,
        "use_byte_stream_split": split,
        "row_group_size": _ROW_GROUP,
        "version": "2.6",
        "store_schema": True,
        "write_statistics": False,  # the manifest has them, and nothing selects rows by them
    }


def _is_fixed(kind: Any) -> bool:
    test = pa.types
    return bool(
        (test.is_integer(kind) or test.is_floating(kind) or test.is_temporal(kind)) and not test.is_interval(kind)
    )


def _is_repeated(values: Chunked) -> bool:
    kind = values.type
    test = pa.types
    if not (test.is_string(kind) or test.is_large_string(kind) or test.is_binary(kind) or test.is_large_binary(kind)):
        return False
    step = max(1, len(values) // _SAMPLE)
    sample = values.take(pa.array(range(0, len(values), step), pa.int64()))
    return bool(len(sample.unique()) * 2 <= len(sample))


# Reading


class ColumnReader:
    """The columns of one item, by number, each read when asked for."""

    def __init__(self, item: Item, blobs: Blobs, *, check: bool | None) -> None:
        self._blobs, self._check = blobs, check
        self._places = [(part, i) for part in item.parts for i in range(part.columns)]
        self._name = item.name

    def __call__(self, number: int) -> Chunked:
        part, place = self._place(number)
        try:
            source = self._source(part)
            if part.format == "parquet":
                return pq.ParquetFile(source).read(columns=[str(place)], use_threads=False).column(0)
            return pa.ipc.open_file(source).read_all().column(place)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(number, error) from error

    def slices(self, number: int, rows: int) -> Iterator[Chunked]:
        """The column in pieces of exactly ``rows`` values (the last may be shorter), memory bounded."""
        waiting: list[Any] = []
        count = 0
        for array in self._arrays(number, rows):
            at = 0
            while count + len(array) - at >= rows:
                piece = array.slice(at, rows - count)
                at += len(piece)
                yield pa.chunked_array([*waiting, piece])
                waiting, count = [], 0
            if at < len(array):
                waiting.append(array.slice(at))
                count += len(array) - at
        if waiting:
            yield pa.chunked_array(waiting)

    def _arrays(self, number: int, rows: int) -> Iterator[Any]:
        part, place = self._place(number)
        try:
            source = self._source(part, whole=False)
            if part.format == "parquet":
                for batch in pq.ParquetFile(source).iter_batches(rows, columns=[str(place)], use_threads=False):
                    yield batch.column(0)
            else:
                reader = pa.ipc.open_file(source)
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i).column(place)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(number, error) from error

    def _place(self, number: int) -> tuple[Part, int]:
        if not 0 <= number < len(self._places):
            raise Conflict(f"the manifest of {self._name!r} names a column {number} that it does not have")
        return self._places[number]

    def _source(self, part: Part, *, whole: bool = True) -> Any:
        """Mapped when local; else in memory with its hash checked, or (``whole=False``) read by ranges."""
        path = self._blobs.path(part)
        if path is not None and not self._check:
            return pa.memory_map(str(path))
        if whole or self._check:
            return pa.BufferReader(self._blobs.read(part, check=self._check is not False))
        return pa.PythonFile(self._blobs.open(part), mode="r")

    def _unreadable(self, number: int, error: Exception) -> Conflict:
        return Conflict(
            f"column file {number} of {self._name!r} cannot be read: {error}",
            hint="`mltoolbox data verify` shows whether it was changed after it was saved",
            field=self._name,
        )


def read_all(reader: ColumnReader, numbers: Sequence[int]) -> dict[int, Chunked]:
    """Many columns at once, in threads."""
    if len(numbers) <= 1:
        return {number: reader(number) for number in numbers}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dataset-column") as pool:
        return dict(zip(numbers, pool.map(reader, numbers), strict=True))


# Summaries

_COUNTABLE = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_temporal, pa.types.is_string,
              pa.types.is_large_string)  # fmt: skip


def summarise(name: str, dtype: str, values: Chunked) -> ColumnSummary:
    """Nulls, least and greatest of one column, as far as its type has an order."""
    extremes = Extremes(values.type)
    extremes.add(values)
    return extremes.summary(name, dtype)


class Extremes:
    """Nulls, least and greatest, batch by batch."""

    def __init__(self, kind: Any) -> None:
        self.type = kind
        self._ordered = any(test(kind) for test in _COUNTABLE) and not _is_span(kind)
        self._nulls = 0
        self._low: Any = pa.scalar(None, kind) if self._ordered else None
        self._high: Any = self._low

    def add(self, values: Chunked) -> None:
        self._nulls += values.null_count
        if self._ordered:
            found = pc.min_max(values)
            self._low = pc.min_element_wise(self._low, found["min"])
            self._high = pc.max_element_wise(self._high, found["max"])

    def summary(self, name: str, dtype: str) -> ColumnSummary:
        low, high = (_plain(self._low), _plain(self._high)) if self._ordered else (None, None)
        return ColumnSummary(name=name, dtype=dtype, nulls=self._nulls, minimum=low, maximum=high)


def _is_span(kind: Any) -> bool:
    """Intervals have no order, durations no cast to text."""
    return bool(pa.types.is_interval(kind) or pa.types.is_duration(kind))


def _plain(scalar: Any) -> str | int | float | None:
    value = scalar.cast(pa.string()).as_py() if pa.types.is_temporal(scalar.type) else scalar.as_py()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool | str):
        text = str(value)
        return text if len(text) <= 64 else text[:61] + "..."
    if isinstance(value, int) and abs(value) > 2**53:
        return str(value)  # JSON readers other than Python's lose digits here
    number: int | float = value
    return number
