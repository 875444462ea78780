"""The store on a local or mounted file system: durable, conditional across processes, never torn.

A body is written to a temporary file beside its target, made durable, and then appears under its name in one step: ``link``
when nothing may be there, ``rename`` under the folder's lock when something is. A process killed at any moment leaves at
most a temporary file, which no listing shows and a later listing removes.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, Literal

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, ToolboxError, Unsupported
from ml_toolbox.base.uri import RESERVED_PREFIX, Uri, check_key, check_prefix
from ml_toolbox.objects import folders
from ml_toolbox.objects.forks import ForkGuard
from ml_toolbox.ports.lacks import Lacking, Lacks, refuse
from ml_toolbox.ports.objects import Body, CreateOnly, IfMatch, Listing, Object, ObjectMeta, Overwrite, PutMode, Version

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # NONBLOCK: a FIFO must not hang us
_OVERWRITE: Final = Overwrite()
_COPY_BYTES: Final = 1024 * 1024
_BATCH: Final = 32_768
"""Names of one folder held at a time while listing (about 4 MB); a larger folder is scanned more than once."""


class LocalObjectStore:
    """Objects are the regular files below one directory. Implements the port ``ObjectStore``."""

    def __init__(self, root: Uri) -> None:
        self.lacks: Lacking = {"presign": Lacks("never", "a file has no server that could honour a signed URL")}
        self._root = os.path.realpath(root.path).rstrip("/")
        self.uri = str(Uri("file", "/", self._root[1:]))
        self._guard = ForkGuard()

    # reading

    def get(self, key: str) -> Object:
        try:
            fd, status = self._open(key)
            try:
                return Object(_read(fd, 0, status.st_size), lambda: _meta(key, status))
            finally:
                os.close(fd)
        except OSError as error:
            raise folders.translate(error, key, self.uri) from error

    def get_range(self, key: str, start: int, end: int) -> bytes:
        try:
            fd, status = self._open(key)
            try:
                if not 0 <= start <= end or start > status.st_size:
                    raise Invalid(
                        f"range: {start}-{end} of {key} ({status.st_size} bytes)", field="range", resource=key
                    )
                return _read(fd, start, min(end, status.st_size) - start)
            finally:
                os.close(fd)
        except OSError as error:
            raise folders.translate(error, key, self.uri) from error

    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        try:
            fd, _ = self._open(key)
            try:
                while chunk := os.read(fd, chunk_size):
                    yield chunk
            finally:
                os.close(fd)
        except OSError as error:
            raise folders.translate(error, key, self.uri) from error

    def head(self, key: str) -> ObjectMeta:
        try:
            fd, status = self._open(key)
            os.close(fd)
        except OSError as error:
            raise folders.translate(error, key, self.uri) from error
        return _meta(key, status)

    def _open(self, key: str) -> tuple[int, os.stat_result]:
        self._guard.check(self.uri)
        path = f"{self._root}/{check_key(key)}"
        try:
            fd = os.open(path, _READ)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise folders.refuse_link(path) from error
            if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket or a device without its driver: not an object
                raise NotFound(f"{key} is not in {self.uri}", resource=path) from error
            raise
        try:
            folders.verify(fd, path)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound(f"{key} is not in {self.uri}", resource=path)
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    # writing

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        return self.write(key, lambda fd: _fill(fd, body), mode=mode)

    def write(self, key: str, fill: Callable[[int], None], *, mode: PutMode = _OVERWRITE) -> Version:
        """Like ``put``, with the bytes written by ``fill`` to the descriptor it is given, in any order and from any thread.
        When ``fill`` raises, nothing has changed."""
        self._guard.check(self.uri)
        parent, _, name = check_key(key).rpartition("/")
        try:
            folder, fd, temporary = self._begin(parent)
            try:
                self._refuse_early(folder, name, key, mode)
                fill(fd)
                status = folders.seal(fd)
                linked = self._publish(folder, temporary, name, key, mode)
                if linked:
                    os.unlink(temporary, dir_fd=folder)
                folders.sync(folder)
            except BaseException:
                _discard(folder, temporary)
                raise
            finally:
                os.close(fd)
                os.close(folder)
        except OSError as error:
            raise self._write_error(error, key) from error
        return _version(status)

    def _begin(self, parent: str) -> tuple[int, int, str]:
        """The folder of the object and a temporary file in it. From then on the folder is not empty, so it stays."""
        path = f"{self._root}/{parent}" if parent else self._root
        while True:
            try:
                folder = folders.open_folder(path)
            except FileNotFoundError:
                folders.make_folders(self._root, parent)
                continue
            try:
                return folder, *folders.open_temporary(folder)
            except FileNotFoundError:  # emptied and removed by a concurrent delete: make it again
                os.close(folder)
            except BaseException:
                os.close(folder)
                raise

    def _publish(self, folder: int, temporary: str, name: str, key: str, mode: PutMode) -> bool:
        """Make the temporary file appear as ``name``. True when it was linked, so that its first name is left over."""
        if not isinstance(mode, IfMatch):
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                return True
            except FileExistsError:
                self._make_room(folder, name, key)
                if isinstance(mode, CreateOnly):
                    raise Conflict(f"{key} exists already in {self.uri}", resource=f"{self.uri}/{key}") from None
        with folders.locked(folder):
            if isinstance(mode, IfMatch):
                self._compare(folder, name, key, mode.version)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return False

    def _refuse_early(self, folder: int, name: str, key: str, mode: PutMode) -> None:
        """A condition that fails already need not wait for the disk; what counts is the check in `_publish`."""
        if isinstance(mode, IfMatch):
            self._compare(folder, name, key, mode.version)
        elif isinstance(mode, CreateOnly):
            status = _status(folder, name)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                raise Conflict(f"{key} exists already in {self.uri}", resource=f"{self.uri}/{key}")

    def _make_room(self, folder: int, name: str, key: str) -> None:
        """A folder left empty by somebody who was killed while tidying up is no object; one with objects is in the way."""
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return
        except FileNotFoundError:
            return
        folders.prune(self._root, key)
        if os.path.isdir(f"{self._root}/{key}"):
            raise _name_taken(key, f"objects exist below {key}/")

    def _compare(self, folder: int, name: str, key: str, expected: Version) -> None:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise Conflict(f"{key} is no longer in {self.uri}", resource=f"{self.uri}/{key}") from None
        if status.st_mtime_ns % 1_000_000 == 0 and not self._keeps_nanoseconds(folder):
            raise Unsupported(
                f"the file system of {self.uri} keeps no nanoseconds in its times, so versions cannot be told apart",
                hint="use a file system such as ext4, xfs, btrfs, zfs, apfs or NFSv4",
                resource=self.uri,
            )
        if _version(status) != expected or not stat.S_ISREG(status.st_mode):
            raise Conflict(f"{key} was changed meanwhile in {self.uri}", resource=f"{self.uri}/{key}")

    def _keeps_nanoseconds(self, folder: int) -> bool:
        fd, name = folders.open_temporary(folder)
        try:
            os.utime(fd, ns=(1_000_000_001, 1_000_000_001))
            return os.fstat(fd).st_mtime_ns == 1_000_000_001
        finally:
            _discard(folder, name)
            os.close(fd)

    def _write_error(self, error: OSError, key: str) -> ToolboxError:
        if error.errno in (errno.ENOTDIR, errno.EISDIR):
            return _name_taken(key, "one of its parents is an object, or it is a folder")
        return folders.translate(error, key, self.uri)

    def delete(self, key: str) -> None:
        self._guard.check(self.uri)
        parent, _, name = check_key(key).rpartition("/")
        try:
            folder = folders.open_folder(f"{self._root}/{parent}" if parent else self._root)
            try:
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    with folders.locked(folder):
                        os.unlink(name, dir_fd=folder)
                    folders.sync(folder)
            finally:
                os.close(folder)
            folders.prune(self._root, parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise folders.translate(error, key, self.uri) from error

    def copy(self, source: str, target: str) -> None:
        check_key(target)
        try:
            fd, _ = self._open(source)
        except OSError as error:
            raise folders.translate(error, source, self.uri) from error
        with open(fd, "rb", buffering=0) as file:
            self.put(target, file)

    # listing

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        below = check_prefix(prefix)
        after = check_prefix(start_after, field="start_after")
        return self._list(below, after)

    def _list(self, below: str, after: str) -> Iterator[ObjectMeta]:
        self._guard.check(self.uri)
        try:
            yield from self._walk(below, after)
        except OSError as error:
            raise folders.translate(error, below, self.uri) from error

    def _walk(self, below: str, after: str) -> Iterator[ObjectMeta]:
        """Everything under the folder ``below``, in key order. A folder sorts as its name and a slash, as its keys do."""
        try:
            folder = folders.open_folder(f"{self._root}/{below}" if below else self._root)
        except (FileNotFoundError, NotADirectoryError):
            return
        base = f"{below}/" if below else ""
        try:
            for entry in _ordered(folder, base, after):
                if entry.endswith("/"):
                    yield from self._walk(base + entry[:-1], after)
                elif (status := _status(folder, entry)) is not None and base + entry > after:
                    yield _meta(base + entry, status)
        finally:
            os.close(folder)

    def list_level(self, prefix: str = "") -> Listing:
        self._guard.check(self.uri)
        below = check_prefix(prefix)
        base = f"{below}/" if below else ""
        objects: list[ObjectMeta] = []
        prefixes: list[str] = []
        try:
            folder = folders.open_folder(f"{self._root}/{below}" if below else self._root)
        except (FileNotFoundError, NotADirectoryError):
            return Listing()
        try:
            for entry in _ordered(folder, base, ""):
                if entry.endswith("/"):
                    if next(self._walk(base + entry[:-1], ""), None) is not None:
                        prefixes.append(base + entry)
                elif (status := _status(folder, entry)) is not None:
                    objects.append(_meta(base + entry, status))
        except OSError as error:
            raise folders.translate(error, below, self.uri) from error
        finally:
            os.close(folder)
        return Listing(tuple(objects), tuple(prefixes))

    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        refuse(self.lacks, "presign", who=self.uri)


def _name_taken(key: str, why: str) -> Invalid:
    return Invalid(
        f"key: {key} cannot be written: {why}",
        hint="on a file system a name is either an object or a folder; choose another key",
        field="key",
        resource=key,
    )


def _version(status: os.stat_result) -> Version:
    return Version(f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")


def _meta(key: str, status: os.stat_result) -> ObjectMeta:
    return ObjectMeta(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), _version(status))


def _status(folder: int, name: str) -> os.stat_result | None:
    """The status of a file just listed; ``None`` when it is gone again."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _discard(folder: int, temporary: str) -> None:
    try:
        os.unlink(temporary, dir_fd=folder)
    except FileNotFoundError:
        return


def _read(fd: int, start: int, length: int) -> bytes:
    """Exactly what is there of ``length`` bytes from ``start``; one system call unless the file is over 2 GiB."""
    data = os.pread(fd, length, start)
    if len(data) == length:
        return data
    parts = [data]
    have = len(data)
    while have < length and (part := os.pread(fd, length - have, start + have)):
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def _fill(fd: int, body: Body) -> None:
    if isinstance(body, bytes | bytearray | memoryview):
        _write(fd, body)
    elif isinstance(body, Path):
        with body.open("rb", buffering=0) as file:
            _pour(fd, file)
    elif hasattr(body, "read"):
        _pour(fd, body)
    else:
        for chunk in body:
            _write(fd, chunk)


def _pour(fd: int, file: BinaryIO | Iterable[bytes]) -> None:
    read = file.read  # type: ignore[union-attr]
    while chunk := read(_COPY_BYTES):
        _write(fd, chunk)


def _write(fd: int, data: bytes | bytearray | memoryview) -> None:
    written = os.write(fd, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _ordered(folder: int, base: str, after: str) -> Iterator[str]:
    """Names in ``folder`` in key order, folders with a trailing slash, without what lies wholly before ``after``.

    Holds at most ``_BATCH`` names: a larger folder is scanned again for each further batch.
    """
    last = ""
    while True:
        names = _scan(folder, base, after, last)
        batch = list(itertools.islice(names, _BATCH))
        rest = next(names, None)
        if rest is None:
            yield from sorted(batch)
            return
        batch = heapq.nsmallest(_BATCH, itertools.chain(batch, (rest,), names))
        yield from batch
        last = batch[-1]


def _scan(folder: int, base: str, after: str, last: str) -> Iterator[str]:
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(RESERVED_PREFIX):
                folders.sweep(folder, name)
                continue
            if entry.is_dir(follow_symlinks=False):
                name += "/"
                if base + name < after and not after.startswith(base + name):
                    continue
            elif base + name <= after or not entry.is_file(follow_symlinks=False):
                continue
            if name > last and _legal(name):
                yield name


def _legal(name: str) -> bool:
    """Whether a name found on disk can be a key; a file that no call could address is not listed either."""
    if name.isascii() and name.isprintable() and "%" not in name and "\\" not in name:
        return True
    try:
        check_key(name.removesuffix("/"))
    except Invalid:
        return False
    return True
