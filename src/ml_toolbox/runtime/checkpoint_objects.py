"""Checkpoints on object storage: ``data/<nonce>/...`` first, then ``manifests/step-<step>-<generation>.json``, created only
if no such object is there. A process killed before that leaves data that no manifest names, removed after a day.

The only part of the train path that needs the storage library, imported by the script's first checkpoint and not before.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.objects import open_store
from ml_toolbox.objects.transfer import download_file
from ml_toolbox.ports.objects import CreateOnly, ObjectStore
from ml_toolbox.runtime import checkpoints
from ml_toolbox.runtime.checkpoints import Manifest, Refused, Saved

_MANIFESTS = "manifests"
_DATA = "data"
_ENDING = ".json"
_WORKERS = 8
_ABANDONED = timedelta(days=1)
"""Data without a manifest is somebody's unfinished checkpoint until it is this old."""


def commit(uri: str, source: str, step: int, keep: int) -> Saved:
    """Send ``source`` and then its manifest; durable when this returns. Removes all but the newest ``keep`` and this one.

    Raises ``Invalid`` when a file changes while it is sent, and whatever the store answers.
    """
    store = open_store(uri)
    base = Path(source).parent
    paths, empty = checkpoints.content(source)
    prefix = f"{_DATA}/{secrets.token_hex(8)}"

    def send(path: str) -> tuple[str, tuple[str, int]]:
        before = _stamp(base / path)
        entry = (checkpoints.sha256_of(str(base / path)), before[0])
        store.put(f"{prefix}/{path}", base / path)
        if _stamp(base / path) != before:
            raise Invalid(f"checkpoint: {path} was changed while it was saved", field="path", resource=path)
        return path, entry

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mlt-checkpoint") as pool:
        files = dict(pool.map(send, paths))
    manifest = Manifest(step, os.path.basename(source), files, empty, prefix).encode()
    key = _publish(store, manifest, step)
    _prune(store, keep, without=key)
    return Saved(step, hashlib.sha256(manifest).hexdigest(), f"{store.uri}/{key}")


def latest(uri: str, scratch: str) -> tuple[str, Saved] | None:
    """The newest checkpoint that is complete and unaltered, fetched below ``scratch`` and compared with its hashes.

    Raises what the store answers: a store that cannot be reached is no reason to go back to an older checkpoint.
    """
    store = open_store(uri)
    for step, _, key in reversed(_committed(store)):
        target = os.path.join(scratch, os.path.basename(key).removesuffix(_ENDING))
        try:
            data = store.get(key).data
            manifest = Manifest.decode(data, step)
            _fetch(store, manifest, target)
        except NotFound as error:
            checkpoints.tell_refused(key, Refused(f"{error.resource or 'an object'} is missing"))
            continue
        except Refused as why:
            checkpoints.tell_refused(key, why)
            continue
        saved = Saved(step, hashlib.sha256(data).hexdigest(), f"{store.uri}/{key}")
        return os.path.join(target, manifest.name), saved
    return None


def _fetch(store: ObjectStore, manifest: Manifest, target: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    for folder in {os.path.dirname(path) for path in manifest.files} | set(manifest.folders):
        os.makedirs(os.path.join(target, folder), exist_ok=True)

    def fetch(path: str) -> None:
        download_file(store, f"{manifest.data}/{path}", Path(target, path))

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mlt-checkpoint") as pool:
        list(pool.map(fetch, manifest.files))
    checkpoints.verify(target, manifest)


def _committed(store: ObjectStore) -> list[tuple[int, int, str]]:
    """(step, generation, key of the manifest), oldest first."""
    found = []
    for meta in store.list(_MANIFESTS):
        at = checkpoints.place_of(meta.key.removeprefix(f"{_MANIFESTS}/").removesuffix(_ENDING))
        if at is not None:
            found.append((*at, meta.key))
    return sorted(found)


def _publish(store: ObjectStore, manifest: bytes, step: int) -> str:
    generation = 1 + max((number for of, number, _ in _committed(store) if of == step), default=0)
    while True:
        key = f"{_MANIFESTS}/{checkpoints.name_of(step, generation)}{_ENDING}"
        try:
            store.put(key, manifest, mode=CreateOnly())
        except Conflict:
            generation += 1  # another process was first
        else:
            return key


def _prune(store: ObjectStore, keep: int, *, without: str) -> None:
    for step, _, key in _committed(store)[:-keep]:
        if key != without:
            data = _data_of(store, key, step)
            # The manifest first: without it the rest is no checkpoint, and never a torn one.
            store.delete(key)
            if data:
                _delete_below(store, data)
    _sweep(store)


def _sweep(store: ObjectStore) -> None:
    """Remove old data that no manifest names: left by a process that was killed while sending, or while removing."""
    there = {prefix.rstrip("/") for prefix in store.list_level(_DATA).prefixes}
    committed = _committed(store)
    if len(there) <= len(committed):
        return
    for prefix in there - {_data_of(store, key, step) for step, _, key in committed}:
        newest = max((meta.last_modified for meta in store.list(prefix)), default=None)
        if newest is not None and datetime.now(UTC) - newest > _ABANDONED:
            _delete_below(store, prefix)


def _delete_below(store: ObjectStore, prefix: str) -> None:
    for meta in list(store.list(prefix)):
        store.delete(meta.key)


def _data_of(store: ObjectStore, key: str, step: int) -> str:
    try:
        return Manifest.decode(store.get(key).data, step).data
    except (NotFound, Refused):
        return ""


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
