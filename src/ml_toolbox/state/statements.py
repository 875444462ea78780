"""What the store asks of its database, as SQL text: valid on SQLite and PostgreSQL, values only as named parameters.

Text instead of SQLAlchemy's expressions, because importing SQLAlchemy (0.13 s measured) would nearly double the time
until a job's first line. A test runs every statement against the tables of :mod:`schema`, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Collection

VERSION = """SELECT max(version) AS version FROM schema_version"""

ADD_VERSION = """INSERT INTO schema_version (version, applied_at) VALUES (:version, :applied_at)"""

INSERT_WORK = """
INSERT INTO work (id, kind, name, phase, state, wish, spec, data, due_at, lease_owner, lease_token, lease_until,
                  created_at, updated_at, ended_at)
VALUES (:id, :kind, :name, :phase, :state, :wish, :spec, :data, :due_at, :lease_owner, :lease_token, :lease_until,
        :created_at, :updated_at, :ended_at)"""

INSERT_TRANSITION = """
INSERT INTO transition (work_id, at, phase, state, message, lease_token)
VALUES (:work_id, :at, :phase, :state, :message, :lease_token)"""

_WORK = """
SELECT id, kind, name, phase, state, wish, spec, data, due_at, lease_owner, lease_token, lease_until,
       created_at, updated_at, ended_at
FROM work"""

GET = f"{_WORK} WHERE id = :id"

GET_HELD = f"{_WORK} WHERE id = :id AND lease_token = :lease_token"

CLAIM = """
UPDATE work SET lease_owner = :lease_owner, lease_token = :lease_token, lease_until = :lease_until
WHERE id = :id"""

LEASE = """
UPDATE work SET lease_owner = :lease_owner, lease_until = :lease_until
WHERE id = :id AND lease_token = :lease_token"""

CHANGE = """
UPDATE work SET phase = :phase, state = :state, data = :data, due_at = :due_at, updated_at = :updated_at,
                ended_at = :ended_at, lease_owner = :lease_owner, lease_until = :lease_until
WHERE id = :id AND lease_token = :lease_token"""

WISH = """UPDATE work SET wish = :wish, due_at = :due_at, updated_at = :updated_at WHERE id = :id"""

HISTORY = """
SELECT at, phase, state, message, lease_token FROM transition
WHERE work_id = :work_id ORDER BY seq"""


def find(
    *, name: bool, id_prefix: bool, before: bool, states: Collection[str] | None, without_phases: Collection[str]
) -> str:
    """Rows of ``:kind``, newest first, at most ``:limit``, with the conditions wanted on ``:name``, ``:before`` and
    ``:id_prefix``."""
    conditions = ["kind = :kind"]
    if name:
        conditions.append("name = :name")
    if id_prefix:
        # Not LIKE, which ignores case in SQLite alone; nor a range, whose end depends on PostgreSQL's collation.
        conditions.append("substr(id, 1, length(:id_prefix)) = :id_prefix")
    if states is not None:
        # No database row is in an empty list, and only SQLite accepts `IN ()`.
        conditions.append(f"state IN ({_markers('state', states)})" if states else "1 = 0")
    if without_phases:
        conditions.append(f"phase NOT IN ({_markers('phase', without_phases)})")
    if before:
        conditions.append("id < :before")
    return f"{_WORK} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit"


def due(kinds: Collection[str]) -> str:
    """Ids of rows of these kinds that are due at ``:now``, most overdue first."""
    wanted = f"kind IN ({_markers('kind', kinds)})" if kinds else "1 = 0"
    return f"SELECT id FROM work WHERE {wanted} AND due_at <= :now ORDER BY due_at"  # noqa: S608 - markers, no values


def listed(word: str, values: Collection[str]) -> dict[str, str]:
    """The parameters of a list in :func:`find` (``state``, ``phase``) or :func:`due` (``kind``)."""
    return {f"{word}_{number}": value for number, value in enumerate(values)}


def _markers(word: str, values: Collection[str]) -> str:
    return ", ".join(f":{marker}" for marker in listed(word, values))
