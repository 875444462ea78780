"""A small pool of database connections: lent to one thread at a time, kept for the next, never carried across a fork."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

_KEPT = 5
"""Idle connections kept open; more threads than that at once open and close their own."""


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Connections(Generic[C]):
    """Taking and giving back are single list operations, atomic among threads without a lock that a fork could leave held
    for ever."""

    def __init__(self, open_one: Callable[[], C]) -> None:
        self._open = open_one
        self._idle: list[C] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        _POOLS.add(self)

    @contextmanager
    def lent(self) -> Iterator[C]:
        """A connection of the caller's own. One on which anything went wrong is closed, which also rolls back whatever it
        had begun; so no connection is ever kept in an unknown state. Raises the driver's errors."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._take_back(connection)

    def has_idle(self) -> bool:
        """Whether the next one lent may have lain idle; another thread may take it first."""
        return bool(self._idle)

    def forget(self) -> None:
        """Close the idle connections: what broke one has probably broken all."""
        _close_all(self._idle)

    def close(self) -> None:
        """Close the idle connections, and those still lent as they come back."""
        self._closed = True
        _close_all(self._idle)

    def leave_to_parent(self) -> None:
        """In a forked child: a connection that another process opened may neither be used nor closed. SQLite would lose its
        locks (SQLite documentation, "How To Corrupt An SQLite Database File", section 2.6); a PostgreSQL server would be told
        good-bye over the parent's socket."""
        _INHERITED.extend(self._idle)
        self._idle.clear()

    def _take_back(self, connection: C) -> None:
        if len(self._idle) >= _KEPT:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # asked after the append, so that a close in another thread cannot miss it
            _close_all(self._idle)


_POOLS: weakref.WeakSet[Connections[Any]] = weakref.WeakSet()
_INHERITED: list[Closable] = []
"""In a forked child: its parent's connections, held so that they are not closed by being collected."""


def _forked() -> None:
    for pool in _POOLS:
        pool.leave_to_parent()


os.register_at_fork(after_in_child=_forked)


def _close_all(idle: list[Any]) -> None:
    while True:
        try:
            connection = idle.pop()
        except IndexError:
            return
        connection.close()
