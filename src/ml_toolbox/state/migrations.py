"""The steps that bring an older database forward, and who may read a newer one.

Steps are text, only ever appended; a released one is never edited, so what it makes does not depend on this release's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_toolbox.base.errors import Unsupported
from ml_toolbox.state import statements
from ml_toolbox.state.database import Session

VERSION = 2
"""The schema of this release."""

READABLE_BY = 2
"""The oldest schema whose code can still use a database of this one. Adding a column with a default, a table or an index leaves
it as it is; so a fleet can be upgraded, and rolled back, one process at a time."""


@dataclass(frozen=True, slots=True)
class Step:
    """What brings a database one version forward."""

    readable_by: int
    statements: tuple[str, ...]


SQLITE: Mapping[int, Step] = {
    2: Step(
        readable_by=2,
        statements=(
            "ALTER TABLE schema_version ADD COLUMN readable_by INTEGER",
            "ALTER TABLE work ADD COLUMN place VARCHAR(128) DEFAULT '' NOT NULL",
            "ALTER TABLE work ADD COLUMN scopes JSON DEFAULT '[]' NOT NULL",
            "CREATE INDEX work_by_owner ON work (lease_owner) WHERE lease_owner <> ''",
            "ALTER TABLE transition ADD COLUMN cause TEXT DEFAULT '' NOT NULL",
            "ALTER TABLE transition ADD COLUMN level VARCHAR(16) DEFAULT 'info' NOT NULL",
            """CREATE TABLE work_scope (
            scope VARCHAR(160) NOT NULL,
            work_id VARCHAR(64) NOT NULL,
            PRIMARY KEY (scope, work_id),
            FOREIGN KEY(work_id) REFERENCES work (id)
            )""",
            """CREATE TABLE ledger (
            seq INTEGER NOT NULL,
            at DOUBLE NOT NULL,
            work_id VARCHAR(64) NOT NULL,
            attempt INTEGER NOT NULL,
            kind VARCHAR(16) NOT NULL,
            held BIGINT NOT NULL,
            spent BIGINT NOT NULL,
            hourly BIGINT NOT NULL,
            running BIGINT NOT NULL,
            month VARCHAR(7) NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (seq),
            FOREIGN KEY(work_id) REFERENCES work (id)
            )""",
            "CREATE INDEX ledger_by_time ON ledger (at)",
            "CREATE INDEX ledger_by_work ON ledger (work_id, seq)",
            """CREATE TABLE budget (
            scope VARCHAR(160) NOT NULL,
            meter VARCHAR(16) NOT NULL,
            period VARCHAR(16) NOT NULL,
            most BIGINT NOT NULL,
            month VARCHAR(7) NOT NULL,
            held BIGINT NOT NULL,
            spent BIGINT NOT NULL,
            PRIMARY KEY (scope, meter, period)
            )""",
            """CREATE TABLE place (
            place VARCHAR(128) NOT NULL,
            first_at DOUBLE NOT NULL,
            PRIMARY KEY (place)
            )""",
            """CREATE TABLE remembered (
            name VARCHAR(64) NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (name)
            )""",
            # Rows of schema 1 name their backend in the spec alone. What they cost from now on counts for everybody's limit.
            "UPDATE work SET place = coalesce(json_extract(spec, '$.backend'), ''), scopes = '[\"all\"]'",
            "INSERT INTO work_scope (scope, work_id) SELECT 'all', id FROM work",
            "INSERT INTO place (place, first_at) SELECT place, min(created_at) FROM work WHERE place <> '' GROUP BY place",
        ),
    ),
}
"""By the version that they make."""

POSTGRESQL: Mapping[int, Step] = {}
"""PostgreSQL began with schema 2."""


def is_current(session: Session, exists: bool) -> bool:
    """Whether the database can be used as it is. Raises :class:`Unsupported` when a newer release has changed it in a way that
    this one does not understand: guessing at its meaning could lose work."""
    return _version(session, exists) >= VERSION


def bring_forward(session: Session, exists: bool, *, create: Sequence[str], steps: Mapping[int, Step]) -> None:
    """Make the tables, or bring those of an older release to this one's, inside a transaction that nobody else migrates in.

    Raises like :func:`is_current`.
    """
    version = _version(session, exists)
    if version == 0:
        _run(session, VERSION, Step(readable_by=READABLE_BY, statements=tuple(create)))
        return
    for number in range(version + 1, VERSION + 1):
        _run(session, number, steps[number])


def _run(session: Session, version: int, step: Step) -> None:
    for statement in step.statements:
        session.count(statement, {})
    values = {"version": version, "applied_at": session.now, "readable_by": step.readable_by}
    session.later(statements.ADD_VERSION, values)


def _version(session: Session, exists: bool) -> int:
    """The schema that the database has, 0 for none."""
    if not exists:
        return 0
    # Asked for every column there is: schema 1 has none that says who may read it, and nobody newer than this.
    found = session.rows(statements.VERSIONS, {})
    newest = max(found, key=lambda line: int(line["version"]), default=None)
    if newest is None:
        return 0
    version = int(newest["version"])
    if version > VERSION and max(int(line["readable_by"] or line["version"]) for line in found) > VERSION:
        raise Unsupported(
            f"the state database has schema {version}; this release knows up to {VERSION}",
            hint="upgrade ml-toolbox to the release that was used last on this database",
        )
    return version
