"""The store for many workers: a PostgreSQL server (13 or newer), through psycopg 3.

A transaction takes three messages: one begins it and brings the server's time, one reads and locks, one writes everything and
commits. The number that the server gave the transaction is known before its commit is sent; so when the answer is lost, the
server is asked what became of it, and no caller ever has to guess.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias, TypeVar

from ml_toolbox.base.clock import Clock
from ml_toolbox.base.errors import Bug, Denied, Invalid, MissingExtra, ToolboxError, Unavailable, Unsupported
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.state import ddl, migrations
from ml_toolbox.state.connections import Connections
from ml_toolbox.state.database import Duplicate, Posting, Session, Values
from ml_toolbox.state.sql_store import SqlStore

try:
    import psycopg
    from psycopg import conninfo
    from psycopg.rows import dict_row
except ImportError as error:
    raise MissingExtra.named("psycopg", "postgres", "state in PostgreSQL") from error

T = TypeVar("T")
_Connection: TypeAlias = "psycopg.Connection[dict[str, Any]]"

_DEFAULTS = {
    "application_name": "ml-toolbox",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Of libpq, so that a server that has vanished is noticed; whatever the URL says comes first."""

_PREPARE = """
SET statement_timeout = '60s'; SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"""
"""A worker that is stopped in the middle of a transaction must not keep the others from its rows for longer than that. And
what was answered is durable, even where the server's default says otherwise."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
_DOOR: Mapping[Posting, str] = {
    "none": "",
    "shared": "LOCK TABLE budget IN ROW SHARE MODE;",
    "alone": "LOCK TABLE budget IN EXCLUSIVE MODE;",
}
_TIME = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
_BEGUN = f"{_TIME}, pg_current_xact_id()::text AS number"
_MIGRATING = 0x6D6C7462
"""The advisory lock under which tables are made: the letters "mltb"."""

_OLDEST = 130_000
"""The first server that tells the number of a transaction in 64 bits, and what became of it."""

_TRIES = 8
_UNKNOWN_S = 30.0
"""How long a lost answer to a commit is asked after: a server that crashed needs some seconds to come back."""
_FRESH_S = 10.0
"""How long the host's monotonic clock carries the server's time on between two readings of it."""


class PostgresStore(SqlStore):
    """The engine's store on a PostgreSQL database; makes the tables when absent, in the first schema of the search path
    (to choose one: ``?options=-csearch_path%3DNAME``).

    Args:
        clock: instead of the server's time, for tests.

    Raises ``Unavailable``, ``Denied``, ``Invalid`` (the URL), ``Unsupported`` (a newer release's tables). No message shows the
    password. Poolers that hand every transaction another connection (PgBouncer's transaction mode) cannot be used: settings and
    prepared statements belong to a session.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        super().__init__(PostgresDatabase(url, clock))


class PostgresDatabase:
    """See :class:`~ml_toolbox.state.database.Database`."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self._clock = clock
        self._url = url
        self._options, self.name = _parsed(url)
        self._connections: Connections[_Connection] = Connections(self._open)
        self._read_at = float("-inf")
        self._ahead = 0.0
        if not self.write(lambda session: migrations.is_current(session, _exists(session))):
            self.write(_bring_forward)

    def now(self) -> float:
        if self._clock is not None:
            return self._clock.now()
        if time.monotonic() - self._read_at > _FRESH_S:
            self.read(_TIME, {})
        return time.monotonic() + self._ahead

    def close(self) -> None:
        self._connections.close()

    def read(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        with self._translated():
            return self._on_any(lambda connection: self._fetched(connection, statement, values))

    def read_unbroken(self, statement: str, values: Values, *, table: str) -> Sequence[Mapping[str, Any]]:
        # Numbers are given before the commit: a gap is a transaction under way, or one that was rolled back.
        lines = self.read(statement, values)
        first = values["after"] + 1 if not values.get("since") else lines[0]["seq"] if lines else 0
        if all(line["seq"] == number for number, line in enumerate(lines, start=first)):
            return lines

        def body(session: Session) -> Sequence[Mapping[str, Any]]:
            session.count(f"LOCK TABLE {table} IN SHARE MODE", {})  # granted when those under way have ended
            return session.rows(statement, values)

        return self.write(body)

    def write(self, body: Callable[[Session], T], *, posting: Posting = "none") -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                return self._once(body, posting)
            except _Again as again:
                if attempt == _TRIES:
                    raise self._told(again.cause) from again.cause
            time.sleep(random.uniform(0.0, min(0.5, 0.005 * 2**attempt)))  # noqa: S311 - only spreads the tries
        raise AssertionError("the last try returns or raises")

    # -- one try ------------------------------------------------------------------------------------------------------

    def _once(self, body: Callable[[Session], T], posting: Posting) -> T:
        refused: ToolboxError | None = None
        with self._translated(), self._begun(posting) as session:
            try:
                result = body(session)
            except ToolboxError as error:  # a refusal, not a fault: the connection stays good
                session.connection.execute("ROLLBACK")
                refused = error
            else:
                crash_point("store:written:before:commit")
                self._commit(session)
                crash_point("store:committed:before:answer")
        if refused is not None:
            raise refused
        return result

    @contextmanager
    def _begun(self, posting: Posting) -> Iterator[_Session]:
        begin = f"{_BEGIN} {_DOOR[posting]} {_BEGUN}"
        while True:
            used = self._connections.has_idle()
            with self._connections.lent() as connection:
                sent = time.monotonic()
                try:
                    line = _last(connection.execute(begin, prepare=False))
                except psycopg.Error as error:
                    if not (used and _is_lost(connection, error)):
                        raise
                else:
                    now = self._learn(line["now"], sent)
                    yield _Session(connection, now, line["number"])
                    return
                # Lost while it lay idle, with a server that went: nothing was begun. The next one is new.
                connection.close()
            self._connections.forget()

    def _commit(self, session: _Session) -> None:
        try:
            session.send(commit=True)
        except psycopg.Error as error:
            if not _is_lost(session.connection, error):
                raise
            if not self._was_committed(session.number, error):
                raise _Again(error) from error

    def _was_committed(self, number: str, lost: psycopg.Error) -> bool:
        """What became of a transaction whose commit was sent and not answered. Raises ``Unavailable`` when the server does not
        say."""
        self._connections.forget()
        deadline = time.monotonic() + _UNKNOWN_S
        while time.monotonic() < deadline:
            try:
                with self._connections.lent() as connection:
                    asked = "SELECT pg_xact_status(%(number)s::xid8) AS status"
                    line = _last(connection.execute(asked, {"number": number}))
            except psycopg.Error:
                line = {"status": "unreachable"}
            if line["status"] in ("committed", "aborted"):
                return bool(line["status"] == "committed")
            time.sleep(0.1)
        raise Unavailable(
            f"the state database {self.name} went away while it committed, and has not said what became of it",
            hint="it may have been written: look before trying again",
            resource=self.name,
        ) from lost

    # -- connections --------------------------------------------------------------------------------------------------

    def _open(self) -> _Connection:
        connection = psycopg.connect(
            "", autocommit=True, prepare_threshold=0, row_factory=dict_row, **{**_DEFAULTS, **self._options}
        )
        try:
            if connection.info.server_version < _OLDEST:
                raise Unsupported(
                    f"the state database {self.name} is PostgreSQL {connection.info.server_version // 10_000}",
                    hint=f"use PostgreSQL {_OLDEST // 10_000} or newer",
                    resource=self.name,
                )
            connection.execute(_PREPARE, prepare=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def _on_any(self, ask: Callable[[_Connection], T]) -> T:
        """Ask on a connection; once more on a new one, when it was lost while it lay idle."""
        while True:
            used = self._connections.has_idle()
            try:
                with self._connections.lent() as connection:
                    return ask(connection)
            except psycopg.Error as error:
                if not (used and _is_lost(connection, error)):
                    raise
            self._connections.forget()

    def _fetched(self, connection: _Connection, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        sent = time.monotonic()
        lines = connection.execute(_in_own_words(statement), values).fetchall()
        if statement is _TIME:
            self._learn(lines[0]["now"], sent)
        return lines

    def _learn(self, now: float, sent: float) -> float:
        """Note how far the server's clock is ahead of ours: it was read between sending and now."""
        if self._clock is not None:
            return self._clock.now()
        read_at = time.monotonic()
        self._ahead, self._read_at = now - (sent + read_at) / 2, read_at
        return now

    # -- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.UniqueViolation as error:
            raise Duplicate from error
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
            raise _Again(error) from error
        except psycopg.Error as error:
            raise self._told(error) from error

    def _told(self, error: psycopg.Error) -> ToolboxError:
        """The error of the one tree, by its SQLSTATE; none means that there was no server to give one."""
        code = error.sqlstate or ""
        said = error.diag.message_primary or self._without_password(str(error).splitlines()[0] if str(error) else "")
        said = f"{said} ({code})" if code else said
        where = {"resource": self.name}
        if code.startswith("28") or code == "42501":
            return Denied(
                f"the state database {self.name} refuses: {said}",
                hint="check user and password, and that the user may create tables there",
                **where,
            )
        if code.startswith("22") or isinstance(error, psycopg.DataError):
            return Invalid(f"the state database {self.name} cannot keep a value: {said}", **where)
        if code == "" or code[:2] in ("08", "25", "40", "53", "55", "57", "58"):
            return Unavailable(
                f"the state database {self.name} cannot be used: {said}",
                hint="check that the server runs, can be reached and has room; then try again",
                **where,
            )
        return Bug(f"the state database {self.name}: {said}", **where)

    def _without_password(self, text: str) -> str:
        password = str(self._options.get("password", ""))
        return text.replace(password, "***") if password else text


class _Again(Exception):
    """Nothing was written, through no fault of the transaction's own: run it again."""

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Session:
    """See :class:`~ml_toolbox.state.database.Session`. What is put off goes out in one message with what comes next."""

    def __init__(self, connection: _Connection, now: float, number: str) -> None:
        self.connection = connection
        self.now = now
        self.number = number
        self._waiting: list[tuple[str, Sequence[Values]]] = []

    def rows(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        self.send()
        return self.connection.execute(_in_own_words(statement), values).fetchall()

    def count(self, statement: str, values: Values) -> int:
        self.send()
        return self.connection.execute(_in_own_words(statement), values or None).rowcount

    def later(self, statement: str, *many: Values) -> None:
        if many:
            self._waiting.append((statement, many))

    def send(self, *, commit: bool = False) -> None:
        if not self._waiting:
            if commit:
                self.connection.execute("COMMIT")
            return
        with self.connection.pipeline():
            for statement, many in self._waiting:
                with self.connection.cursor() as cursor:
                    cursor.executemany(_in_own_words(statement), many)
            self._waiting.clear()
            if commit:
                self.connection.execute("COMMIT")


@cache
def _in_own_words(statement: str) -> str:
    """A list is one parameter, an array; parameters are marked as psycopg has them."""
    listed = re.sub(r"\bNOT IN :(\w+)", r"<> ALL(:\1)", statement)
    listed = re.sub(r"\bIN :(\w+)", r"= ANY(:\1)", listed)
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", listed)


def _last(cursor: psycopg.Cursor[dict[str, Any]]) -> dict[str, Any]:
    """The one line that the last of several statements gave."""
    while cursor.nextset():
        pass
    line = cursor.fetchone()
    if line is None:
        raise Bug("PostgreSQL gave no line where it always gives one")
    return line


def _is_lost(connection: _Connection, error: psycopg.Error) -> bool:
    """Whether the connection is gone, rather than the statement refused."""
    gone = ("08", "57P")  # by the network; by the server's end, an administrator, or a limit on idle sessions
    return connection.closed or (error.sqlstate or "08").startswith(gone) or error.sqlstate in ("25P03", "25P04")


def _exists(session: Session) -> bool:
    # Not to_regclass(), which may answer from what the session knew before it waited for another that made the tables.
    asked = """SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = 'schema_version' AND nspname = ANY(current_schemas(false))"""
    return bool(session.rows(asked, {}))


def _bring_forward(session: Session) -> None:
    session.rows("SELECT pg_advisory_xact_lock(:key)", {"key": _MIGRATING})
    migrations.bring_forward(session, _exists(session), create=ddl.POSTGRESQL, steps=migrations.POSTGRESQL)


def _parsed(url: str) -> tuple[dict[str, Any], str]:
    """What libpq is told, and how the database is called in messages."""
    try:
        options = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Without the cause: it quotes the part that it does not understand, which may be the password.
        raise Invalid(
            "state: the postgresql:// URL cannot be read",
            hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %-codes for special characters",
            field="state",
        ) from None
    user, host, port = (str(options.get(word) or "") for word in ("user", "host", "port"))
    shown = f"{f'{user}@' if user else ''}{host or 'localhost'}{f':{port}' if port else ''}"
    return options, f"postgresql://{shown}/{options.get('dbname') or user}"
