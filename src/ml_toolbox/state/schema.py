"""The tables, and the steps that bring an older database forward.

Written for SQLite and PostgreSQL alike: no type, function or clause that only one of them has. SQLAlchemy takes 0.13 s to
import, so the embedded store loads this module only for a database that an older or newer release has left; a new one
it makes from :mod:`ddl`, the text of these tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    StaticPool,
    String,
    Table,
    Text,
    create_engine,
    exc,
    func,
    insert,
    inspect,
    select,
)

from ml_toolbox.base.errors import Unsupported

metadata = MetaData()

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Double, nullable=False),
)

work = Table(
    "work",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("name", String(128), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("wish", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("data", JSON, nullable=False),
    Column("due_at", Double),
    Column("lease_owner", Text, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("ended_at", Double),
    Index("work_by_name", "kind", "name", "id"),
    Index("work_by_due", "due_at"),
)

transition = Table(
    "transition",
    metadata,
    # SQLite counts by itself only in a column declared INTEGER PRIMARY KEY.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("work_id", String(64), ForeignKey("work.id"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("phase", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
)


def _create(connection: Connection) -> None:
    metadata.create_all(connection, checkfirst=False)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create,)
"""Step n brings version n to n+1. Steps are only ever appended; a released one is never edited."""


def migrate(connection: Connection, now: float) -> None:
    """Bring the database to this release's schema, inside the caller's write transaction.

    Raises :class:`Unsupported` when a newer release has already been here: guessing at its meaning could lose work.
    """
    version = 0
    if inspect(connection).has_table(schema_version.name):
        version = connection.execute(select(func.max(schema_version.c.version))).scalar_one()
    if version > len(MIGRATIONS):
        raise Unsupported(
            f"the state database has schema {version}; this release knows up to {len(MIGRATIONS)}",
            hint="upgrade ml-toolbox to the release that was used last on this home",
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        step(connection)
        connection.execute(insert(schema_version).values(version=number, applied_at=now))


def migrate_sqlite(connection: sqlite3.Connection, now: float) -> None:
    """:func:`migrate` on a connection of the driver's own, in the write transaction it has begun; commits it.

    Raises like :func:`migrate`, and the driver's own errors.
    """
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.connect() as wrapped:
            migrate(wrapped, now)
            wrapped.commit()
    except exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise
