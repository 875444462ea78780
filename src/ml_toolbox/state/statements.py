"""What the store asks of its database, as SQL text for SQLite and PostgreSQL alike; values only as named parameters.

Text instead of SQLAlchemy's expressions, because importing SQLAlchemy (0.13 s measured) would nearly double the time
until a job's first line. A test runs every statement against the tables of :mod:`schema`, so the two cannot drift apart.

Two things are written as neither database takes them, or only one does, and each dialect puts them into its own words:
``x IN :names`` takes a list as its one parameter (so the text, and with it the prepared plan, is the same for every length),
and ``FOR UPDATE`` is dropped where a writer is alone anyway.
"""

from __future__ import annotations

VERSIONS = """SELECT * FROM schema_version"""

ADD_VERSION = """
INSERT INTO schema_version (version, applied_at, readable_by) VALUES (:version, :applied_at, :readable_by)"""

# -- rows -----------------------------------------------------------------------------------------------------------------

INSERT_WORK = """
INSERT INTO work (id, kind, name, phase, state, wish, spec, data, due_at, lease_owner, lease_token, lease_until,
                  created_at, updated_at, ended_at, place, scopes)
VALUES (:id, :kind, :name, :phase, :state, :wish, :spec, :data, :due_at, :lease_owner, :lease_token, :lease_until,
        :created_at, :updated_at, :ended_at, :place, :scopes)"""

INSERT_SCOPE = """INSERT INTO work_scope (scope, work_id) VALUES (:scope, :work_id)"""

INSERT_PLACE = """INSERT INTO place (place, first_at) VALUES (:place, :first_at) ON CONFLICT (place) DO NOTHING"""

REMEMBER = """INSERT INTO remembered (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"""

REMEMBERED = """SELECT value FROM remembered WHERE name = :name"""

INSERT_TRANSITION = """
INSERT INTO transition (work_id, at, phase, state, message, lease_token, cause, level)
VALUES (:work_id, :at, :phase, :state, :message, :lease_token, :cause, :level)"""

_WORK = """
SELECT id, kind, name, phase, state, wish, spec, data, due_at, lease_owner, lease_token, lease_until,
       created_at, updated_at, ended_at, place, scopes
FROM work"""

GET = f"{_WORK} WHERE id = :id"

GET_MANY = f"{_WORK} WHERE id IN :ids"

GET_LOCKED = f"{GET} FOR UPDATE"

LOCK = """
SELECT id, phase, state, wish, data, due_at, lease_owner, lease_token, lease_until, updated_at, ended_at, scopes
FROM work WHERE id IN :ids ORDER BY id FOR UPDATE"""
"""By id, so that two batches never wait for each other crosswise."""

HOLDERS = """
SELECT DISTINCT lease_owner FROM work
WHERE lease_owner <> '' AND lease_until > :now AND due_at <= :due_before"""

# The kind is compared as an expression, which no index serves: the one on `due_at` gives the order, and ends at the limit.
CLAIMABLE = f"""{_WORK}
WHERE due_at <= :due_before AND kind || '' IN :kinds AND (lease_until <= :now OR lease_owner IN :free)
      AND NOT (place IN :elsewhere)
ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED"""

CLAIM = """
UPDATE work SET lease_owner = :lease_owner, lease_token = lease_token + 1, lease_until = :lease_until
WHERE id IN :ids"""

RENEW = """
UPDATE work SET lease_until = :lease_until
WHERE id IN (SELECT id FROM work WHERE lease_owner <> '' AND lease_owner = :lease_owner ORDER BY id FOR UPDATE)"""

LEASE = """
UPDATE work SET lease_owner = :lease_owner, lease_until = :lease_until
WHERE id = :id AND lease_token = :lease_token"""

RELEASE = """UPDATE work SET lease_owner = '', lease_until = 0 WHERE id IN :ids"""
"""Of rows that the same transaction has locked, their tokens compared."""

CHANGE = """
UPDATE work SET phase = :phase, state = :state, data = :data, due_at = :due_at, updated_at = :updated_at,
                ended_at = :ended_at, lease_owner = :lease_owner, lease_until = :lease_until
WHERE id = :id AND lease_token = :lease_token"""

CHANGE_ALL_BUT_DATA = """
UPDATE work SET phase = :phase, state = :state, due_at = :due_at, updated_at = :updated_at,
                ended_at = :ended_at, lease_owner = :lease_owner, lease_until = :lease_until
WHERE id = :id AND lease_token = :lease_token"""

WISH = """UPDATE work SET wish = :wish, due_at = :due_at, updated_at = :updated_at WHERE id = :id"""

HISTORY = """
SELECT at, phase, state, message, lease_token, cause, level FROM transition
WHERE work_id = :work_id ORDER BY seq"""

OCCURRENCES = """
SELECT seq, work_id, work.kind AS kind, work.name AS name,
       at, transition.phase AS phase, transition.state AS state, message, transition.lease_token AS lease_token, cause, level
FROM transition JOIN work ON work.id = work_id
WHERE seq > :after ORDER BY seq LIMIT :limit"""

PLACES = """SELECT place FROM place ORDER BY first_at, place"""

LIVING = """SELECT id FROM work WHERE place = :place AND ended_at IS NULL LIMIT 1"""

FORGET_PLACE = """DELETE FROM place WHERE place = :place"""

SCOPES = """SELECT id, scopes FROM work WHERE id IN :ids"""

# -- the books ------------------------------------------------------------------------------------------------------------

INSERT_LINE = """
INSERT INTO ledger (at, work_id, attempt, kind, held, spent, hourly, running, month, reason)
VALUES (:at, :work_id, :attempt, :kind, :held, :spent, :hourly, :running, :month, :reason)"""

_BUDGETS = """SELECT scope, meter, period, most, month, held, spent FROM budget"""

BUDGETS = _BUDGETS

LOCK_BUDGETS = f"{_BUDGETS} WHERE scope IN :scopes ORDER BY scope, meter, period FOR UPDATE"

INSERT_BUDGET = """
INSERT INTO budget (scope, meter, period, most, month, held, spent)
VALUES (:scope, :meter, :period, :most, :month, :held, :spent)"""

UPDATE_BUDGET = """
UPDATE budget SET month = :month, held = :held, spent = :spent
WHERE scope = :scope AND meter = :meter AND period = :period"""

DELETE_BUDGET = """DELETE FROM budget WHERE scope = :scope AND meter = :meter AND period = :period"""

SUMS = """
SELECT month, CAST(sum(held) AS BIGINT) AS held, CAST(sum(spent) AS BIGINT) AS spent,
       CAST(sum(hourly) AS BIGINT) AS hourly, CAST(sum(running) AS BIGINT) AS running
FROM ledger JOIN work_scope ON work_scope.work_id = ledger.work_id
WHERE scope = :scope GROUP BY month"""

_LINES = """
SELECT seq, at, work_id, work.kind AS kind_of_work, work.name AS name, work.place AS place,
       attempt, ledger.kind AS kind, held, spent, hourly, running, month, reason
FROM ledger JOIN work ON work.id = work_id
WHERE seq > :after AND at >= :since"""

LINES = f"{_LINES} ORDER BY seq LIMIT :limit"

LINES_OF_WORK = f"{_LINES} AND work_id = :work_id ORDER BY seq LIMIT :limit"


def find(
    *, kind: bool, name: bool, id_prefix: bool, before: bool, states: bool, without_phases: bool, place: bool
) -> str:
    """Rows, newest first, at most ``:limit``, with the conditions wanted on parameters of those names."""
    conditions = []
    if kind:
        conditions.append("kind = :kind")
    if name:
        conditions.append("name = :name")
    if id_prefix:
        # Not LIKE, which ignores case in SQLite alone.
        conditions.append("substr(id, 1, length(:id_prefix)) = :id_prefix")
    if states:
        conditions.append("state IN :states")
    if without_phases:
        conditions.append("phase NOT IN :without_phases")
    if place:
        conditions.append("place = :place")
    if before:
        conditions.append("id < :before")
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return f"{_WORK} {where}ORDER BY id DESC LIMIT :limit"
