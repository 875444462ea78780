"""Which writer takes which kind of data, and the dataset as a whole: parts first, manifest last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, MissingExtra
from ml_toolbox.datasets.blobs import Blobs, Progress
from ml_toolbox.datasets.manifest import MANIFEST_NAME, DatasetManifest, Item
from ml_toolbox.ports.objects import ObjectStore


def save(data: Any, store: ObjectStore, key_prefix: str = "", *, progress: Progress | None = None) -> DatasetManifest:
    """Store a dataset under a prefix and return its manifest once everything is durable.

    ``data``: a NumPy array, pandas or polars DataFrame or Series, pyarrow Table or RecordBatchReader, the path of a file or
    folder, or a tuple (such as ``(X, y)``) or dict of these. The manifest is put last and replaces an older one at once:
    a reader sees the old dataset or the new one, also after a crash in the middle. Parts that are there already are not
    sent again; parts of an older dataset under the same prefix stay, because somebody may be reading them.

    Raises ``Invalid`` naming the column, array or file that could not be brought back exactly.
    """
    manifest = write(data, Blobs(store, _under(key_prefix, "blobs"), progress=progress))
    store.put(_under(key_prefix, MANIFEST_NAME), manifest.to_json())
    return manifest


def _under(prefix: str, name: str) -> str:
    return f"{prefix.strip('/')}/{name}".lstrip("/")


def write(data: Any, blobs: Blobs) -> DatasetManifest:
    """Store only the parts; the manifest is the caller's to keep."""
    if type(data) is tuple:
        names = ["X", "y"] if len(data) == 2 else [str(i) for i in range(len(data))]
        items = tuple(_write_item(name, value, blobs) for name, value in zip(names, data, strict=True))
        return DatasetManifest(layout="tuple", items=items)
    if type(data) is dict:
        for key in data:
            if type(key) is not str or not key:
                raise Invalid(f"the dict has the key {key!r}", hint="use non-empty text keys", field="data")
        return DatasetManifest(
            layout="dict", items=tuple(_write_item(key, value, blobs) for key, value in data.items())
        )
    return DatasetManifest(layout="single", items=(_write_item("", data, blobs),))


def _write_item(name: str, value: Any, blobs: Blobs) -> Item:
    if isinstance(value, str | Path):
        from ml_toolbox.datasets.files import write_path

        return write_path(name, Path(value), blobs)
    # Recognised by module, so that a library that is not used is not imported.
    modules = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    try:
        if "pandas" in modules:
            return _write_pandas(name, value, blobs)
        if "polars" in modules:
            return _write_polars(name, value, blobs)
        if "pyarrow" in modules:
            return _write_arrow(name, value, blobs)
        if "numpy" in modules:
            return _write_numpy(name, value, blobs)
    except ModuleNotFoundError as error:
        if error.name not in ("pyarrow", "numpy"):
            raise
        raise MissingExtra.named(error.name, "data", "saving a dataset") from error
    raise _refused(value)


def _write_pandas(name: str, value: Any, blobs: Blobs) -> Item:
    import pandas as pd

    from ml_toolbox.datasets import pandas_frames

    if isinstance(value, pd.DataFrame):
        return pandas_frames.write_frame(name, value, blobs)
    if isinstance(value, pd.Series):
        return pandas_frames.write_series(name, value, blobs)
    raise _refused(value)


def _write_polars(name: str, value: Any, blobs: Blobs) -> Item:
    import polars as pl

    from ml_toolbox.datasets import polars_frames

    if type(value) is pl.DataFrame:
        return polars_frames.write_frame(name, value, blobs)
    if type(value) is pl.Series:
        return polars_frames.write_series(name, value, blobs)
    raise _refused(value)


def _write_arrow(name: str, value: Any, blobs: Blobs) -> Item:
    import pyarrow as pa

    from ml_toolbox.datasets import arrow_tables

    if isinstance(value, pa.Table):
        return arrow_tables.write_table(name, value, blobs)
    if isinstance(value, pa.RecordBatchReader):
        return arrow_tables.write_stream(name, value, blobs)
    raise _refused(value)


def _write_numpy(name: str, value: Any, blobs: Blobs) -> Item:
    import numpy as np

    from ml_toolbox.datasets.arrays import write_array

    if isinstance(value, np.ndarray):
        return write_array(name, value, blobs)
    raise _refused(value)


def _refused(value: Any) -> Invalid:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    hints: Mapping[str, str] = {
        "list": "numpy.asarray(data), or a tuple of arrays",
        "polars.lazyframe.frame.LazyFrame": "data.collect()",
        "pyarrow.lib.RecordBatch": "pyarrow.Table.from_batches([data])",
    }
    return Invalid(
        f"a {kind} is not a kind of data that can be stored",
        hint="pass "
        + hints.get(kind, "a NumPy array, pandas or polars frame, pyarrow Table, a path, or a tuple or dict of these"),
        field="data",
    )
