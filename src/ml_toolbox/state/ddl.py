"""The tables of :mod:`schema` as text, to make a new database without importing SQLAlchemy.

Written by ``python scripts/compile_ddl.py``; a test compiles :mod:`schema` and demands these very statements.
"""

from __future__ import annotations

SQLITE: tuple[str, ...] = (
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
    """CREATE TABLE schema_version (
    version INTEGER NOT NULL,
    applied_at DOUBLE NOT NULL,
    readable_by INTEGER,
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
    place VARCHAR(128) DEFAULT '' NOT NULL,
    scopes JSON DEFAULT '[]' NOT NULL,
    PRIMARY KEY (id)
    )""",
    "CREATE INDEX work_by_due ON work (due_at)",
    "CREATE INDEX work_by_name ON work (kind, name, id)",
    "CREATE INDEX work_by_owner ON work (lease_owner) WHERE lease_owner <> ''",
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
    """CREATE TABLE transition (
    seq INTEGER NOT NULL,
    work_id VARCHAR(64) NOT NULL,
    at DOUBLE NOT NULL,
    phase VARCHAR(32) NOT NULL,
    state VARCHAR(32) NOT NULL,
    message TEXT NOT NULL,
    lease_token BIGINT NOT NULL,
    cause TEXT DEFAULT '' NOT NULL,
    level VARCHAR(16) DEFAULT 'info' NOT NULL,
    PRIMARY KEY (seq),
    FOREIGN KEY(work_id) REFERENCES work (id)
    )""",
    "CREATE INDEX ix_transition_work_id ON transition (work_id)",
    """CREATE TABLE work_scope (
    scope VARCHAR(160) NOT NULL,
    work_id VARCHAR(64) NOT NULL,
    PRIMARY KEY (scope, work_id),
    FOREIGN KEY(work_id) REFERENCES work (id)
    )""",
)

POSTGRESQL: tuple[str, ...] = (
    """CREATE TABLE budget (
    scope VARCHAR(160) COLLATE "C" NOT NULL,
    meter VARCHAR(16) COLLATE "C" NOT NULL,
    period VARCHAR(16) COLLATE "C" NOT NULL,
    most BIGINT NOT NULL,
    month VARCHAR(7) NOT NULL,
    held BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    PRIMARY KEY (scope, meter, period)
    )""",
    """CREATE TABLE place (
    place VARCHAR(128) COLLATE "C" NOT NULL,
    first_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (place)
    )""",
    """CREATE TABLE remembered (
    name VARCHAR(64) COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
    )""",
    """CREATE TABLE schema_version (
    version INTEGER NOT NULL,
    applied_at DOUBLE PRECISION NOT NULL,
    readable_by INTEGER,
    PRIMARY KEY (version)
    )""",
    """CREATE TABLE work (
    id VARCHAR(64) COLLATE "C" NOT NULL,
    kind VARCHAR(32) NOT NULL,
    name VARCHAR(128) NOT NULL,
    phase VARCHAR(32) NOT NULL,
    state VARCHAR(32) NOT NULL,
    wish VARCHAR(16) NOT NULL,
    spec TEXT NOT NULL,
    data TEXT NOT NULL,
    due_at DOUBLE PRECISION,
    lease_owner TEXT NOT NULL,
    lease_token BIGINT NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    place VARCHAR(128) DEFAULT '' NOT NULL,
    scopes TEXT DEFAULT '[]' NOT NULL,
    PRIMARY KEY (id)
    )""",
    "CREATE INDEX work_by_due ON work (due_at)",
    "CREATE INDEX work_by_name ON work (kind, name, id)",
    "CREATE INDEX work_by_owner ON work (lease_owner) WHERE lease_owner <> ''",
    """CREATE TABLE ledger (
    seq BIGSERIAL NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    work_id VARCHAR(64) COLLATE "C" NOT NULL,
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
    """CREATE TABLE transition (
    seq BIGSERIAL NOT NULL,
    work_id VARCHAR(64) COLLATE "C" NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    phase VARCHAR(32) NOT NULL,
    state VARCHAR(32) NOT NULL,
    message TEXT NOT NULL,
    lease_token BIGINT NOT NULL,
    cause TEXT DEFAULT '' NOT NULL,
    level VARCHAR(16) DEFAULT 'info' NOT NULL,
    PRIMARY KEY (seq),
    FOREIGN KEY(work_id) REFERENCES work (id)
    )""",
    "CREATE INDEX ix_transition_work_id ON transition (work_id)",
    """CREATE TABLE work_scope (
    scope VARCHAR(160) COLLATE "C" NOT NULL,
    work_id VARCHAR(64) COLLATE "C" NOT NULL,
    PRIMARY KEY (scope, work_id),
    FOREIGN KEY(work_id) REFERENCES work (id)
    )""",
)
