"""Directories and files below a root, handled so that nothing leaves it and nothing half-written is ever seen.

Containment is checked on the *opened* file descriptor (where the kernel says it leads), not on the path beforehand, so there
is no moment between check and use. Symbolic links below the root are refused, wherever they point: the root itself may be
one. Without ``/proc`` the path is resolved instead, which leaves such a moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterator

from ml_toolbox.base.errors import Denied, Invalid, NoCapacity, NotFound, ToolboxError, Unavailable
from ml_toolbox.base.uri import RESERVED_PREFIX

LOCK_NAME = f"{RESERVED_PREFIX}lock"
STALE_AFTER_S = 60.0
"""A temporary file younger than this may not have been locked yet by the process that writes it."""

_FD_LINKS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else ""
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_counter = itertools.count()

_ERRORS: dict[int, type[ToolboxError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EISDIR: NotFound,
    errno.ELOOP: Invalid,
    errno.ENAMETOOLONG: Invalid,
    errno.EILSEQ: Invalid,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENOSPC: NoCapacity,
    errno.EDQUOT: NoCapacity,
    errno.EFBIG: NoCapacity,
}
_HINTS: dict[type[ToolboxError], str] = {
    Denied: "check the owner and mode of the folder, and that it is not mounted read-only",
    NoCapacity: "free space on the file system, or use another one",
    Invalid: "rename it, or replace the symbolic link by what it points to",
}


def translate(error: OSError, key: str, uri: str) -> ToolboxError:
    """The toolbox's error for what the operating system said about ``key``; whatever is not listed may pass by itself."""
    kind = _ERRORS.get(error.errno or 0, Unavailable)
    return kind(
        f"{key or uri}: {error.strerror or error} in {uri}",
        hint=_HINTS.get(kind, ""),
        field="key" if kind is Invalid else "",
        resource=f"{uri}/{key}" if key else uri,
    )


def refuse_link(path: str) -> Invalid:
    return Invalid(
        f"key: {path} is reached through a symbolic link",
        hint="links below a store's root are not followed; open the store at the place the link points to",
        field="key",
        resource=path,
    )


def verify(fd: int, path: str) -> None:
    """Raise unless ``fd`` is exactly what ``path`` says, no link on the way. A file replaced meanwhile is fine."""
    if _FD_LINKS:
        actual = os.readlink(f"{_FD_LINKS}/{fd}")
        if actual != path and actual != f"{path} (deleted)":
            raise refuse_link(path)
    elif os.path.realpath(path) != path:
        raise refuse_link(path)


def open_folder(path: str) -> int:
    """A descriptor of the directory at ``path``; ``FileNotFoundError`` or ``NotADirectoryError`` when there is none."""
    fd = os.open(path or "/", _OPEN_FOLDER)
    try:
        verify(fd, path or "/")
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_folders(root: str, below: str) -> None:
    """Create ``root`` and the directories ``below`` it, each durable in its parent, following no link below the root."""
    os.makedirs(root or "/", exist_ok=True)
    fd = open_folder(root)
    try:
        for name in below.split("/") if below else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
                sync(fd)
            try:
                inner = os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(_lstat(name, fd)):
                    raise refuse_link(f"{root}/{below}") from error
                raise
            os.close(fd)
            fd = inner
    finally:
        os.close(fd)


def _lstat(name: str, folder: int) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode


def sync(fd: int) -> None:
    """Ask the device itself to keep what was written (macOS does not with fsync alone)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)


def write_back(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write to the device what was just written to the file, so that :func:`sync` at the end finds
    little to wait for. Only a matter of speed: nothing is durable before ``sync``.

    Linux starts the write-back of a range before it drops the range's clean pages. Those just written are not clean, so they
    stay in the page cache and are only the first to go when memory is short. Other systems give the advice another meaning,
    or have none.
    """
    advise = getattr(os, "posix_fadvise", None)  # macOS has none
    if advise is not None and sys.platform == "linux":
        advise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def open_temporary(folder: int) -> tuple[int, str]:
    """A new file in ``folder`` under a reserved name. The lock on it says that its writer lives; see :func:`sweep`."""
    name = f"{RESERVED_PREFIX}{os.getpid():x}-{next(_counter):x}-{os.urandom(4).hex()}"
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
    with contextlib.suppress(OSError):  # a file system without locks: the file is then swept by age alone
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd, name


def seal(fd: int) -> os.stat_result:
    """Give the file a modification time of its own, make it durable, and return its status.

    The kernel stamps files with a clock of 1 to 10 ms, and inode numbers are used again at once, so inode and kernel time
    would repeat between two quick writes; nanoseconds set by hand do not.
    """
    now = time.time_ns()
    os.utime(fd, ns=(now, now))
    sync(fd)
    return os.fstat(fd)


@contextlib.contextmanager
def locked(folder: int) -> Iterator[None]:
    """Exclude every other writer of ``folder``, in this and any other process, for the few microseconds of a swap.

    A side file rather than the directory itself: network file systems carry locks on files to the server, but keep locks
    on directories to one machine. The kernel lets go when the holder dies.
    """
    while True:
        fd = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else: removed with its emptied folder while we waited
                yield
                return
        finally:
            os.close(fd)


def prune(root: str, below: str) -> None:
    """Remove ``below`` and its parents up to ``root`` as long as they hold nothing, so that their names are free again."""
    while below:
        try:
            fd = open_folder(f"{root}/{below}")
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with locked(fd):
                if not _only_lock(fd):
                    return
                os.unlink(LOCK_NAME, dir_fd=fd)
                os.rmdir(f"{root}/{below}")
        except OSError as error:
            # Somebody wrote into it meanwhile, or removed it first: both are a good end of tidying up.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.EACCES, errno.EPERM):
                return
            raise
        finally:
            os.close(fd)
        below = below.rpartition("/")[0]


def _only_lock(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return all(entry.name == LOCK_NAME for entry in itertools.islice(entries, 2))


def sweep(folder: int, name: str) -> None:
    """Remove the temporary file ``name`` when the process that wrote it is gone; silently leave it otherwise."""
    if name == LOCK_NAME:
        return
    with contextlib.suppress(OSError):  # a read-only mount, another user's file, or already gone
        if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < STALE_AFTER_S:
            return
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(fd)
