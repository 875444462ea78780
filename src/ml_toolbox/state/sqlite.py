"""The embedded store: one SQLite file, shared by every process on the host that uses this home.

WAL lets readers go on while one writer writes; ``BEGIN IMMEDIATE`` takes the write lock at the start, so a transaction
never fails half-way for want of it; ``synchronous=FULL`` syncs the log at every commit, so what was answered is durable.

The statements are plain SQL on the standard library's driver: importing SQLAlchemy takes 0.13 s, more than all else that
happens before a job's first line. Tables and migrations stay in :mod:`schema`, which is loaded only when a database has to
be made or brought forward; a test compares every statement with it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable
from ml_toolbox.engine.rows import WISH_ORDER, Change, Row, Transition, Wish

SCHEMA_VERSION = 1
"""What :mod:`schema` migrates to."""

COLUMNS = (
    "id", "kind", "name", "phase", "state", "wish", "spec", "data", "due_at", "lease_owner", "lease_token", "lease_until",
    "created_at", "updated_at", "ended_at",
)  # fmt: skip
_JSON_COLUMNS = ("spec", "data")

INSERT_WORK = f"INSERT INTO work ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"  # noqa: S608
SELECT_WORK = f"SELECT {', '.join(COLUMNS)} FROM work"  # noqa: S608 - names from the tuple above
INSERT_TRANSITION = (
    "INSERT INTO transition (work_id, at, phase, state, message, lease_token) "
    "VALUES (:work_id, :at, :phase, :state, :message, :lease_token)"
)
SELECT_TRANSITIONS = (
    "SELECT at, phase, state, message, lease_token FROM transition WHERE work_id = :work_id ORDER BY seq"
)

_BUSY_S = 30.0
"""How long a writer waits for another. A transaction here takes milliseconds; this only covers a suspended process."""


class SqliteStore:
    """The engine's store on one SQLite file; creates file and schema when absent.

    The file must lie on a local disk: WAL needs shared memory between the processes (SQLite documentation, "Write-Ahead
    Logging", section 1).
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        with self._reading() as connection:
            current = _version(connection)
        if current != SCHEMA_VERSION:
            self._migrate((clock or SystemClock()).now())

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0) -> Row:
        token = 1 if owner else 0
        until = row.created_at + lease_s if owner else 0.0
        values = {name: getattr(row, name) for name in COLUMNS}
        values |= {"lease_owner": owner, "lease_token": token, "lease_until": until}
        try:
            with self._writing() as connection:
                connection.execute(INSERT_WORK, _stored(values))
                _note(connection, row.id, row.created_at, row.phase, row.state, "created", token)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id) from error
        return Row(**values)

    def get(self, row_id: str) -> Row:
        with self._reading() as connection:
            return _get(connection, row_id)

    def find(
        self,
        kind: str,
        *,
        name: str | None = None,
        id_prefix: str | None = None,
        states: Collection[str] | None = None,
        without_phases: Collection[str] = (),
        before: str | None = None,
        limit: int = 1000,
    ) -> tuple[Row, ...]:
        terms, values = ["kind = :kind"], {"kind": kind, "limit": limit}
        if name is not None:
            terms.append("name = :name")
            values["name"] = name
        if id_prefix is not None:
            # A range instead of LIKE, which ignores case in SQLite; ids are ASCII, so U+FFFF is past them all.
            terms.append("id >= :first AND id < :last")
            values |= {"first": id_prefix, "last": id_prefix + "\uffff"}
        if states is not None:
            terms.append(f"state IN ({_listed(values, 'state', states)})")
        if without_phases:
            terms.append(f"phase NOT IN ({_listed(values, 'phase', without_phases)})")
        if before is not None:
            terms.append("id < :before")
            values["before"] = before
        query = f"{SELECT_WORK} WHERE {' AND '.join(terms)} ORDER BY id DESC LIMIT :limit"
        with self._reading() as connection:
            return tuple(Row(**_loaded(found)) for found in connection.execute(query, values))

    def due(self, kinds: Collection[str], now: float) -> tuple[str, ...]:
        values: dict[str, Any] = {"now": now}
        chosen = _listed(values, "kind", kinds)
        query = f"SELECT id FROM work WHERE kind IN ({chosen}) AND due_at <= :now ORDER BY due_at"  # noqa: S608 - placeholders
        with self._reading() as connection:
            return tuple(row_id for (row_id,) in connection.execute(query, values))

    def claim(
        self, row_id: str, *, owner: str, now: float, lease_s: float, is_dead: Callable[[str], bool]
    ) -> Row | None:
        with self._writing() as connection:
            found = connection.execute(f"{SELECT_WORK} WHERE id = :id", {"id": row_id}).fetchone()
            if found is None:
                return None
            held = _loaded(found)
            if held["lease_owner"] and held["lease_until"] > now and not is_dead(held["lease_owner"]):
                return None
            values = {"lease_owner": owner, "lease_token": held["lease_token"] + 1, "lease_until": now + lease_s}
            _update(connection, row_id, held["lease_token"], values)
            return Row(**held | values)

    def apply(self, row: Row, change: Change | None, *, now: float, lease_s: float, release: bool) -> Row | None:
        with self._writing() as connection:
            mine = {"id": row.id, "token": row.lease_token}
            found = connection.execute(f"{SELECT_WORK} WHERE id = :id AND lease_token = :token", mine).fetchone()
            if found is None:
                return None
            held = _loaded(found)
            values: dict[str, Any] = {"lease_until": now + lease_s}
            if release and held["wish"] == row.wish:
                values = {"lease_owner": "", "lease_until": 0.0}
            if change is not None:
                values |= {
                    "phase": change.phase,
                    "state": change.state,
                    "data": dict(change.data),
                    "due_at": change.due_at,
                    "updated_at": now,
                }
                if change.ended and held["ended_at"] is None:
                    values["ended_at"] = now
                if change.message or (change.phase, change.state) != (held["phase"], held["state"]):
                    _note(connection, row.id, now, change.phase, change.state, change.message, row.lease_token)
            _update(connection, row.id, row.lease_token, values)
            return Row(**held | values)

    def wish(self, row_id: str, wish: Wish, *, now: float) -> Row:
        with self._writing() as connection:
            row = _get(connection, row_id)
            if WISH_ORDER.index(wish) <= WISH_ORDER.index(row.wish):
                return row
            _update(connection, row_id, row.lease_token, {"wish": wish, "due_at": now, "updated_at": now})
            _note(connection, row_id, now, row.phase, row.state, f"{wish} wanted", row.lease_token)
            return _get(connection, row_id)

    def history(self, row_id: str) -> tuple[Transition, ...]:
        with self._reading() as connection:
            lines = connection.execute(SELECT_TRANSITIONS, {"work_id": row_id})
            return tuple(Transition(**dict(line)) for line in lines)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each caller, whatever its thread; committed when the block ends well."""
        with _translated(self.path):
            connection = self._borrow()
            try:
                connection.execute(begin)
                try:
                    yield connection
                except BaseException:
                    if connection.in_transaction:  # a full disk makes SQLite roll back by itself
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error:
                connection.close()
                raise
            except BaseException:
                self._give_back(connection)
                raise
            self._give_back(connection)

    def _borrow(self) -> sqlite3.Connection:
        with self._lock:
            if self._pid != os.getpid():
                # Connections must not be carried across a fork (SQLite, "How To Corrupt"); they are left to the parent.
                self._idle, self._pid = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        return connect(self.path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _migrate(self, now: float) -> None:
        from sqlalchemy import NullPool, create_engine, event

        from ml_toolbox.state import schema

        engine = create_engine("sqlite://", creator=lambda: connect(self.path), poolclass=NullPool)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with _translated(self.path), engine.begin() as connection:
            schema.migrate(connection, now)


def connect(path: Path) -> sqlite3.Connection:
    """A connection with our settings; transactions are begun by statement, not by the driver's own idea of when."""
    with _translated(path):
        connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            # busy_timeout comes first: switching to WAL needs the lock for a moment when two processes make the file together.
            for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection


def _version(connection: sqlite3.Connection) -> int:
    """The schema's version, asked in cheap reads so that the common start takes no write lock; 0 for a new file."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
    if known is None:
        return 0
    return int(connection.execute("SELECT max(version) FROM schema_version").fetchone()[0] or 0)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except Exception as error:  # the driver's error, bare or wrapped by SQLAlchemy during a migration; all others go on
        cause = getattr(error, "orig", error)
        if not isinstance(cause, sqlite3.Error):
            raise
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Invalid(
                f"{path} is not a readable state database",
                hint="move the file away to start empty; jobs and models themselves are kept elsewhere",
                resource=str(path),
            ) from error
        raise Unavailable(
            f"the state database {path} cannot be used: {cause}",
            hint="check free space and permissions there, and that no other program holds the file",
            resource=str(path),
        ) from error


def _get(connection: sqlite3.Connection, row_id: str) -> Row:
    found = connection.execute(f"{SELECT_WORK} WHERE id = :id", {"id": row_id}).fetchone()
    if found is None:
        raise NotFound(f"no row {row_id}", resource=row_id)
    return Row(**_loaded(found))


def _update(connection: sqlite3.Connection, row_id: str, token: int, values: Mapping[str, Any]) -> None:
    """Guarded by the fencing token, although the caller has just compared it in the same transaction."""
    changes = ", ".join(f"{name} = :{name}" for name in values)
    guard = {"guard_id": row_id, "guard_token": token}
    statement = f"UPDATE work SET {changes} WHERE id = :guard_id AND lease_token = :guard_token"  # noqa: S608 - our own names
    connection.execute(statement, _stored(values) | guard)


def _note(
    connection: sqlite3.Connection, row_id: str, now: float, phase: str, state: str, message: str, lease_token: int
) -> None:
    values = {
        "work_id": row_id,
        "at": now,
        "phase": phase,
        "state": state,
        "message": message,
        "lease_token": lease_token,
    }
    connection.execute(INSERT_TRANSITION, values)


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    # str() because states and phases are enumerations, which the driver would not know.
    plain = {name: str(value) if isinstance(value, str) else value for name, value in values.items()}
    return plain | {name: json.dumps(dict(values[name])) for name in _JSON_COLUMNS if name in values}


def _loaded(found: sqlite3.Row) -> dict[str, Any]:
    values = dict(found)
    return values | {name: json.loads(values[name]) for name in _JSON_COLUMNS}


def _listed(values: dict[str, Any], prefix: str, items: Collection[str]) -> str:
    """Placeholders for the items, whose values are added to ``values``."""
    names = [f"{prefix}_{number}" for number in range(len(items))]
    values.update(zip(names, map(str, items), strict=True))
    return ", ".join(f":{name}" for name in names)
