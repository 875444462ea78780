"""Data as a training script reads it: stored datasets become plain files, everything else stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_toolbox import datasets
from ml_toolbox.base.errors import NotFound
from ml_toolbox.base.ids import digest, new_ulid
from ml_toolbox.base.uri import UriLike
from ml_toolbox.cloud_integration.providers import CloudProvider
from ml_toolbox.datasets import Blobs, DatasetManifest
from ml_toolbox.features.data.exporting import materialise
from ml_toolbox.ports.objects import ObjectMeta, ObjectStore


def training_channel(provider: CloudProvider, data_path: UriLike) -> str:
    """URI of the data as a job takes it: the place itself, or a local folder with its datasets as plain files.

    ``NotFound`` when nothing is there.
    """
    place = provider.place(data_path)
    store = provider.folder_store(place)
    found = _datasets(store)
    if not found:
        _require_something(provider, data_path, store)
        return str(place)
    plain = [] if "" in found else list(_plain_objects(store, found))
    identity = digest(
        {
            "datasets": {name: manifest.sha256 for name, manifest in found.items()},
            "files": [[meta.key, str(meta.version)] for meta in plain],
        }
    )
    folder = provider.toolbox.home / "cache" / "channels" / identity
    if not folder.exists():
        _write(store, found, [meta.key for meta in plain], folder)
    return str(folder)


def _plain_objects(store: ObjectStore, found: Mapping[str, DatasetManifest]) -> Iterator[ObjectMeta]:
    """What lies beside the datasets."""
    level = store.list_level()
    yield from level.objects
    for prefix in level.prefixes:
        if prefix.rstrip("/") not in found:
            yield from store.list(prefix)


def _datasets(store: ObjectStore) -> dict[str, DatasetManifest]:
    """The dataset that lies here (under the name ""), or those one level below, by name."""
    try:
        return {"": datasets.read_manifest(store)}
    except NotFound:
        pass
    found = {}
    for prefix in store.list_level().prefixes:
        name = prefix.rstrip("/")
        try:
            found[name] = datasets.read_manifest(store, name)
        except NotFound:
            continue
    return found


def _require_something(provider: CloudProvider, data_path: UriLike, store: ObjectStore) -> None:
    if next(store.list(), None) is not None:
        return
    above, key = provider.object_store(data_path)
    above.head(key)  # a single file is data too; otherwise this is the NotFound


def _write(store: ObjectStore, found: dict[str, DatasetManifest], keys: list[str], folder: Path) -> None:
    """Beside its place first, so that a folder of this name is always complete."""
    partial = folder.with_name(f"{folder.name}.{new_ulid()}.partial")
    try:
        for name, manifest in found.items():
            blobs = Blobs(store, f"{name}/blobs" if name else "blobs")
            materialise(manifest, blobs, partial / name if name else partial, name=name or "data")
        for key in keys:
            target = partial / key
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for chunk in store.stream(key):
                    file.write(chunk)
        partial.rename(folder)
    except OSError:
        # Another process was faster; its copy is as good.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
