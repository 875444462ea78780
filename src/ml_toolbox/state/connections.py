"""Connections to one SQLite file: lent to one thread at a time, kept for the next, never carried across a fork."""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY_S = 30.0
"""How long a writer waits for another. A transaction here takes milliseconds; this only covers a suspended process."""

_KEPT = 5
"""Idle connections kept open; more threads than that at once open and close their own."""


class Connections:
    """A small pool. Taking and giving back are single list operations, atomic among threads without a lock that a fork
    could leave held for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        _POOLS.add(self)

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
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

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Likewise, with the write lock held from the start; committed at the end unless the block has done it."""
        with self.lent() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Close the idle connections, and those still lent as they come back."""
        self._closed = True
        _close_all(self._idle)

    def leave_to_parent(self) -> None:
        """In a forked child: SQLite forbids using a connection that another process opened, and closing it as well
        (SQLite documentation, "How To Corrupt An SQLite Database File", section 2.6)."""
        _INHERITED.extend(self._idle)
        self._idle.clear()

    def _take_back(self, connection: sqlite3.Connection) -> None:
        if len(self._idle) >= _KEPT:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # asked after the append, so that a close in another thread cannot miss it
            _close_all(self._idle)

    def _open(self) -> sqlite3.Connection:
        # The busy timeout is in force before the first statement: switching to WAL needs the lock for a moment when two
        # processes make the file together. No isolation level: transactions begin where they are said to.
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}").close()
        except BaseException:
            connection.close()
            raise
        return connection


_POOLS: weakref.WeakSet[Connections] = weakref.WeakSet()
_INHERITED: list[sqlite3.Connection] = []
"""In a forked child: its parent's connections, held so that they are not closed by being collected."""


def _forked() -> None:
    for pool in _POOLS:
        pool.leave_to_parent()


os.register_at_fork(after_in_child=_forked)


def _close_all(idle: list[sqlite3.Connection]) -> None:
    while True:
        try:
            connection = idle.pop()
        except IndexError:
            return
        connection.close()
