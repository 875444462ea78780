"""From a stored dataset to plain files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ml_toolbox.base.errors import Invalid
from ml_toolbox.datasets import As, Blobs, DatasetManifest, Item, read
from ml_toolbox.datasets.files import file_name, format_of_file, restore_path

Format: TypeAlias = Literal["csv", "parquet", "jsonl", "npy", "folder"]


def materialise(manifest: DatasetManifest, blobs: Blobs, folder: Path, *, name: str) -> tuple[Path, ...]:
    """All items as plain files below ``folder``; see ``Datasets.materialise``."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for item in manifest.items:
        if item.kind in ("file", "folder"):
            # Items of a tuple or dict may hold files of the same name: each gets a folder of its own.
            own = folder if manifest.layout == "single" else folder / file_name(item)
            written.append(restore_path(item, blobs, own))
        else:
            written.append(_write_value(item if item.name else replace(item, name=name), blobs, folder))
    return tuple(written)


def _write_value(item: Item, blobs: Blobs, folder: Path) -> Path:
    from ml_toolbox.datasets.convert import write_item

    return write_item(item, _value(item, blobs), folder)


def _value(item: Item, blobs: Blobs) -> Any:
    return read(DatasetManifest(layout="single", items=(item,)), blobs)


def format_of_path(path: Path) -> str:
    """What a path's ending asks for: a format, or ``folder`` when it has none."""
    return format_of_file(path.name) or (path.suffix.lstrip(".") or "folder")


def export(manifest: DatasetManifest, blobs: Blobs, path: Path, format_: str, *, name: str) -> Path:
    """The dataset as one file of the given format, or as a folder; see ``Datasets.export``."""
    if format_ not in get_args(Format):
        raise Invalid.choice("format", format_, get_args(Format))
    if format_ == "folder":
        materialise(manifest, blobs, path, name=name)
        return path
    if manifest.layout != "single" or manifest.items[0].kind == "folder":
        what = (
            "a folder of files"
            if manifest.layout == "single"
            else f"a {manifest.layout} of {len(manifest.items)} items"
        )
        raise Invalid(f"{name!r} is {what}, not one table", hint="export it with the format 'folder'", field="format")
    item = manifest.items[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.kind == "file" and item.spec["format"] == format_:
        blobs.copy_to(item.parts[0], path)
        return path
    _writer(format_)(_exported_value(item, blobs, format_), path)
    return path


def _exported_value(item: Item, blobs: Blobs, format_: str) -> Any:
    from ml_toolbox.datasets.convert import convert

    as_: As = "numpy" if format_ == "npy" else "arrow"
    if item.kind == "file":
        return read(DatasetManifest(layout="single", items=(item,)), blobs, as_=as_)
    return convert(_value(item, blobs), as_)


def _writer(format_: str) -> Callable[[Any, Path], None]:
    from ml_toolbox.datasets import convert

    return {
        "csv": convert.write_csv,
        "parquet": convert.write_parquet,
        "jsonl": convert.write_jsonl,
        "npy": convert.write_npy,
    }[format_]
