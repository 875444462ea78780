"""Checkpoints in a folder: ``step-<step>-<generation>/{manifest.json,data/...}``, put in place by one rename.

A process killed at any moment leaves at most a folder whose name begins with a dot, which nobody reads and a later commit
removes. The script's own files may lie in the same place; they are never touched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ml_toolbox.base.errors import Invalid
from ml_toolbox.runtime import checkpoints
from ml_toolbox.runtime.checkpoints import Manifest, Refused, Saved

_MANIFEST = "manifest.json"
_DATA = "data"
_NEW, _OLD = ".checkpoint-new-", ".checkpoint-old-"
_SETTLED_S = 60.0
"""A folder in the making that is younger is left alone: its maker may not hold its lock yet."""


def commit(place: str, source: str, step: int, keep: int) -> Saved:
    """Save a copy of ``source``; durable when this returns. Removes all but the newest ``keep`` and this one."""
    place = os.path.realpath(place)
    if f"{place}/".startswith(f"{os.path.realpath(source)}/"):
        raise Invalid(f"checkpoint: {source} contains the folder of checkpoints itself", field="path", resource=source)
    os.makedirs(place, exist_ok=True)
    _sweep(place)
    with _aside(place) as new:
        manifest = _fill(os.path.join(new, _DATA), source, step).encode()
        _write(os.path.join(new, _MANIFEST), manifest)
        _sync(new)
        final = _publish(place, new, step)
        _sync(place)
    _prune(place, keep, without=os.path.basename(final))
    return Saved(step, hashlib.sha256(manifest).hexdigest(), final)


def latest(place: str) -> tuple[str, Saved] | None:
    """The newest checkpoint that is complete and unaltered, every file's hash compared: where what the script gave lies."""
    place = os.path.realpath(place)
    for name in reversed(_committed(place)):
        folder = os.path.join(place, name)
        try:
            manifest, sha256 = _verified(folder, name)
        except Refused as why:
            checkpoints.tell_refused(name, why)
            continue
        return os.path.join(folder, _DATA, manifest.name), Saved(manifest.step, sha256, folder)
    return None


def _verified(folder: str, name: str) -> tuple[Manifest, str]:
    step, _ = checkpoints.place_of(name) or (-1, 0)
    try:
        with open(os.path.join(folder, _MANIFEST), "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise Refused("it has no manifest") from error
    except OSError as error:
        raise Refused(f"its manifest cannot be read: {error.strerror}") from error
    manifest = Manifest.decode(data, step)
    checkpoints.verify(os.path.join(folder, _DATA), manifest)
    return manifest, hashlib.sha256(data).hexdigest()


def _committed(place: str) -> list[str]:
    """Names, oldest first."""
    names = os.listdir(place) if os.path.isdir(place) else []
    found = [(at, name) for name in names if (at := checkpoints.place_of(name)) is not None]
    return [name for _, name in sorted(found)]


@contextmanager
def _aside(place: str) -> Iterator[str]:
    """A folder to make the checkpoint in, locked while its maker lives; gone afterwards unless it was put in place."""
    new = os.path.join(place, f"{_NEW}{secrets.token_hex(8)}")
    os.mkdir(new)
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)
        os.close(descriptor)


def _fill(target: str, source: str, step: int) -> Manifest:
    base = os.path.dirname(source)
    paths, empty = checkpoints.content(source)
    os.mkdir(target)
    for folder in sorted({os.path.dirname(path) for path in paths} | set(empty)):
        os.makedirs(os.path.join(target, folder), exist_ok=True)
    files = {path: checkpoints.copy(os.path.join(base, path), os.path.join(target, path)) for path in paths}
    for folder, _, _ in os.walk(target):
        _sync(folder)
    return Manifest(step, os.path.basename(source), files, empty)


def _publish(place: str, new: str, step: int) -> str:
    """Rename into place under the next free generation of the step. A rename never replaces a folder that holds something."""
    there = [at for name in _committed(place) if (at := checkpoints.place_of(name)) is not None]
    generation = 1 + max((number for of, number in there if of == step), default=0)
    while True:
        final = os.path.join(place, checkpoints.name_of(step, generation))
        try:
            os.rename(new, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            generation += 1  # another process was first
        else:
            return final


def _prune(place: str, keep: int, *, without: str) -> None:
    names = _committed(place)
    for name in names[:-keep]:
        if name != without:
            old = os.path.join(place, f"{_OLD}{secrets.token_hex(8)}")
            try:
                # Out of sight in one step: half of it deleted would look torn.
                os.rename(os.path.join(place, name), old)
            except FileNotFoundError:  # another process prunes too
                continue
            shutil.rmtree(old, ignore_errors=True)


def _sweep(place: str) -> None:
    """Remove what killed processes left in the making or in the removing."""
    for name in os.listdir(place):
        path = os.path.join(place, name)
        if name.startswith(_OLD) or (name.startswith(_NEW) and _is_abandoned(path)):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone meanwhile
        return False
    try:
        return time.time() - os.fstat(descriptor).st_mtime > _SETTLED_S and _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by its maker, or a file system without locks
        return False
    return True


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
