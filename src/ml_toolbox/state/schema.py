"""The tables, once for SQLite and PostgreSQL.

This is the source: :mod:`ddl` is compiled from it, and a test demands that the two and the steps of :mod:`migrations` agree.
SQLAlchemy takes 0.13 s to import, so no store loads this module.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()


def _key(length: int) -> TypeEngine[str]:
    """Text that is sorted by its bytes on both databases, whatever language the server was set up for."""
    return String(length, collation="C").with_variant(String(length), "sqlite")


def _json() -> TypeEngine[str]:
    # Text on PostgreSQL: its JSON types refuse NaN, which a diverged training reports, and JSONB rewrites numbers.
    return Text().with_variant(JSON(), "sqlite")


def _counted() -> TypeEngine[int]:
    # SQLite counts by itself only in a column declared INTEGER PRIMARY KEY.
    return BigInteger().with_variant(Integer, "sqlite")


schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Double, nullable=False),
    Column("readable_by", Integer),
)

work = Table(
    "work",
    metadata,
    Column("id", _key(64), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("name", String(128), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("wish", String(16), nullable=False),
    Column("spec", _json(), nullable=False),
    Column("data", _json(), nullable=False),
    Column("due_at", Double),
    Column("lease_owner", Text, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("place", String(128), nullable=False, server_default=""),
    # As JSON beside the rows of `work_scope`: read with the row, which claims do for hundreds at a time.
    Column("scopes", _json(), nullable=False, server_default="[]"),
    Index("work_by_name", "kind", "name", "id"),
    Index("work_by_due", "due_at"),
    Index(
        "work_by_owner",
        "lease_owner",
        sqlite_where=text("lease_owner <> ''"),
        postgresql_where=text("lease_owner <> ''"),
    ),
)

work_scope = Table(
    "work_scope",
    metadata,
    Column("scope", _key(160), primary_key=True),
    Column("work_id", _key(64), ForeignKey("work.id"), primary_key=True),
)

transition = Table(
    "transition",
    metadata,
    Column("seq", _counted(), primary_key=True, autoincrement=True),
    Column("work_id", _key(64), ForeignKey("work.id"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("phase", String(32), nullable=False),
    Column("state", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("cause", Text, nullable=False, server_default=""),
    Column("level", String(16), nullable=False, server_default="info"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", _counted(), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("work_id", _key(64), ForeignKey("work.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("hourly", BigInteger, nullable=False),
    Column("running", BigInteger, nullable=False),
    Column("month", String(7), nullable=False),
    Column("reason", Text, nullable=False),
    Index("ledger_by_work", "work_id", "seq"),
    Index("ledger_by_time", "at"),
)

budget = Table(
    "budget",
    metadata,
    Column("scope", _key(160), primary_key=True),
    Column("meter", _key(16), primary_key=True),
    Column("period", _key(16), primary_key=True),
    Column("most", BigInteger, nullable=False),
    Column("month", String(7), nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
)

place = Table(
    "place",
    metadata,
    Column("place", _key(128), primary_key=True),
    Column("first_at", Double, nullable=False),
)


remembered = Table(
    "remembered",
    metadata,
    Column("name", _key(64), primary_key=True),
    Column("value", Text, nullable=False),
)


def compiled(dialect: str) -> tuple[str, ...]:
    """The statements that make these tables, in order: ``sqlite`` or ``postgresql``."""
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

    made: Dialect = sqlite.dialect() if dialect == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    elements: list[ExecutableDDLElement] = []
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        elements += [CreateTable(table), *map(CreateIndex, indexes)]
    return tuple(" ".join(str(element.compile(dialect=made)).split()) for element in elements)
