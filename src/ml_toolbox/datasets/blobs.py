"""Content-addressed blobs on an object store: ``<prefix>/sha256/<2 digits>/<address>``, written once, never changed.

A blob that is there already is not sent again. On a local store the bytes are hashed by some threads while another writes
them, because sha256 costs more time than a durable write (design/datasets.md); elsewhere the hash comes first, so that
nothing that is already there crosses the network.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import nonce
from ml_toolbox.base.uri import Uri
from ml_toolbox.datasets.addresses import ContentHash, address_of
from ml_toolbox.datasets.manifest import Part
from ml_toolbox.objects import folders
from ml_toolbox.ports.objects import ObjectStore

CHUNK = 8 * 1024 * 1024
_SMALL = 1024 * 1024
"""Below this, a thread costs more than it saves."""

_ADDRESS = re.compile(r"[0-9a-f]{64}(-[1-9][0-9]*)?")


class Progress(Protocol):
    """Called from one thread at a time as bytes are stored or found to be stored already; totals grow while data is encoded."""

    def __call__(self, done_bytes: int, total_bytes: int, done_files: int, total_files: int, /) -> None: ...


class _Tally:
    """Adds up for a ``Progress`` what many threads do."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._counts = [0, 0, 0, 0]

    def add(self, *, done: int = 0, total: int = 0, done_files: int = 0, total_files: int = 0) -> None:
        if self._progress is None:
            return
        with self._lock:
            for place, count in enumerate((done, total, done_files, total_files)):
                self._counts[place] += count
            self._progress(*self._counts)


def local_root(store: ObjectStore) -> Path | None:
    """The folder behind a local store, so that its blobs can be memory-mapped; ``None`` for every other store."""
    return Path(Uri.parse(store.uri).path) if store.uri.startswith("file:") else None


def _join(prefix: str, *names: str) -> str:
    return "/".join(name for name in (prefix.strip("/"), *names) if name)


class Blobs:
    """The blobs under one prefix of one store. Safe to use from many threads."""

    def __init__(self, store: ObjectStore, prefix: str = "blobs", *, progress: Progress | None = None) -> None:
        self._store = store
        self._prefix = prefix
        self._root = local_root(store)
        self._tally = _Tally(progress)

    def key(self, sha256: str) -> str:
        """Where the blob of this address lies; ``Invalid`` for what is none."""
        if not _ADDRESS.fullmatch(sha256):
            raise Invalid(f"{sha256!r} is not a sha256", field="sha256")
        return _join(self._prefix, "sha256", sha256[:2], sha256)

    def path(self, part: Part) -> Path | None:
        """Where the blob lies on this machine, its size checked; ``None`` when the store is not local.

        ``NotFound`` when it is missing, ``Conflict`` when its size is wrong (a map of a shorter file would kill the
        process at the first touch).
        """
        if self._root is None:
            return None
        path = self._root / self.key(part.sha256)
        try:
            status = path.lstat()
        except FileNotFoundError as error:
            raise _missing(self._store, self.key(part.sha256)) from error
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(self._store, self.key(part.sha256), "it is a link or no file")
        size = status.st_size
        if size != part.size:
            raise _damaged(self._store, self.key(part.sha256), f"{size} bytes instead of {part.size}")
        return path

    # Writing

    def put_bytes(self, data: Any) -> tuple[str, int]:
        """Store one buffer; returns (sha256, size). The buffer is hashed first and sent only when it is new."""
        view = memoryview(data).cast("B")
        self._tally.add(total=len(view), total_files=1)
        return self._put_view(view)

    def _put_view(self, view: memoryview) -> tuple[str, int]:
        sha256 = address_of(view)
        if not self._has(sha256, len(view)):
            self._store.put(self.key(sha256), bytes(view))
        self._tally.add(done=len(view), done_files=1)
        return sha256, len(view)

    def put_chunks(self, chunks: Callable[[], Iterable[memoryview]], size: int, *, held: bool) -> tuple[str, int]:
        """Store what ``chunks()`` yields, about ``size`` bytes; returns (sha256, size). ``chunks`` may be called twice.

        ``held``: the chunks are views of memory that is held anyway, so any number of them may wait for the hash.
        """
        self._tally.add(total=size, total_files=1)
        return self._put_stream(chunks, held=held)

    def _put_stream(self, chunks: Callable[[], Iterable[memoryview]], *, held: bool) -> tuple[str, int]:
        if self._root is not None:
            sha256, size = self._put_local(self._root, chunks(), held=held)
        else:
            size = 0
            with ContentHash(held=held) as content:
                for chunk in chunks():
                    content.update(chunk)
                    size += len(chunk)
                sha256 = content.address()
            if not self._has(sha256, size):
                self._store.put(self.key(sha256), self._sent(chunks(), sha256, held=held))
            else:
                self._tally.add(done=size)
        self._tally.add(done_files=1)
        return sha256, size

    def announce(self, paths: Iterable[Path]) -> None:
        """Count files into the totals before the first of them is put with ``announced=True``."""
        sizes = [path.stat().st_size for path in paths]
        self._tally.add(total=sum(sizes), total_files=len(sizes))

    def put_file(self, path: Path, *, announced: bool = False) -> tuple[str, int]:
        """Store a file of the user's; raises ``NotFound`` when it is not there. Memory stays bounded at any size."""
        try:
            if not announced:
                self.announce([path])
            if path.stat().st_size <= _SMALL:
                return self._put_view(memoryview(path.read_bytes()))
            return self._put_stream(lambda: read_chunks(path), held=False)
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {str(path)!r}", resource=str(path)) from error

    def _sent(self, chunks: Iterable[memoryview], sha256: str, *, held: bool) -> Iterator[bytes]:
        """The chunks of the second pass. A file may have changed since the first: raising here breaks the put off, so
        that no blob ever lies under a name that is not its hash."""
        with ContentHash(held=held) as content:
            for chunk in chunks:
                if not held:
                    content.update(chunk)
                yield bytes(chunk)
                self._tally.add(done=len(chunk))
            if not held and content.address() != sha256:
                raise Conflict(
                    "the file changed while it was being saved", hint="save it again when nothing writes to it"
                )

    def _has(self, sha256: str, size: int) -> bool:
        """A blob of another size is damage, and is written again."""
        try:
            return self._store.head(self.key(sha256)).size == size
        except NotFound:
            return False

    def _put_local(self, root: Path, chunks: Iterable[memoryview], *, held: bool) -> tuple[str, int]:
        """Through a temporary file of the local store's own kind, which no listing shows and which is swept when its writer
        died: the name is known only when all bytes have passed."""
        below = _join(self._prefix, "sha256")
        try:
            folders.make_folders(str(root), below)
            folder = folders.open_folder(str(root / below))
            try:
                return self._put_temporary(root, folder, chunks, held=held)
            finally:
                os.close(folder)
        except OSError as error:
            raise folders.translate(error, below, self._store.uri) from error

    def _put_temporary(self, root: Path, folder: int, chunks: Iterable[memoryview], *, held: bool) -> tuple[str, int]:
        handle, temporary = folders.open_temporary(folder)
        try:
            sha256, size = _write_hashed(handle, chunks, held=held, tally=self._tally)
            if not self._has(sha256, size):
                parent, _, name = self.key(sha256).rpartition("/")
                folders.make_folders(str(root), parent)
                target = folders.open_folder(str(root / parent))
                try:
                    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=target)
                    folders.sync(target)
                finally:
                    os.close(target)
            return sha256, size
        finally:
            os.close(handle)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)

    # Reading

    def size(self, sha256: str) -> int:
        """Bytes of a blob; ``NotFound`` when it is missing."""
        try:
            return self._store.head(self.key(sha256)).size
        except NotFound as error:
            raise _missing(self._store, self.key(sha256)) from error

    def read(self, part: Part, *, check: bool) -> bytes:
        """The whole blob in memory; ``Conflict`` when its size, or with ``check`` its hash, is wrong."""
        data = self._get(part)
        if len(data) != part.size or (check and address_of(data) != part.sha256):
            raise _changed(self._store, self.key(part.sha256))
        return data

    def _get(self, part: Part) -> bytes:
        try:
            return self._store.get(self.key(part.sha256)).data
        except NotFound as error:
            raise _missing(self._store, self.key(part.sha256)) from error

    def chunks(self, part: Part, *, check: bool = True) -> Iterator[bytes]:
        """The blob in pieces, memory bounded. Size and (with ``check``) hash are known at the end: then ``Conflict``."""
        if not check:
            yield from self._stream(part)
            return
        with ContentHash(held=False) as content:
            for chunk in self._stream(part):
                content.update(chunk)
                yield chunk
            if content.address() != part.sha256:
                raise _changed(self._store, self.key(part.sha256))

    def _stream(self, part: Part) -> Iterator[bytes]:
        size = 0
        key = self.key(part.sha256)
        try:
            for chunk in self._store.stream(key, chunk_size=CHUNK):
                size += len(chunk)
                yield chunk
        except NotFound as error:
            raise _missing(self._store, key) from error
        if size != part.size:
            raise _changed(self._store, key)

    def copy_to(self, part: Part, target: Path) -> None:
        """Write the blob to a file that appears only when it is whole and its hash was right."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{nonce()}.part")
        try:
            with temporary.open("xb") as file:
                for chunk in self.chunks(part):
                    file.write(chunk)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def problem(self, part: Part) -> str:
        """Why the blob is not what was saved, or ""; reads all of it."""
        try:
            for _ in self.chunks(part):
                continue
        except (NotFound, Conflict) as error:
            return error.message
        return ""

    def open(self, part: Part) -> BinaryIO:
        """A seekable reader that fetches ranges as they are asked for."""
        return io.BufferedReader(_RangeReader(self._store, self.key(part.sha256), part.size), buffer_size=_SMALL)


def read_chunks(path: Path) -> Iterator[memoryview]:
    """The file in pieces; each piece is its own memory, because another thread may still hash the one before."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield memoryview(chunk)


def _write_hashed(handle: int, chunks: Iterable[memoryview], *, held: bool, tally: _Tally) -> tuple[str, int]:
    """Write and hash at the same time, then make durable. Both release the interpreter, so they really overlap; and so does
    the device, which gets every few megabytes at once instead of all of them at the end."""
    size = begun = 0
    with ContentHash(held=held) as content:
        for chunk in chunks:
            content.update(chunk)
            rest = chunk
            while rest:
                rest = rest[os.write(handle, rest) :]
            size += len(chunk)
            if size - begun >= CHUNK:
                folders.write_back(handle, begun, size - begun)
                begun = size
            tally.add(done=len(chunk))
        folders.seal(handle)
        return content.address(), size


class _RangeReader(io.RawIOBase):
    """An object as a seekable file; every read is one range request (buffered by the caller)."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data = self._store.get_range(self._key, self._at, self._at + wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _missing(store: ObjectStore, key: str) -> NotFound:
    return NotFound(
        f"a part of the dataset is missing: {store.uri}/{key}",
        hint="save the data again: parts that are there are not sent twice",
        resource=f"{store.uri}/{key}",
    )


def _damaged(store: ObjectStore, key: str, what: str) -> Conflict:
    return Conflict(
        f"a part of the dataset was changed after it was saved: {store.uri}/{key}: {what}",
        hint="save the data again under a new version; `mltoolbox data verify` shows every damaged part",
        resource=f"{store.uri}/{key}",
    )


def _changed(store: ObjectStore, key: str) -> Conflict:
    return _damaged(store, key, "the content is not what was saved")
