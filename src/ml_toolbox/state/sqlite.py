"""The embedded store: one SQLite file, shared by every process on the host that uses this home.

WAL lets readers go on while one writer writes; ``BEGIN IMMEDIATE`` takes the write lock at the start, so a transaction
never fails half-way for want of it; ``synchronous=FULL`` syncs the log at every commit, so what was answered is durable.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Bug, Invalid, ToolboxError, Unavailable
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.state import ddl, migrations
from ml_toolbox.state.connections import Connections
from ml_toolbox.state.database import Duplicate, Posting, Session, Values
from ml_toolbox.state.sql_store import SqlStore

T = TypeVar("T")

BUSY_S = 30.0
"""How long a writer waits for another. A transaction here takes milliseconds; this only covers a suspended process."""


class SqliteStore(SqlStore):
    """The engine's store on one SQLite file; creates file and schema when absent, brings an older schema forward.

    The file must lie on a local disk: WAL needs shared memory between the processes (SQLite documentation, "Write-Ahead
    Logging", section 1). Time is the host's, which every process that can open the file shares.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        super().__init__(SqliteDatabase(path, clock or SystemClock()))


class SqliteDatabase:
    """See :class:`~ml_toolbox.state.database.Database`. A writer is alone: no rows are locked one by one."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connections = Connections(lambda: _open(path))
        # Asked in a plain read first, so that the common start takes no write lock.
        with _translated(path), self._connections.lent() as connection:
            session = _Session(connection, 0.0)
            current = migrations.is_current(session, _exists(session))
        if not current:
            self.write(_bring_forward)

    def now(self) -> float:
        return self._clock.now()

    def close(self) -> None:
        self._connections.close()

    def read(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        with _translated(self._path), self._connections.lent() as connection:
            return _Session(connection, 0.0).rows(statement, values)

    def read_unbroken(self, statement: str, values: Values, *, table: str) -> Sequence[Mapping[str, Any]]:
        # One writer at a time: lines get their numbers in the order in which they are committed.
        return self.read(statement, values)

    def write(self, body: Callable[[Session], T], *, posting: Posting = "none") -> T:
        refused: ToolboxError | None = None
        with _translated(self._path), self._connections.lent() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = body(_Session(connection, self._clock.now()))
                crash_point("store:written:before:commit")
                connection.execute("COMMIT")
                crash_point("store:committed:before:answer")
            except ToolboxError as error:  # a refusal, not a fault: the connection stays good
                connection.execute("ROLLBACK")
                refused = error
        if refused is not None:
            raise refused
        return result


class _Session:
    """See :class:`~ml_toolbox.state.database.Session`. Nothing is put off: a statement costs microseconds."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self.now = now

    def rows(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        # Fetched to the end: a statement left half-read would hold its snapshot, and with it the log from being shortened.
        return self._connection.execute(_in_own_words(statement), _flat(values)).fetchall()

    def count(self, statement: str, values: Values) -> int:
        return self._connection.execute(_in_own_words(statement), _flat(values)).rowcount

    def later(self, statement: str, *many: Values) -> None:
        if len(many) == 1:
            self._connection.execute(_in_own_words(statement), _flat(many[0])).close()
        elif many:
            self._connection.executemany(_in_own_words(statement), map(_flat, many)).close()


@cache
def _in_own_words(statement: str) -> str:
    """A list is one parameter, as JSON; no row is locked."""
    without_locks = re.sub(r"\s+FOR UPDATE( SKIP LOCKED)?", "", statement)
    return re.sub(r"\bIN :(\w+)", r"IN (SELECT value FROM json_each(:\1))", without_locks)


def _flat(values: Values) -> dict[str, Any]:
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}


def _open(path: Path) -> sqlite3.Connection:
    # The busy timeout is in force before the first statement: switching to WAL needs the lock for a moment when two
    # processes make the file together. No isolation level: transactions begin where they are said to.
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _exists(session: Session) -> bool:
    return bool(session.rows("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'", {}))


def _bring_forward(session: Session) -> None:
    # Inside a write transaction: another process may have been here since the version was asked.
    migrations.bring_forward(session, _exists(session), create=ddl.SQLITE, steps=migrations.SQLITE)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE):
            raise Duplicate from error
        raise Bug(f"the state database {path} refuses a line: {error}", resource=str(path)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Invalid(
                f"{path} is not a readable state database",
                hint="move the file away to start empty; jobs and models themselves are kept elsewhere",
                resource=str(path),
            ) from error
        raise Unavailable(
            f"the state database {path} cannot be used: {error}",
            hint="check free space and permissions there, and that no other program holds the file",
            resource=str(path),
        ) from error
