"""pyarrow Tables and streams of record batches, and polars frames, which are Arrow inside."""

from __future__ import annotations

import base64
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml_toolbox.base.errors import Invalid
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.columns import (
    MAX_FILES,
    Chunked,
    Column,
    ColumnReader,
    chunked,
    format_of,
    parquet_options,
    read_all,
    summarise,
    write_columns,
)
from ml_toolbox.datasets.manifest import ColumnSummary, Item, Part

_BATCH_BYTES = 64 * 1024 * 1024
"""A stream is written in row groups of about this size, so that memory stays bounded at any length."""


def _schema_to_json(schema: Any) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_of(item: Item) -> Any:
    """The Arrow schema of a stored table, with its metadata and nullability."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(item.spec["schema"])))


def write_table(name: str, table: Any, blobs: Blobs) -> Item:
    """Store an Arrow table; ``Invalid`` names the column that cannot be stored."""
    fields = [table.schema.field(i) for i in range(table.num_columns)]
    columns = [Column(f"the column {field.name!r}", table.column(i)) for i, field in enumerate(fields)]
    parts = write_columns(columns, blobs)
    summaries = tuple(_summary(field, column.values) for field, column in zip(fields, columns, strict=True))
    spec = {"schema": _schema_to_json(table.schema)}
    return Item(name=name, kind="arrow", rows=table.num_rows, parts=parts, spec=spec, columns=summaries)


def _summary(field: Any, values: Chunked) -> ColumnSummary:
    try:
        return summarise(field.name, str(field.type), values)
    except (pa.ArrowException, NotImplementedError):
        return ColumnSummary(name=field.name, dtype=str(field.type), nulls=values.null_count)


def write_stream(name: str, reader: Any, blobs: Blobs) -> Item:
    """Store a ``RecordBatchReader`` that may be larger than memory: one growing file per column, then all of them put."""
    schema = reader.schema
    if len(schema) > MAX_FILES or any(format_of(field.type) != "parquet" for field in schema):
        return write_table(name, reader.read_all(), blobs)
    with tempfile.TemporaryDirectory(prefix="mlt-dataset-") as folder, contextlib.ExitStack() as files:
        writers: list[Any] = []
        rows = 0
        for table in _grouped(reader):
            columns = [pa.table([chunked(table.column(i)).combine_chunks()], names=["0"]) for i in range(len(schema))]
            if not writers:
                writers = [
                    files.enter_context(
                        pq.ParquetWriter(Path(folder, str(i)), column.schema, **_writer_options(column))
                    )
                    for i, column in enumerate(columns)
                ]
            for writer, column in zip(writers, columns, strict=True):
                writer.write_table(column)
            rows += table.num_rows
        if not writers:
            return write_table(name, schema.empty_table(), blobs)
        files.close()
        parts = tuple(_put_column(Path(folder, str(i)), rows, blobs) for i in range(len(schema)))
    summaries = tuple(ColumnSummary(name=field.name, dtype=str(field.type)) for field in schema)
    spec = {"schema": _schema_to_json(schema)}
    return Item(name=name, kind="arrow", rows=rows, parts=parts, spec=spec, columns=summaries)


def _writer_options(column: Any) -> dict[str, Any]:
    return {key: value for key, value in parquet_options(column).items() if key != "row_group_size"}


def _grouped(reader: Any) -> Iterator[Any]:
    waiting: list[Any] = []
    size = 0
    for batch in reader:
        waiting.append(batch)
        size += batch.nbytes
        if size >= _BATCH_BYTES:
            yield pa.Table.from_batches(waiting, reader.schema)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, reader.schema)


def _put_column(path: Path, rows: int, blobs: Blobs) -> Part:
    sha256, size = blobs.put_file(path)
    return Part(sha256=sha256, size=size, format="parquet", rows=rows)


def _select(names: Sequence[str], columns: Sequence[Any] | None) -> list[int]:
    if columns is None:
        return list(range(len(names)))
    positions: list[int] = []
    for wanted in columns:
        found = [i for i, name in enumerate(names) if name == wanted]
        if not found:
            raise Invalid.choice("columns", wanted, names)
        positions.extend(found)
    return positions


def _part_of(schema: Any, positions: list[int]) -> Any:
    if positions == list(range(len(schema))):
        return schema
    return pa.schema([schema.field(p) for p in positions], metadata=schema.metadata)


def read_table(item: Item, blobs: Blobs, *, columns: Sequence[Any] | None, check: bool | None) -> Any:
    """The Arrow table as it was saved (its chunks may differ), or only some of its columns."""
    schema = schema_of(item)
    positions = _select(schema.names, columns)
    arrays = read_all(ColumnReader(item, blobs, check=check), positions)
    if not positions:
        return _no_columns(item.rows or 0, schema)
    return pa.Table.from_arrays([arrays[p] for p in positions], schema=_part_of(schema, positions))


def _no_columns(rows: int, schema: Any) -> Any:
    """Arrow keeps a row count without columns only through a struct."""
    table = pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))])
    return table.replace_schema_metadata(schema.metadata)


def iterate_table(
    item: Item, blobs: Blobs, batch_rows: int, *, columns: Sequence[Any] | None, check: bool | None
) -> Iterator[Any]:
    """The table in pieces of ``batch_rows`` rows."""
    schema = schema_of(item)
    positions = _select(schema.names, columns)
    reader = ColumnReader(item, blobs, check=check)
    streams = [reader.slices(p, batch_rows) for p in positions]
    for _ in range(0, item.rows or 0, batch_rows):
        yield pa.Table.from_arrays([next(stream) for stream in streams], schema=_part_of(schema, positions))
