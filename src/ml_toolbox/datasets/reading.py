"""From a manifest back to data: the kind that was saved, or another one on request; whole or in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ml_toolbox.base.errors import Invalid, MissingExtra, NotFound
from ml_toolbox.datasets.blobs import Blobs
from ml_toolbox.datasets.files import file_name
from ml_toolbox.datasets.manifest import MANIFEST_NAME, DatasetManifest, Item
from ml_toolbox.datasets.writing import _under
from ml_toolbox.ports.objects import ObjectStore

As: TypeAlias = Literal["numpy", "pandas", "polars", "arrow", "path"]


def read_manifest(store: ObjectStore, key_prefix: str = "") -> DatasetManifest:
    """The manifest of the dataset under the prefix; ``NotFound`` when there is none."""
    key = _under(key_prefix, MANIFEST_NAME)
    try:
        return DatasetManifest.from_json(store.get(key).data)
    except NotFound as error:
        raise NotFound(
            f"there is no dataset at {store.uri}/{key_prefix}".rstrip("/"),
            hint=f"a dataset has a {MANIFEST_NAME} there; was it saved with save_dataset or `mltoolbox data put`?",
            resource=f"{store.uri}/{key}",
        ) from error


def load(
    store: ObjectStore,
    key_prefix: str = "",
    *,
    columns: Sequence[Any] | None = None,
    mmap: bool = True,
    as_: As | None = None,
    check: bool | None = None,
    into: Path | None = None,
) -> Any:
    """The dataset under the prefix, as the kind that was saved, or ``as_`` another.

    Args:
        columns: only these columns of a table, in this order.
        mmap: map arrays of a local store instead of reading them. The map is copy-on-write: the array can be changed, the
            stored data cannot.
        check: compare each part's sha256. ``None``: yes where the bytes travel (every store but a local one), no on a
            local one, where hashing costs several times the load; sizes are always compared.
        into: where files and folders are written (they come back as a path); ``None``: a new temporary folder, which is
            the caller's to remove.

    Raises ``NotFound`` when there is no dataset or a part of it is missing, ``Conflict`` when a part was changed.
    """
    manifest = read_manifest(store, key_prefix)
    blobs = Blobs(store, _under(key_prefix, "blobs"))
    return read(manifest, blobs, columns=columns, mmap=mmap, as_=as_, check=check, into=into)


def read(
    manifest: DatasetManifest,
    blobs: Blobs,
    *,
    columns: Sequence[Any] | None = None,
    mmap: bool = True,
    as_: As | None = None,
    check: bool | None = None,
    into: Path | None = None,
) -> Any:
    """:func:`load` for a manifest that is at hand."""
    if as_ is not None and as_ not in get_args(As):
        raise Invalid.choice("as_", as_, get_args(As))
    if columns is not None and manifest.layout != "single":
        raise _no_columns(f"a {manifest.layout} of {len(manifest.items)} items")
    many = manifest.layout != "single"
    values = []
    for item in manifest.items:
        folder = into / file_name(item) if into is not None and many else into
        values.append(_read_item(item, blobs, columns=columns, mmap=mmap, as_=as_, check=check, into=folder))
    if manifest.layout == "tuple":
        return tuple(values)
    if manifest.layout == "dict":
        return {item.name: value for item, value in zip(manifest.items, values, strict=True)}
    return values[0]


def _no_columns(what: str) -> Invalid:
    return Invalid(f"columns= selects columns of one table; this is {what}", hint="load it whole", field="columns")


def _read_item(
    item: Item,
    blobs: Blobs,
    *,
    columns: Sequence[Any] | None,
    mmap: bool,
    as_: As | None,
    check: bool | None,
    into: Path | None,
) -> Any:
    try:
        if item.kind in ("file", "folder"):
            return _read_file(item, blobs, columns=columns, as_=as_, into=into)
        value = _read_value(item, blobs, columns=columns, mmap=mmap, check=check)
        if as_ is None:
            return value
        from ml_toolbox.datasets.convert import convert, write_item

        return write_item(item, value, into or _temporary()) if as_ == "path" else convert(value, as_)
    except ModuleNotFoundError as error:
        raise missing_library(error) from error


def missing_library(error: ModuleNotFoundError) -> Exception:
    """A library that the stored kind needs and that is not installed; every other import error as it is."""
    if error.name in ("numpy", "pyarrow"):
        return MissingExtra.named(error.name, "data", "loading a dataset")
    if error.name in ("pandas", "polars"):
        missing = MissingExtra(
            f"this dataset was saved from {error.name}, which is not installed",
            hint=f"pip install {error.name}, or load it as_='arrow' where it was saved from another kind",
        )
        return missing
    return error


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="mlt-dataset-"))


def _read_file(item: Item, blobs: Blobs, *, columns: Sequence[Any] | None, as_: As | None, into: Path | None) -> Any:
    from ml_toolbox.datasets.files import restore_path

    if as_ in (None, "path"):
        if columns is not None:
            raise _no_columns("a file or folder that is loaded as it is")
        return restore_path(item, blobs, into or _temporary())
    from ml_toolbox.datasets.convert import convert, file_as_array, file_as_arrow

    if item.spec.get("format") == "npy":
        return convert(file_as_array(item, blobs), as_)
    return convert(file_as_arrow(item, blobs, columns), as_)


def _read_value(item: Item, blobs: Blobs, *, columns: Sequence[Any] | None, mmap: bool, check: bool | None) -> Any:
    if item.kind in ("numpy", "series", "polars-series") and columns is not None:
        raise _no_columns("an array" if item.kind == "numpy" else "a series")
    if item.kind == "numpy":
        from ml_toolbox.datasets.arrays import read_array

        return read_array(item, blobs, mmap=mmap, check=check)
    if item.kind in ("pandas", "series"):
        from ml_toolbox.datasets import pandas_frames

        if item.kind == "series":
            return pandas_frames.read_series(item, blobs, check=check)
        return pandas_frames.read_frame(item, blobs, columns=columns, check=check)
    if item.kind in ("polars", "polars-series"):
        from ml_toolbox.datasets import polars_frames

        if item.kind == "polars-series":
            return polars_frames.read_series(item, blobs, check=check)
        return polars_frames.read_frame(item, blobs, columns=columns, check=check)
    from ml_toolbox.datasets import arrow_tables

    return arrow_tables.read_table(item, blobs, columns=columns, check=check)


def load_batches(
    store: ObjectStore,
    key_prefix: str = "",
    *,
    batch_rows: int = 65_536,
    columns: Sequence[Any] | None = None,
    check: bool | None = None,
) -> Iterator[Any]:
    """The dataset in pieces of ``batch_rows`` rows, memory bounded by a few pieces. A tuple gives tuples, a dict dicts,
    when all items have the same number of rows; a table file gives Arrow tables."""
    manifest = read_manifest(store, key_prefix)
    yield from iterate(
        manifest, Blobs(store, _under(key_prefix, "blobs")), batch_rows=batch_rows, columns=columns, check=check
    )


def iterate(
    manifest: DatasetManifest,
    blobs: Blobs,
    *,
    batch_rows: int = 65_536,
    columns: Sequence[Any] | None = None,
    check: bool | None = None,
) -> Iterator[Any]:
    """:func:`load_batches` for a manifest that is at hand."""
    if batch_rows < 1:
        raise Invalid(f"batch_rows must be at least 1, not {batch_rows}", field="batch_rows")
    if manifest.layout == "single":
        yield from _iterate_item(manifest.items[0], blobs, batch_rows, columns, check)
        return
    if columns is not None:
        raise _no_columns(f"a {manifest.layout} of {len(manifest.items)} items")
    if len({item.rows for item in manifest.items}) > 1:
        raise Invalid("the items have different numbers of rows", hint="load it whole, or save them apart")
    names = [item.name for item in manifest.items]
    streams = [_iterate_item(item, blobs, batch_rows, None, check) for item in manifest.items]
    for values in zip(*streams, strict=True):
        yield values if manifest.layout == "tuple" else dict(zip(names, values, strict=True))


def _iterate_item(
    item: Item, blobs: Blobs, batch_rows: int, columns: Sequence[Any] | None, check: bool | None
) -> Iterator[Any]:
    if item.kind == "numpy":
        from ml_toolbox.datasets.arrays import iterate_rows

        if columns is not None:
            raise _no_columns("an array")
        return iterate_rows(item, blobs, batch_rows, check=check)
    if item.kind == "pandas":
        from ml_toolbox.datasets.pandas_frames import iterate_frame

        return iterate_frame(item, blobs, batch_rows, columns=columns, check=check)
    if item.kind == "series":
        from ml_toolbox.datasets.pandas_frames import iterate_series

        return iterate_series(item, blobs, batch_rows, check=check)
    if item.kind in ("polars", "polars-series"):
        from ml_toolbox.datasets import polars_frames

        frames = polars_frames.iterate_frame(item, blobs, batch_rows, columns=columns, check=check)
        return (frame.to_series(0) for frame in frames) if item.kind == "polars-series" else frames
    if item.kind == "arrow":
        from ml_toolbox.datasets.arrow_tables import iterate_table

        return iterate_table(item, blobs, batch_rows, columns=columns, check=check)
    from ml_toolbox.datasets.convert import iterate_file

    return iterate_file(item, blobs, batch_rows, columns)
