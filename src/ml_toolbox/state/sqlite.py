"""The embedded store: one SQLite file, shared by every process on the host that uses this home.

WAL lets readers go on while one writer writes; ``BEGIN IMMEDIATE`` takes the write lock at the start, so a transaction
never fails half-way for want of it; ``synchronous=FULL`` syncs the log at every commit, so what was answered is durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, create_engine, event, exc, insert, select, update

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable
from ml_toolbox.engine.rows import WISH_ORDER, Change, Row, Transition, Wish
from ml_toolbox.state import schema
from ml_toolbox.state.schema import settings, transition, work

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
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S, "check_same_thread": False})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        now = (clock or SystemClock()).now()
        with self._reading() as connection:
            current = _is_current(connection)
        if not current:
            with self._writing() as connection:
                schema.migrate(connection, now)

    def close(self) -> None:
        self._engine.dispose()

    def install_id(self) -> str:
        with self._reading() as connection:
            return str(connection.execute(select(settings.c.value).where(settings.c.key == "install")).scalar_one())

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0) -> Row:
        token = 1 if owner else 0
        until = row.created_at + lease_s if owner else 0.0
        values = {name: getattr(row, name) for name in _COLUMNS}
        values |= {"lease_owner": owner, "lease_token": token, "lease_until": until}
        try:
            with self._writing() as connection:
                connection.execute(insert(work).values(values))
                _note(connection, row.id, row.created_at, row.phase, row.state, "created", token)
        except exc.IntegrityError as error:
            raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id) from error
        return _row(values)

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
        query = select(work).where(work.c.kind == kind).order_by(work.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(work.c.name == name)
        if id_prefix is not None:
            query = query.where(work.c.id.startswith(id_prefix, autoescape=True))
        if states is not None:
            query = query.where(work.c.state.in_(tuple(states)))
        if without_phases:
            query = query.where(work.c.phase.not_in(tuple(without_phases)))
        if before is not None:
            query = query.where(work.c.id < before)
        with self._reading() as connection:
            return tuple(_row(found) for found in connection.execute(query).mappings())

    def due(self, kinds: Collection[str], now: float) -> tuple[str, ...]:
        query = select(work.c.id).where(work.c.kind.in_(tuple(kinds)), work.c.due_at <= now).order_by(work.c.due_at)
        with self._reading() as connection:
            return tuple(connection.execute(query).scalars())

    def claim(
        self, row_id: str, *, owner: str, now: float, lease_s: float, is_dead: Callable[[str], bool]
    ) -> Row | None:
        with self._writing() as connection:
            found = connection.execute(select(work).where(work.c.id == row_id)).mappings().one_or_none()
            if found is None:
                return None
            holder = found["lease_owner"]
            if holder and found["lease_until"] > now and not is_dead(holder):
                return None
            values = {"lease_owner": owner, "lease_token": found["lease_token"] + 1, "lease_until": now + lease_s}
            connection.execute(update(work).where(work.c.id == row_id).values(values))
            return _row({**found, **values})

    def apply(self, row: Row, change: Change | None, *, now: float, lease_s: float, release: bool) -> Row | None:
        with self._writing() as connection:
            mine = select(work).where(work.c.id == row.id, work.c.lease_token == row.lease_token)
            found = connection.execute(mine).mappings().one_or_none()
            if found is None:
                return None
            values: dict[str, Any] = {"lease_until": now + lease_s}
            if release and found["wish"] == row.wish:
                values = {"lease_owner": "", "lease_until": 0.0}
            if change is not None:
                values |= {
                    "phase": change.phase,
                    "state": change.state,
                    "data": dict(change.data),
                    "due_at": change.due_at,
                    "updated_at": now,
                }
                if change.ended and found["ended_at"] is None:
                    values["ended_at"] = now
                if change.message or (change.phase, change.state) != (found["phase"], found["state"]):
                    _note(connection, row.id, now, change.phase, change.state, change.message, row.lease_token)
            guard = (work.c.id == row.id, work.c.lease_token == row.lease_token)
            connection.execute(update(work).where(*guard).values(values))
            return _row({**found, **values})

    def wish(self, row_id: str, wish: Wish, *, now: float) -> Row:
        with self._writing() as connection:
            row = _get(connection, row_id)
            if WISH_ORDER.index(wish) <= WISH_ORDER.index(row.wish):
                return row
            values = {"wish": wish, "due_at": now, "updated_at": now}
            connection.execute(update(work).where(work.c.id == row_id).values(values))
            _note(connection, row_id, now, row.phase, row.state, f"{wish} wanted", row.lease_token)
            return _get(connection, row_id)

    def history(self, row_id: str) -> tuple[Transition, ...]:
        query = select(transition).where(transition.c.work_id == row_id).order_by(transition.c.seq)
        with self._reading() as connection:
            return tuple(
                Transition(**{name: line[name] for name in ("at", "phase", "state", "message", "lease_token")})
                for line in connection.execute(query).mappings()
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _translated(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _translated(self.path), self._engine.connect() as plain:
            connection = plain.execution_options(mlt_write=True)
            with connection.begin():
                yield connection


_COLUMNS = tuple(column.name for column in work.columns)


def _is_current(connection: Connection) -> bool:
    """Whether the schema is this release's, asked in one cheap read so that the common start takes no write lock."""
    known = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").first()
    if known is None:
        return False
    version = connection.execute(
        select(schema.schema_version.c.version).order_by(schema.schema_version.c.version.desc())
    )
    return version.scalars().first() == len(schema.MIGRATIONS)


def _configure(dbapi_connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own idea of when to begin a transaction is switched off: `_begin` says it explicitly.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    # busy_timeout comes first: switching to WAL needs the lock for a moment when two processes make the file together.
    for pragma in (f"busy_timeout={int(_BUSY_S * 1000)}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("mlt_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Invalid(
                f"{path} is not a readable state database",
                hint="move the file away to start empty; jobs and models themselves are kept elsewhere",
                resource=str(path),
            ) from error
        raise Unavailable(f"the state database {path} cannot be used: {error.orig}", resource=str(path)) from error


def _get(connection: Connection, row_id: str) -> Row:
    found = connection.execute(select(work).where(work.c.id == row_id)).mappings().one_or_none()
    if found is None:
        raise NotFound(f"no row {row_id}", resource=row_id)
    return _row(found)


def _row(values: RowMapping | dict[str, Any]) -> Row:
    return Row(**{name: values[name] for name in _COLUMNS})


def _note(
    connection: Connection, row_id: str, now: float, phase: str, state: str, message: str, lease_token: int
) -> None:
    connection.execute(
        insert(transition).values(
            work_id=row_id, at=now, phase=phase, state=state, message=message, lease_token=lease_token
        )
    )
