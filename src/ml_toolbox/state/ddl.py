"""The tables of :mod:`schema` as SQLite's text, to make a new database without importing SQLAlchemy.

Never written by hand: a test compiles :mod:`schema` and demands these very statements.
"""

from __future__ import annotations

VERSION = 1
"""The schema of this release: how many migrations :mod:`schema` has."""

CREATE: tuple[str, ...] = (
    """CREATE TABLE schema_version (
    version INTEGER NOT NULL,
    applied_at DOUBLE NOT NULL,
    PRIMARY KEY (version)
    )""",
    """CREATE TABLE work (
    id VARCHAR(64) NOT NULL,
    kind VARCHAR(32) NOT NULL,
    name VARCHAR(128) NOT NULL,
    phase VARCHAR(32) NOT NULL,
    state VARCHAR(32) NOT NULL,
    wish VARCHAR(16) NOT NULL,
    spec JSON NOT NULL,
    data JSON NOT NULL,
    due_at DOUBLE,
    lease_owner TEXT NOT NULL,
    lease_token BIGINT NOT NULL,
    lease_until DOUBLE NOT NULL,
    created_at DOUBLE NOT NULL,
    updated_at DOUBLE NOT NULL,
    ended_at DOUBLE,
    PRIMARY KEY (id)
    )""",
    "CREATE INDEX work_by_due ON work (due_at)",
    "CREATE INDEX work_by_name ON work (kind, name, id)",
    """CREATE TABLE transition (
    seq INTEGER NOT NULL,
    work_id VARCHAR(64) NOT NULL,
    at DOUBLE NOT NULL,
    phase VARCHAR(32) NOT NULL,
    state VARCHAR(32) NOT NULL,
    message TEXT NOT NULL,
    lease_token BIGINT NOT NULL,
    PRIMARY KEY (seq),
    FOREIGN KEY(work_id) REFERENCES work (id)
    )""",
    "CREATE INDEX ix_transition_work_id ON transition (work_id)",
)
