"""Processes on this host: who one is (a pid alone is reused), whether it lives, what descends from it, and ending them.

Reads ``/proc``; on a system without it, liveness cannot be judged and :func:`supported` says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

MARK_VARIABLE = "MLTOOLBOX_MARK"
"""Environment variable whose value is the same in every process of one job or server, whatever sessions they made."""


class ProcessIdentity(NamedTuple):
    """One process for ever: pids are reused, (host, boot, pid, start time) is not."""

    host: str
    boot: str
    pid: int
    start: str
    """Clock ticks between boot and the process's start; "" where that cannot be known."""

    def __str__(self) -> str:
        return "|".join(str(part) for part in self)

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """The inverse of ``str``. Raises ``ValueError`` for anything else."""
        host, boot, pid, start = text.split("|")
        return cls(host, boot, int(pid), start)

    @property
    def is_local(self) -> bool:
        return self.host == host_name()

    @property
    def is_gone(self) -> bool:
        """Whether it certainly runs no more. A process of another host is never called gone from here."""
        if not self.is_local:
            return False
        if self.boot != boot_id():
            return True
        return bool(self.start) and start_time(self.pid) != self.start


def supported() -> bool:
    return os.path.exists("/proc/self/stat")


def identity(pid: int | None = None) -> ProcessIdentity:
    """The identity of a running process, this one by default."""
    pid = os.getpid() if pid is None else pid
    return ProcessIdentity(host_name(), boot_id(), pid, start_time(pid) or "")


def host_name() -> str:
    return os.uname().nodename


def boot_id() -> str:
    """Random id of this boot of the host, "" without /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """Field 22 of ``/proc/PID/stat`` (proc(5)); ``None`` when there is no such process or it is a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def descendants(root: int) -> set[int]:
    """Pids of all living processes whose chain of parents leads to ``root``, without ``root`` itself."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def marked(mark: str) -> set[int]:
    """Pids of living processes that carry the mark in their environment."""
    needle = f"{MARK_VARIABLE}={mark}".encode()
    found = set()
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
        except OSError:  # gone meanwhile, or another user's
            continue
        if needle in environ.split(b"\0") and start_time(pid) is not None:
            found.add(pid)
    return found


def resident_bytes(pids: Iterable[int]) -> int:
    """Sum of the resident sets. Cheap; counts pages that forked workers share once per worker."""
    return sum(_resident(pid) for pid in pids)


def proportional_bytes(pids: Iterable[int]) -> int:
    """Like :func:`resident_bytes`, with shared pages counted once in all (PSS, proc(5)); takes milliseconds per GiB."""
    return sum(_proportional(pid) for pid in pids)


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send the signal to each; those that are gone are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def kill_until_gone(
    mark: str, *, parents: Iterable[int] = (), spare: Iterable[int] = (), within_s: float = 5.0
) -> bool:
    """Kill everything that carries the mark or descends from ``parents``, again and again until nothing is found: a
    process that forks while we look is caught by the next look. Returns whether nothing was left at the end."""
    spared = {*spare, os.getpid()}
    deadline = time.monotonic() + within_s
    parents = tuple(parents)
    while True:
        left = marked(mark).union(*(descendants(parent) for parent in parents)) - spared
        if not left:
            return True
        kill(left)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` after the command's name, which may itself contain spaces and parentheses."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident(pid)
