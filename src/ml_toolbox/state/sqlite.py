"""The embedded store: one SQLite file, shared by every process on the host that uses this home.

WAL lets readers go on while one writer writes; ``BEGIN IMMEDIATE`` takes the write lock at the start, so a transaction
never fails half-way for want of it; ``synchronous=FULL`` syncs the log at every commit, so what was answered is durable.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable
from ml_toolbox.engine.rows import WISH_ORDER, Change, Row, Transition, Wish
from ml_toolbox.state import ddl, statements
from ml_toolbox.state.connections import Connections

_COLUMNS = tuple(field.name for field in fields(Row))
_JSON_COLUMNS = ("spec", "data")


class SqliteStore:
    """The engine's store on one SQLite file; creates file and schema when absent.

    The file must lie on a local disk: WAL needs shared memory between the processes (SQLite documentation, "Write-Ahead
    Logging", section 1).
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connections = Connections(path)
        # Asked in a plain read first, so that the common start takes no write lock.
        with self._reading() as connection:
            current = _version(connection) == ddl.VERSION
        if not current:
            with self._writing() as connection:
                _bring_forward(connection, (clock or SystemClock()).now())

    def close(self) -> None:
        self._connections.close()

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0) -> Row:
        token = 1 if owner else 0
        until = row.created_at + lease_s if owner else 0.0
        values = {name: getattr(row, name) for name in _COLUMNS}
        values |= {"lease_owner": owner, "lease_token": token, "lease_until": until}
        try:
            with self._writing() as connection:
                connection.execute(statements.INSERT_WORK, _stored(values))
                _note(connection, row.id, row.created_at, row.phase, row.state, "created", token)
        except sqlite3.IntegrityError as error:
            raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id) from error
        return Row(**values)

    def get(self, row_id: str) -> Row:
        with self._reading() as connection:
            found = _one(connection, statements.GET, id=row_id)
        return _present(found, row_id)

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
        query = statements.find(
            name=name is not None,
            id_prefix=id_prefix is not None,
            before=before is not None,
            states=states,
            without_phases=without_phases,
        )
        values = {
            "kind": kind,
            "name": name,
            "id_prefix": id_prefix,
            "before": before,
            "limit": limit,
            **statements.listed("state", states or ()),
            **statements.listed("phase", without_phases),
        }
        with self._reading() as connection:
            found = connection.execute(query, values).fetchall()
        return tuple(_row(line) for line in found)

    def due(self, kinds: Collection[str], now: float) -> tuple[str, ...]:
        values = {"now": now, **statements.listed("kind", kinds)}
        with self._reading() as connection:
            found = connection.execute(statements.due(kinds), values).fetchall()
        return tuple(line["id"] for line in found)

    def claim(
        self, row_id: str, *, owner: str, now: float, lease_s: float, is_dead: Callable[[str], bool]
    ) -> Row | None:
        with self._writing() as connection:
            found = _one(connection, statements.GET, id=row_id)
            if found is None:
                return None
            holder = found["lease_owner"]
            if holder and found["lease_until"] > now and not is_dead(holder):
                return None
            values = {"lease_owner": owner, "lease_token": found["lease_token"] + 1, "lease_until": now + lease_s}
            connection.execute(statements.CLAIM, {"id": row_id, **values})
            return _row(found, **values)

    def apply(self, row: Row, change: Change | None, *, now: float, lease_s: float, release: bool) -> Row | None:
        with self._writing() as connection:
            mine = {"id": row.id, "lease_token": row.lease_token}
            found = _one(connection, statements.GET_HELD, **mine)
            if found is None:
                return None
            values: dict[str, Any] = {"lease_owner": found["lease_owner"], "lease_until": now + lease_s}
            if release and found["wish"] == row.wish:
                values = {"lease_owner": "", "lease_until": 0.0}
            if change is None:
                connection.execute(statements.LEASE, {**mine, **values})
                return _row(found, **values)
            values |= {
                "phase": change.phase,
                "state": change.state,
                "data": dict(change.data),
                "due_at": change.due_at,
                "updated_at": now,
                "ended_at": now if change.ended and found["ended_at"] is None else found["ended_at"],
            }
            if change.message or (change.phase, change.state) != (found["phase"], found["state"]):
                _note(connection, row.id, now, change.phase, change.state, change.message, row.lease_token)
            connection.execute(statements.CHANGE, _stored({**mine, **values}))
            return _row(found, **values)

    def wish(self, row_id: str, wish: Wish, *, now: float) -> Row:
        with self._writing() as connection:
            found = _one(connection, statements.GET, id=row_id)
            row = _present(found, row_id)
            if WISH_ORDER.index(wish) <= WISH_ORDER.index(row.wish):
                return row
            connection.execute(statements.WISH, {"id": row_id, "wish": wish, "due_at": now, "updated_at": now})
            _note(connection, row_id, now, row.phase, row.state, f"{wish} wanted", row.lease_token)
            return _present(_one(connection, statements.GET, id=row_id), row_id)

    def history(self, row_id: str) -> tuple[Transition, ...]:
        with self._reading() as connection:
            found = connection.execute(statements.HISTORY, {"work_id": row_id}).fetchall()
        return tuple(Transition(**line) for line in found)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _translated(self.path), self._connections.lent() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _translated(self.path), self._connections.transaction() as connection:
            yield connection


def _version(connection: sqlite3.Connection) -> int:
    """The schema the database has; 0 for a new one."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchall()
    if not known:
        return 0
    return int(_one(connection, statements.VERSION)["version"] or 0)  # type: ignore[index]


def _bring_forward(connection: sqlite3.Connection, now: float) -> None:
    """Inside a write transaction: another process may have been here since the version was asked."""
    version = _version(connection)
    if version == 0:
        for statement in ddl.CREATE:
            connection.execute(statement)
        connection.execute(statements.ADD_VERSION, {"version": ddl.VERSION, "applied_at": now})
    elif version != ddl.VERSION:
        from ml_toolbox.state import schema

        schema.migrate_sqlite(connection, now)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
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


def _one(connection: sqlite3.Connection, statement: str, **values: Any) -> sqlite3.Row | None:
    # Fetched to the end: a statement left half-read would hold its snapshot, and with it the log from being shortened.
    lines = connection.execute(statement, values).fetchall()
    return lines[0] if lines else None


def _present(found: sqlite3.Row | None, row_id: str) -> Row:
    if found is None:
        raise NotFound(f"no row {row_id}", resource=row_id)
    return _row(found)


def _row(found: sqlite3.Row, **changed: Any) -> Row:
    read = {name: json.loads(found[name]) if name in _JSON_COLUMNS else found[name] for name in _COLUMNS}
    return Row(**{**read, **changed})


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON_COLUMNS else value for name, value in values.items()}


def _note(
    connection: sqlite3.Connection, row_id: str, now: float, phase: str, state: str, message: str, lease_token: int
) -> None:
    values = {"work_id": row_id, "at": now, "phase": phase, "state": state, "message": message}
    connection.execute(statements.INSERT_TRANSITION, {**values, "lease_token": lease_token})
