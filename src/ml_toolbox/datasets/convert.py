"""From one kind to another, and from any kind to plain files; by the libraries' own conversions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import nonce
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.files import file_name, open_batches
from ml_toolbox.datasets.manifest import Item


def _module(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def to_arrow(value: Any) -> Any:
    """Any table or array as an Arrow table; an array of columns gets the names ``0``, ``1``, ..."""
    try:
        if isinstance(value, pa.Table):
            return value
        if _module(value) == "pandas":
            frame = (
                value if hasattr(value, "columns") else value.to_frame(value.name if value.name is not None else "0")
            )
            return pa.Table.from_pandas(frame)
        if _module(value) == "polars":
            return (value if hasattr(value, "columns") else value.to_frame()).to_arrow()
        array = np.asarray(value)
        matrix = array[:, None] if array.ndim == 1 else array
        if matrix.ndim != 2:
            raise Invalid(
                f"an array of {array.ndim} dimensions is not a table", hint="load it as_='numpy'", field="as_"
            )
        return pa.table(
            [pa.array(matrix[:, i]) for i in range(matrix.shape[1])], names=[str(i) for i in range(matrix.shape[1])]
        )
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise _impossible("an Arrow table", error) from error


def _impossible(what: str, error: Exception) -> Invalid:
    return Invalid(
        f"the data cannot be turned into {what}: {error}", hint="load it as the kind it was saved as", field="as_"
    )


def convert(value: Any, as_: str) -> Any:
    """The value as another kind; ``Invalid`` when there is no such form of it."""
    if as_ == _module(value) or (as_ == "arrow" and isinstance(value, pa.Table)):
        return value
    if as_ == "numpy":
        return _to_numpy(value)
    table = to_arrow(value)
    if as_ == "arrow":
        return table
    if as_ == "pandas":
        return _as_pandas(value, table)
    import polars as pl

    try:
        return pl.from_arrow(table)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise _impossible("a polars DataFrame", error) from error


def _as_pandas(value: Any, table: Any) -> Any:
    if isinstance(value, np.ndarray):
        import pandas as pd

        return pd.DataFrame(value) if value.ndim == 2 else pd.Series(value)
    return table.to_pandas()


def _to_numpy(value: Any) -> Any:
    if isinstance(value, pa.Table):
        columns = [column.to_numpy() for column in value.columns]
        return np.column_stack(columns) if columns else np.empty((value.num_rows, 0))
    return np.asarray(value.to_numpy())


# Files as tables


def file_as_arrow(item: Item, blobs: Blobs, columns: Sequence[Any] | None) -> Any:
    """A stored CSV, Parquet or JSON-lines file as one Arrow table."""
    batches = list(_file_batches(item, blobs))
    table = pa.Table.from_batches(batches[1:], batches[0])
    return table if columns is None else _selected(table, columns)


def file_as_array(item: Item, blobs: Blobs) -> Any:
    """A stored ``.npy`` file as the array in it."""
    from ml_toolbox.datasets.arrays import read_bytes

    return read_bytes(blobs.read(item.parts[0], check=True))


def _selected(table: Any, columns: Sequence[Any]) -> Any:
    for wanted in columns:
        if wanted not in table.column_names:
            raise Invalid.choice("columns", wanted, table.column_names)
    return table.select(list(columns))


def _file_batches(item: Item, blobs: Blobs) -> Iterator[Any]:
    """First the schema, then the record batches."""
    kind = item.spec.get("format")
    if item.kind != "file" or kind is None:
        name = item.spec.get("file", "a folder")
        raise Invalid(f"{name!r} is not a table file", hint="load it as_='path'", field="as_")
    if item.parts[0].size == 0:
        yield pa.schema([])
        return
    path = blobs.path(item.parts[0])
    source = str(path) if path is not None else pa.PythonFile(blobs.open(item.parts[0]), mode="r")
    # What was read as text when it was saved (see files.py) is read as text again.
    as_text = [column.name for column in item.columns if column.dtype == "string"]
    schema, batches = open_batches(source, kind, as_text=as_text)
    yield schema
    yield from batches


def iterate_file(item: Item, blobs: Blobs, batch_rows: int, columns: Sequence[Any] | None) -> Iterator[Any]:
    """A stored table file in Arrow tables of at most ``batch_rows`` rows."""
    batches = _file_batches(item, blobs)
    next(batches)
    for batch in batches:
        table = pa.Table.from_batches([batch])
        for start in range(0, table.num_rows, batch_rows):
            piece = table.slice(start, batch_rows)
            yield piece if columns is None else _selected(piece, columns)


# Plain files


def write_item(item: Item, value: Any, folder: Path) -> Path:
    """The value as one plain file below ``folder``: ``.npy`` for arrays, ``.parquet`` for tables."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, np.ndarray):
        target = folder / file_name(item, ".npy")
        write_npy(value, target)
    else:
        target = folder / file_name(item, ".parquet")
        write_parquet(to_arrow(value), target)
    return target


def _replacing(target: Path) -> Path:
    return target.with_name(f".{nonce()}.part")


def write_npy(array: Any, target: Path) -> None:
    """Refuses object arrays, which npy would pickle."""
    if array.dtype.hasobject:
        raise Invalid(
            "an array of Python objects has no npy form without pickle",
            hint="export a table as parquet",
            field="format",
        )
    temporary = _replacing(target)
    try:
        with temporary.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_parquet(table: Any, target: Path) -> None:
    _write_arrow(table, target, lambda file: pq.write_table(table, file, compression="zstd"))


def write_csv(table: Any, target: Path) -> None:
    _write_arrow(table, target, lambda file: pa.csv.write_csv(table, file))


def _write_arrow(table: Any, target: Path, write: Any) -> None:
    if len(set(table.column_names)) != len(table.column_names):
        double = next(name for name in table.column_names if table.column_names.count(name) > 1)
        raise Invalid(f"the column {double!r} occurs twice, and a file needs names that differ", field=double)
    temporary = _replacing(target)
    try:
        write(temporary)
        temporary.replace(target)
    except pa.ArrowException as error:
        raise Invalid(f"the data has no such form: {error}", hint="export it as parquet", field="format") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(table: Any, target: Path) -> None:
    """One JSON object per line; times as ISO 8601, bytes and other types without a JSON form are refused."""
    import msgspec

    temporary = _replacing(target)
    try:
        with temporary.open("xb") as file:
            for batch in table.to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    file.write(msgspec.json.encode(row) + b"\n")
        temporary.replace(target)
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid(f"the data has no JSON form: {error}", hint="export it as parquet", field="format") from error
    finally:
        temporary.unlink(missing_ok=True)
