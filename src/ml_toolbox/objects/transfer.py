"""Folders and files to and from a store: in parallel, resumable, sending only what changed.

Memory is bounded by a budget of bytes in flight, whatever the sizes. An interrupted transfer has moved whole files only and
has written down which, so the next one continues. Local targets are written through the local store: durable, appearing
whole or not at all, and never through a symbolic link.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol, TypeVar

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable
from ml_toolbox.base.uri import Uri, check_key, check_prefix
from ml_toolbox.objects import transfer_record
from ml_toolbox.objects.folders import write_back
from ml_toolbox.objects.local import LocalObjectStore
from ml_toolbox.objects.remote import RemoteObjectStore
from ml_toolbox.objects.transfer_record import MANIFEST_NAME, Entry, Record, file_sha256
from ml_toolbox.ports.objects import ObjectMeta, ObjectStore, Version

WORKERS: Final = 16
"""Files on the way at once: small objects are bound by latency, and more threads gained nothing on loopback."""
BUDGET_BYTES: Final = 64 * 1024 * 1024
"""Bytes in flight over all workers, which with the interpreter stays well under 128 MB."""
_SMALL_BYTES: Final = 4 * 1024 * 1024
"""Up to here an object is moved in one piece; beyond, in pieces of this size. The C library keeps twice the largest block
it has seen for each thread, so memory grows with it times the number of threads, not only with what is in flight."""
_RANGE_THREADS: Final = 4
_RANGES_AHEAD: Final = 6
_BEGIN_SYNC_BYTES: Final = 16 * 1024 * 1024
"""The device begins with a download each time so much has arrived. Measured, 1 GiB from loopback to a virtual disk, nine
interleaved rounds: median 1.46 s; 1.75 s when all of it waits for the sync at the end. 4 to 64 MiB differ little."""
_SAVE_EVERY: Final = 2_000  # files between two records of progress, against a kill that runs no `finally`

Item = TypeVar("Item")


class Progress(Protocol):
    """Called from one thread at a time, after every file and every few megabytes of a large one."""

    def __call__(self, done_bytes: int, total_bytes: int, done_files: int, total_files: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What a transfer found and did."""

    files: int
    """Files in the folder (upload) or under the prefix (download), after ``exclude``."""
    bytes: int
    sent_files: int
    """Of these, the files that were moved; the rest was there already with the same sha256."""
    sent_bytes: int


def upload_folder(
    folder: Path,
    store: ObjectStore,
    prefix: str = "",
    *,
    progress: Progress | None = None,
    workers: int = WORKERS,
    exclude: Sequence[str] = (),
) -> TransferReport:
    """Send every file below ``folder`` to ``prefix``; nothing is deleted there.

    A file is left out when the record beside the objects knows its sha256 and the object still has the recorded version.
    ``exclude`` holds patterns as in .gitignore. A link to a file inside the folder is sent as that file; any other link or
    special file, and a name that cannot be a key, raises ``Invalid`` before anything is sent. ``Conflict`` when a file
    changes while it is sent.
    """
    prefix = check_prefix(prefix)
    files = _scan(folder, exclude)
    record = transfer_record.beside_objects(store, prefix)
    base = f"{prefix}/" if prefix else ""
    there = {meta.key[len(base) :]: meta.version for meta in store.list(prefix)} if record.entries else {}
    counter = _Counter(progress, sum(size for _, size in files), len(files))

    def send(item: tuple[str, int], budget: _Budget) -> tuple[str, Entry]:
        name, size = item
        path = folder / name
        before = _stamp(path)
        known = record.entries.get(name)
        sha256 = file_sha256(path)
        if known is not None and known.sha256 == sha256 and name in there and known.is_of(there[name]):
            counter.finish(size, moved=False)
            return name, known
        with budget.of(size if size <= _SMALL_BYTES else BUDGET_BYTES):
            version = _send(store, base + name, path, size, budget, counter.advance)
        if _stamp(path) != before:
            raise Conflict(
                f"{path} was changed while it was sent", hint="upload again once it is written", resource=name
            )
        counter.finish(0 if size > _SMALL_BYTES else size, moved=True, size=size)
        return name, Entry(size, sha256, version.e_tag)

    _transfer(files, send, workers, record)
    return counter.report()


def download_folder(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    progress: Progress | None = None,
    workers: int = WORKERS,
    exclude: Sequence[str] = (),
) -> TransferReport:
    """Fetch every object below ``prefix`` into ``folder``; nothing is deleted there.

    A file is left alone when it has the sha256 that is on record for the object's present version. Bytes are compared with
    the uploader's sha256 where one is known; ``Unavailable`` when they differ. ``NotFound`` when nothing is under
    ``prefix``.
    """
    prefix = check_prefix(prefix)
    base = f"{prefix}/" if prefix else ""
    excluded = _excluded(exclude)
    found = [meta for meta in store.list(prefix) if not excluded(meta.key[len(base) :])]
    if not found:
        raise NotFound(f"nothing is under {prefix or 'the root'} in {store.uri}", resource=f"{store.uri}/{prefix}")
    sent = transfer_record.beside_objects(store, prefix).entries
    record = transfer_record.on_this_machine(folder, store, prefix)
    local = LocalObjectStore(Uri.parse(folder))
    counter = _Counter(progress, sum(meta.size for meta in found), len(found))

    def fetch(meta: ObjectMeta, budget: _Budget) -> tuple[str, Entry]:
        name = meta.key[len(base) :]
        on_record = [
            one for one in (record.entries.get(name), sent.get(name)) if one is not None and one.is_of(meta.version)
        ]
        if on_record and _has(folder / name, on_record[0]):
            counter.finish(meta.size, moved=False)
            return name, on_record[0]
        expected = sent[name].sha256 if name in sent and sent[name].is_of(meta.version) else ""
        with budget.of(meta.size if meta.size <= _SMALL_BYTES else BUDGET_BYTES):
            sha256 = _fetch(store, meta, local, name, budget, counter.advance, expected)
        counter.finish(0, moved=True, size=meta.size)
        return name, Entry(meta.size, sha256, meta.version.e_tag)

    _transfer(found, fetch, workers, record)
    return counter.report()


def upload_file(path: Path, store: ObjectStore, key: str, *, progress: Progress | None = None) -> Version:
    """Send one file, in parts when it is large; returns the object's version."""
    if not path.is_file():
        raise NotFound(f"{path} is not a file", resource=str(path))
    size = path.stat().st_size
    counter = _Counter(progress, size, 1)
    budget = _Budget()
    check_key(key)
    # On a thread of its own: the client library does not notice Ctrl-C, the wait for a thread does.
    with ThreadPoolExecutor(1, thread_name_prefix="mlt-transfer") as pool:
        sending = pool.submit(_send, store, key, path, size, budget, counter.advance)
        try:
            version = sending.result()
        finally:
            budget.stop()
    counter.finish(0 if size > _SMALL_BYTES else size, moved=True)
    return version


def download_file(
    store: ObjectStore, key: str, path: Path, *, progress: Progress | None = None, sha256: str = ""
) -> ObjectMeta:
    """Fetch one object in parallel ranges. ``path`` appears once it is whole and durable, and is replaced if it exists.

    With ``sha256`` (hex) the bytes are compared before the file appears: ``Unavailable`` when they differ. ``Conflict``
    when the object is replaced meanwhile.
    """
    meta = store.head(key)
    counter = _Counter(progress, meta.size, 1)
    target = Uri.parse(path.absolute())
    local = LocalObjectStore(target.parent)
    _fetch(store, meta, local, target.name, _Budget(), counter.advance, sha256, hashed=bool(sha256))
    counter.finish(0, moved=True)
    return meta


# one file


def _send(
    store: ObjectStore, key: str, path: Path, size: int, budget: _Budget, advance: Callable[[int], None]
) -> Version:
    if size <= _SMALL_BYTES:
        return store.put(key, path)
    return store.put(key, _pieces(path, budget, advance))


def _pieces(path: Path, budget: _Budget, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_SMALL_BYTES):
            budget.check()
            yield piece
            advance(len(piece))


def _fetch(
    store: ObjectStore,
    meta: ObjectMeta,
    local: LocalObjectStore,
    name: str,
    budget: _Budget,
    advance: Callable[[int], None],
    expected: str,
    *,
    hashed: bool = True,
) -> str:
    """Write the object to ``name``; its sha256, or "" when nobody asked. Raises before anything is visible."""
    summary = hashlib.sha256() if hashed else None

    def fill(fd: int) -> None:
        begun = arrived = 0
        for size, piece in _ranges(store, meta, fd, keep=hashed):
            budget.check()
            if summary is not None:
                summary.update(piece)
            arrived += size
            if arrived - begun >= _BEGIN_SYNC_BYTES:
                write_back(fd, begun, arrived - begun)
                begun = arrived
            advance(size)
        if summary is not None and expected and summary.hexdigest() != expected:
            raise Unavailable(
                f"{meta.key} from {store.uri} has another sha256 than was recorded when it was sent",
                hint="download again; if it stays so, upload the file again",
                resource=meta.key,
            )

    local.write(name, fill)
    return summary.hexdigest() if summary is not None else ""


def _ranges(store: ObjectStore, meta: ObjectMeta, fd: int, *, keep: bool) -> Iterator[tuple[int, bytes | memoryview]]:
    """Write the object's bytes to ``fd``, and yield the size of each piece in order, with the piece itself if ``keep``.
    In parallel when there are many, and all of the version that ``meta`` names.

    A piece that is not kept is freed by the thread that wrote it, whose next piece gets the same memory, mapped and warm:
    a third of the page faults.
    """
    if meta.size <= _SMALL_BYTES:
        whole = store.get(meta.key)
        _same(meta, whole.meta.version, store)
        _write_at(fd, whole.data, 0)
        yield len(whole.data), whole.data
        return
    read = store.get_view if isinstance(store, RemoteObjectStore) else store.get_range

    def one(start: int) -> tuple[int, bytes | memoryview]:
        piece = read(meta.key, start, min(start + _SMALL_BYTES, meta.size))
        _write_at(fd, piece, start)
        return len(piece), piece if keep else b""

    starts = iter(range(0, meta.size, _SMALL_BYTES))
    window: deque[Future[tuple[int, bytes | memoryview]]] = deque()
    try:
        for start in itertools.islice(starts, _RANGES_AHEAD):
            window.append(_range_pool().submit(one, start))
        while window:
            yield window.popleft().result()
            if (start := next(starts, -1)) >= 0:
                window.append(_range_pool().submit(one, start))
    finally:
        for waiting in window:
            waiting.cancel()
        wait(window)
    _same(meta, store.head(meta.key).version, store)


def _write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


@cache
def _range_pool() -> ThreadPoolExecutor:
    """One set of threads for all transfers of the process: each new thread would cost memory of its own."""
    return ThreadPoolExecutor(_RANGE_THREADS, thread_name_prefix="mlt-range")


os.register_at_fork(after_in_child=_range_pool.cache_clear)  # threads do not survive a fork


def _same(meta: ObjectMeta, version: Version, store: ObjectStore) -> None:
    if version != meta.version:
        raise Conflict(
            f"{meta.key} was replaced in {store.uri} while it was fetched", hint="try again", resource=meta.key
        )


def _has(path: Path, entry: Entry) -> bool:
    return (
        path.is_file()
        and not path.is_symlink()
        and path.stat().st_size == entry.size
        and file_sha256(path) == entry.sha256
    )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


# many files


class _Budget:
    """Bytes in flight, shared by all workers; and the one place that tells them to stop."""

    def __init__(self) -> None:
        self._free = BUDGET_BYTES
        self._changed = threading.Condition()
        self._stopped = False

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._free >= size)
            self._free -= size
        try:
            self.check()
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        if self._stopped:
            raise InterruptedError("the transfer was stopped")


class _Counter:
    """Adds up from many threads, and calls ``progress`` from one at a time."""

    def __init__(self, progress: Progress | None, total_bytes: int, total_files: int) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._total_bytes, self._total_files = total_bytes, total_files
        self._done_bytes = self._done_files = self._sent_bytes = self._sent_files = 0

    def advance(self, size: int) -> None:
        with self._lock:
            self._done_bytes += size
            self._tell()

    def finish(self, advance: int, *, moved: bool, size: int = 0) -> None:
        with self._lock:
            self._done_bytes += advance
            self._done_files += 1
            if moved:
                self._sent_files += 1
                self._sent_bytes += size
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes, self._done_files, self._total_files)

    def report(self) -> TransferReport:
        return TransferReport(
            files=self._total_files, bytes=self._total_bytes, sent_files=self._sent_files, sent_bytes=self._sent_bytes
        )


def _transfer(
    items: Iterable[Item], move: Callable[[Item, _Budget], tuple[str, Entry]], workers: int, record: Record
) -> None:
    """Move every item on ``workers`` threads; the record is saved at the end, however that comes.

    The first failure, or Ctrl-C, stops the others at their next piece and is raised once they have ended.
    """
    budget = _Budget()
    source = iter(items)
    unsaved = 0
    running: set[Future[tuple[str, Entry]]] = set()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="mlt-transfer") as pool:
        try:
            while True:
                for item in itertools.islice(source, 2 * workers - len(running)):
                    running.add(pool.submit(move, item, budget))
                if not running:
                    break
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                unsaved += _note(ended, record)
                for one in ended:
                    one.result()  # raises what it raised
                if unsaved >= _SAVE_EVERY:
                    record.save()
                    unsaved = 0
        finally:
            budget.stop()
            for one in running:
                one.cancel()
            wait(running)
            if unsaved + _note(running, record):
                record.save()


def _note(ended: Iterable[Future[tuple[str, Entry]]], record: Record) -> int:
    """Enter the files that were moved; how many of them the record did not know."""
    new = 0
    for one in ended:
        if not one.cancelled() and one.exception() is None:
            name, entry = one.result()
            new += record.entries.get(name) != entry
            record.entries[name] = entry
    return new


def _scan(folder: Path, exclude: Sequence[str]) -> list[tuple[str, int]]:
    """Names relative to ``folder`` with sizes, in key order. Everything that cannot be sent is found before anything is."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", resource=str(folder))
    excluded = _excluded(exclude)
    real = os.path.realpath(folder)
    files: list[tuple[str, int]] = []
    for place, folders, names in os.walk(folder):
        inside = os.path.relpath(place, folder).replace(os.sep, "/")
        base = "" if inside == "." else f"{inside}/"
        folders[:] = [name for name in folders if not excluded(f"{base}{name}/")]
        for name in [*names, *(one for one in folders if os.path.islink(os.path.join(place, one)))]:
            if not excluded(base + name):
                files.append((check_key(base + name, field="folder"), _sendable(os.path.join(place, name), real)))  # noqa: PERF401
    return sorted(files)


def _sendable(path: str, real: str) -> int:
    target = os.path.realpath(path)
    if os.path.islink(path) and not (os.path.isfile(target) and target.startswith(real + os.sep)):
        raise Invalid(
            f"folder: {path} is a link out of the folder, to a folder, or to nothing",
            hint="copy what it points to, or exclude it",
            field="folder",
        )
    if not os.path.isfile(target):
        raise Invalid(f"folder: {path} is no regular file", hint="exclude it", field="folder")
    return os.path.getsize(target)


def _excluded(patterns: Sequence[str]) -> Callable[[str], bool]:
    if not patterns:
        return lambda name: name.rpartition("/")[2] == MANIFEST_NAME
    from pathspec import PathSpec

    spec = PathSpec.from_lines("gitignore", patterns)
    return lambda name: name.rpartition("/")[2] == MANIFEST_NAME or spec.match_file(name)
