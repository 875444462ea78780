"""Scarce things on one host - places to run, GPUs - handed out by file locks, first come first served.

A lock lives exactly as long as the process that holds it, so nothing has to be given back after a crash, and it works
between any number of commands without a server.
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

from ml_toolbox.runtime.job import Places


class Held(NamedTuple):
    """Places taken; they are free again when the descriptors are closed, at the latest when the process ends."""

    numbers: list[int]
    descriptors: list[int]

    def release(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class Line:
    """One waiter in the line for ``wanted`` of the places. Poll :meth:`try_take`; earlier waiters that live go first."""

    def __init__(self, places: Places, wanted: int, ticket: str) -> None:
        self._places = places
        self._wanted = wanted
        self._ticket = f"{ticket}.wait"
        os.makedirs(places.folder, exist_ok=True)
        self._waiting = _locked(os.path.join(places.folder, self._ticket))

    def try_take(self) -> Held | None:
        """The places, or ``None`` when not enough are free or somebody waits longer. Never blocks."""
        if self._somebody_is_first():
            return None
        held = Held([], [])
        for number in range(self._places.total):
            descriptor = _locked(os.path.join(self._places.folder, f"{number}.lock"))
            if descriptor is not None:
                held.numbers.append(number)
                held.descriptors.append(descriptor)
            if len(held.numbers) == self._wanted:
                self.leave()
                return held
        held.release()
        return None

    def leave(self) -> None:
        """Wait no longer."""
        if self._waiting is not None:
            os.unlink(os.path.join(self._places.folder, self._ticket))
            os.close(self._waiting)
            self._waiting = None

    def _somebody_is_first(self) -> bool:
        for name in sorted(os.listdir(self._places.folder)):
            if not name.endswith(".wait") or name >= self._ticket:
                continue
            path = os.path.join(self._places.folder, name)
            descriptor = _locked(path, create=False)
            if descriptor is None and os.path.exists(path):
                return True
            if descriptor is not None:  # its waiter is dead: take the ticket away
                os.unlink(path)
                os.close(descriptor)
        return False


def _locked(path: str, *, create: bool = True) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
