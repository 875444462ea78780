"""The user's own files: kept byte for byte, with the schema and the row count read from them on the way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ml_toolbox.base.errors import Conflict, Invalid, MissingExtra, NotFound
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.manifest import ColumnSummary, Item, Part

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
}
_THREADS = 8
_BLOCK = 16 * 1024 * 1024


def format_of_file(name: str) -> str | None:
    """``csv``, ``tsv``, ``parquet``, ``jsonl`` or ``npy`` by the name's ending; ``None`` for every other file."""
    return _FORMATS.get(PurePosixPath(name.lower()).suffix)


def write_path(name: str, path: Path, blobs: Blobs) -> Item:
    """Store a file or a folder of files; ``NotFound`` when there is none, ``Invalid`` for what cannot be kept."""
    if path.is_dir():
        return _write_folder(name, path, blobs)
    if not path.exists():
        raise NotFound(f"there is no file or folder {str(path)!r}", hint="check the path", resource=str(path))
    if not path.is_file():
        raise Invalid(f"{str(path)!r} is neither a file nor a folder", field="data", resource=str(path))
    _check_file_name(path.name)
    kind = format_of_file(path.name)
    columns, rows = read_schema(path, kind) if kind else ((), None)
    sha256, size = blobs.put_file(path)
    part = Part(sha256=sha256, size=size, format="raw", rows=rows or 0)
    spec: dict[str, Any] = {"file": path.name, "format": kind}
    return Item(name=name, kind="file", rows=rows, parts=(part,), spec=spec, columns=columns)


def _check_file_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"the file name {name!r} is not valid UTF-8", hint="rename it", field="data") from error


def _write_folder(name: str, folder: Path, blobs: Blobs) -> Item:
    files, empty = _walk(folder)
    blobs.announce(folder / path for path in files)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dataset-file") as pool:
        stored = list(pool.map(lambda path: blobs.put_file(folder / path, announced=True), files))
    parts = tuple(Part(sha256=sha256, size=size, format="raw") for sha256, size in stored)
    spec = {"paths": files, "empty_folders": empty}
    return Item(name=name, kind="folder", rows=None, parts=parts, spec=spec)


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """All files below the folder and all folders without any, sorted, ``/``-separated. A link must point inside."""
    root = folder.resolve()
    files: list[str] = []
    empty: list[str] = []
    for current, folders, names in os.walk(folder):
        here = Path(current)
        for link in [entry for entry in folders if (here / entry).is_symlink()]:
            raise Invalid(
                f"{str(here / link)!r} is a link to a folder",
                hint="copy the folder there, or remove the link",
                field="data",
            )
        relative = here.relative_to(folder).as_posix()
        if not folders and not names and relative != ".":
            empty.append(relative)
        for entry in names:
            path = here / entry
            _check_file_name(str(path))
            target = path.resolve()
            if not target.is_relative_to(root) or not target.exists() or not stat.S_ISREG(target.stat().st_mode):
                raise Invalid(
                    f"{str(path)!r} is not a file of this folder (a link to elsewhere, or a special file)",
                    hint="copy the file there, or remove it",
                    field="data",
                )
            files.append(path.relative_to(folder).as_posix())
    return sorted(files), sorted(empty)


def file_name(item: Item, ending: str = "") -> str:
    """A legal and visible file name for any item name, the same for the same name and never one that leads elsewhere."""
    text = quote(item.name, safe=" ") or "data"
    return f"%2E{text[1:]}{ending}" if text.startswith(".") else f"{text}{ending}"


def safe_target(folder: Path, name: str) -> Path:
    """Where a stored file goes below ``folder``; ``Conflict`` for a manifest whose names would lead out of it."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or any(part in ("..", ".") for part in pure.parts) or "\0" in name:
        raise Conflict(
            f"the manifest names a file {name!r} outside its folder",
            hint="do not use this dataset: it was tampered with",
        )
    target = folder.joinpath(*pure.parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise Conflict(f"{name!r} would be written through a link out of {str(folder)!r}", hint="use an empty folder")
    return target


def restore_path(item: Item, blobs: Blobs, folder: Path) -> Path:
    """Write the file, or the folder's files, below ``folder`` under their own names; every hash is checked. Returns the
    file, or ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if item.kind == "file":
        target = safe_target(folder, item.spec["file"])
        blobs.copy_to(item.parts[0], target)
        return target
    for name in item.spec["empty_folders"]:
        safe_target(folder, name).mkdir(parents=True, exist_ok=True)
    pairs = list(zip(item.parts, [safe_target(folder, name) for name in item.spec["paths"]], strict=True))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dataset-file") as pool:
        for _ in pool.map(lambda pair: blobs.copy_to(*pair), pairs):
            continue
    return folder


# Schemas


def read_schema(path: Path, kind: str) -> tuple[tuple[ColumnSummary, ...], int]:
    """Columns (with nulls, least and greatest) and rows of a table file, memory bounded; ``Invalid`` when it is none."""
    if kind == "npy":
        return _read_npy_schema(path)
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtra.named("pyarrow", "data", "reading the schema of a table file") from error
    if kind != "parquet" and path.stat().st_size == 0:
        return (), 0
    try:
        return _summarise_batches(path, kind)
    except (pa.ArrowException, OSError) as error:
        raise Invalid(
            f"{str(path)!r} cannot be read as {kind}: {str(error).splitlines()[0]}",
            hint="repair the file, or rename it to .txt to store it as plain bytes",
            field="data",
            resource=str(path),
        ) from error


def _read_npy_schema(path: Path) -> tuple[tuple[ColumnSummary, ...], int]:
    from ml_toolbox.datasets.arrays import map_file

    try:
        array = map_file(path)
    except (ValueError, LookupError, SyntaxError, EOFError) as error:
        raise Invalid(
            f"{str(path)!r} cannot be read as npy: {error}",
            hint="arrays of Python objects are pickled by NumPy and never loaded; save the array itself with `put`",
            field="data",
            resource=str(path),
        ) from error
    shape = " x ".join(str(length) for length in array.shape)
    return (ColumnSummary(name=shape or "scalar", dtype=str(array.dtype)),), len(array) if array.ndim else 1


def _summarise_batches(path: Path, kind: str) -> tuple[tuple[ColumnSummary, ...], int]:
    import pyarrow as pa

    from ml_toolbox.datasets.columns import Extremes

    rows = 0
    found: list[Extremes] = []
    schema, batches = open_batches(path, kind)
    try:
        for batch in batches:
            rows += batch.num_rows
            found = found or [Extremes(column.type) for column in batch.columns]
            for extremes, column in zip(found, batch.columns, strict=True):
                extremes.add(pa.chunked_array([column]))
    except pa.ArrowInvalid:
        if kind not in ("csv", "tsv"):
            raise
        return _summarise_as_text(path, kind, schema)
    found = found or [Extremes(field.type) for field in schema]
    return tuple(e.summary(field.name, str(e.type)) for e, field in zip(found, schema, strict=True)), rows


def _summarise_as_text(path: Path, kind: str, schema: Any) -> tuple[tuple[ColumnSummary, ...], int]:
    """Types are inferred from the first block of the file; a later one contradicted them, so all columns are text."""
    rows = sum(batch.num_rows for batch in open_batches(path, kind, as_text=schema.names)[1])
    return tuple(ColumnSummary(name=name, dtype="string") for name in schema.names), rows


def open_batches(source: Any, kind: str, *, as_text: Iterable[str] = ()) -> tuple[Any, Iterable[Any]]:
    """(Arrow schema, record batches) of a table file: a path, or a readable Arrow file."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet as pq

    reader: Any
    if kind == "parquet":
        file = pq.ParquetFile(source)
        return file.schema_arrow, file.iter_batches()
    if kind == "jsonl":
        reader = pyarrow.json.open_json(source, read_options=pyarrow.json.ReadOptions(block_size=_BLOCK))
        return reader.schema, reader
    reader = pyarrow.csv.open_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK),
        # Quoted fields may hold line breaks: RFC 4180, and what pandas writes.
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(as_text, pa.string())),
    )
    return reader.schema, reader
