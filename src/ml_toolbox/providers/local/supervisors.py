"""Starting supervisors: detached from the command that starts them, and reaped by it while it lives.

A supervisor can also be started ahead of time: it loads its code and then waits on a pipe for the folder it is to supervise.
A command that will submit in a moment uses the other core that way, and the script starts some 40 ms earlier. Nothing
exists until the folder is named; when the command ends or dies first, the pipe closes and the waiting process leaves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

_spawned: set[int] = set()
"""Supervisors that this process started: they are its children, and it must take their exit status from the kernel."""


class _Waiting(NamedTuple):
    pid: int
    pipe: int
    path: str


_waiting: list[_Waiting] = []
"""At most one, loaded and waiting for a folder."""


def prepare(path: Path) -> None:
    """Start one ahead of time; ``path`` is the folder that shows it this package. Called again: nothing happens."""
    if _waiting:
        return
    reader, writer = os.pipe()
    try:
        pid = _spawn(path, ["--standby"], stdin=reader, log=os.devnull)
    finally:
        os.close(reader)
    _waiting.append(_Waiting(pid, writer, str(path)))


def start(root: Path, path: Path) -> None:
    """Supervise the job in the folder ``root``, by the waiting process when there is one."""
    if not _hand_over(root, path):
        _spawn(path, ["--root", str(root)], stdin=None, log=str(root / "supervisor.log"))


def reap() -> None:
    """Take the exit status of supervisors that ended, so that none stays a zombie in a process that lives long."""
    for pid in list(_spawned):
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            done = pid
        if done:
            _spawned.discard(pid)


def _hand_over(root: Path, path: Path) -> bool:
    if not _waiting or _waiting[0].path != str(path):
        return False
    waiting = _waiting.pop()
    reap()
    try:
        if waiting.pid in _spawned:
            os.write(waiting.pipe, f"{root}\n".encode())
            return True
    except BrokenPipeError:
        pass
    finally:
        os.close(waiting.pipe)
    return False


def _spawn(path: Path, arguments: list[str], *, stdin: int | None, log: str) -> int:
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(path), *([inherited] if inherited else [])])
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    pid = os.posix_spawn(
        sys.executable,
        # -S: the supervisor needs nothing that is installed, so it does not wait for the search path to be read.
        [sys.executable, "-S", "-P", "-m", "ml_toolbox.runtime", "train", *arguments],
        environment,
        file_actions=[
            null if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    _spawned.add(pid)
    return pid
