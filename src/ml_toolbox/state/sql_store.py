"""The engine's store and books in SQL: one logic for every database, in transactions that each :mod:`database` provides."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ml_toolbox.base.errors import Conflict, NotFound
from ml_toolbox.engine.ledger import Limit, Line, Meter, Period, Posting, month_of
from ml_toolbox.engine.rows import WISH_ORDER, Occurrence, Row, Transition, Wish, Write
from ml_toolbox.engine.store import Written
from ml_toolbox.state import statements
from ml_toolbox.state.batches import (
    Postings,
    columns_of,
    history_line,
    key_of,
    limit_of,
    scopes_of,
    warning_lines,
    written,
)
from ml_toolbox.state.database import Database, Duplicate, Session

_COLUMNS = tuple(field.name for field in fields(Row))
_POSTED = tuple(field.name for field in fields(Posting))
_TOLD = tuple(field.name for field in fields(Transition))


class SqlStore:
    """See ``engine.store.Store`` and ``engine.ledger.Books`` for what each method promises.

    Locks are always taken in one order, so that no two transactions wait for each other crosswise: rows by id, then limits by
    scope. Only :meth:`set_limit` stops everybody who posts, at the door.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> float:
        return self._database.now()

    def close(self) -> None:
        self._database.close()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0, postings: Sequence[Posting] = ()) -> Row:
        def body(session: Session) -> Row:
            now = session.now
            leased = replace(
                row,
                lease_owner=owner,
                lease_token=1 if owner else 0,
                lease_until=now + lease_s if owner else 0.0,
                created_at=row.created_at or now,
                updated_at=now,
            )
            session.later(statements.INSERT_WORK, _stored(leased))
            session.later(statements.INSERT_SCOPE, *({"scope": scope, "work_id": row.id} for scope in row.scopes))
            if row.place:
                session.later(statements.INSERT_PLACE, {"place": row.place, "first_at": now})
            books = Postings(session, row.scopes if postings else ())
            told = [history_line(row.id, now, row.phase, row.state, "created", leased.lease_token, "insert")]
            warnings = books.post(row.id, row.scopes, postings)
            told += warning_lines(row.id, now, row.phase, row.state, leased.lease_token, warnings)
            session.later(statements.INSERT_TRANSITION, *told)
            books.close()
            return leased

        try:
            # Shared for its place, too: nobody may forget that meanwhile.
            return self._database.write(body, posting="shared" if postings or row.place else "none")
        except Duplicate as error:
            raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id) from error

    def get(self, row_id: str) -> Row:
        return _present(self._database.read(statements.GET, {"id": row_id}), row_id)

    def get_many(self, row_ids: Collection[str]) -> dict[str, Row]:
        return {line["id"]: _row(line) for line in self._database.read(statements.GET_MANY, {"ids": list(row_ids)})}

    def find(
        self,
        kind: str | None,
        *,
        name: str | None = None,
        id_prefix: str | None = None,
        states: Collection[str] | None = None,
        without_phases: Collection[str] = (),
        place: str | None = None,
        before: str | None = None,
        limit: int = 1000,
    ) -> tuple[Row, ...]:
        wanted = {
            "kind": kind,
            "name": name,
            "id_prefix": id_prefix,
            "states": None if states is None else list(states),
            "without_phases": list(without_phases) or None,
            "place": place,
            "before": before,
        }
        statement = statements.find(**{word: value is not None for word, value in wanted.items()})
        values = {word: value for word, value in wanted.items() if value is not None}
        return tuple(_row(line) for line in self._database.read(statement, {**values, "limit": limit}))

    def claim(self, row_id: str, *, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        def body(session: Session) -> Row | None:
            found = session.rows(statements.GET_LOCKED, {"id": row_id})
            if not found:
                return None
            holder, until = found[0]["lease_owner"], found[0]["lease_until"]
            if holder and until > session.now and not is_dead(holder):
                return None
            return _claimed(session, found, owner, lease_s)[0]

        return self._database.write(body)

    def claim_due(
        self,
        kinds: Collection[str],
        *,
        owner: str,
        lease_s: float,
        is_dead: Callable[[str], bool],
        due_before: float,
        limit: int,
        elsewhere: Collection[str] = (),
    ) -> tuple[Row, ...]:
        def body(session: Session) -> tuple[Row, ...]:
            holders = session.rows(statements.HOLDERS, {"now": session.now, "due_before": due_before})
            gone = [line["lease_owner"] for line in holders if is_dead(line["lease_owner"])]
            values = {
                "kinds": list(kinds),
                "due_before": due_before,
                "now": session.now,
                "free": ["", *gone],
                "elsewhere": list(elsewhere),
                "limit": limit,
            }
            found = session.rows(statements.CLAIMABLE, values)
            return tuple(_claimed(session, found, owner, lease_s)) if found else ()

        return self._database.write(body)

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        def body(session: Session) -> list[Written]:
            if len({write.row.id for write in writes}) == len(writes):
                return written(session, writes, lease_s)
            # A row that is written twice must show what the first write made of it to the second.
            return [written(session, [write], lease_s)[0] for write in writes]

        if not writes:
            return []
        posts = any(write.change is not None and write.change.postings for write in writes)
        return self._database.write(body, posting="shared" if posts else "none")

    def renew(self, owner: str, *, lease_s: float) -> int:
        def body(session: Session) -> int:
            return session.count(statements.RENEW, {"lease_owner": owner, "lease_until": session.now + lease_s})

        return self._database.write(body)

    def wish(self, row_id: str, wish: Wish, *, reason: str = "") -> Row:
        def body(session: Session) -> Row:
            row = _present(session.rows(statements.GET_LOCKED, {"id": row_id}), row_id)
            if WISH_ORDER.index(wish) <= WISH_ORDER.index(row.wish):
                return row
            now = session.now
            session.later(statements.WISH, {"id": row_id, "wish": wish, "due_at": now, "updated_at": now})
            message = f"{wish} wanted{f': {reason}' if reason else ''}"
            told = history_line(row_id, now, row.phase, row.state, message, row.lease_token, "wish")
            session.later(statements.INSERT_TRANSITION, told)
            return replace(row, wish=wish, due_at=now, updated_at=now)

        return self._database.write(body)

    def history(self, row_id: str) -> tuple[Transition, ...]:
        lines = self._database.read(statements.HISTORY, {"work_id": row_id})
        return tuple(Transition(**{name: line[name] for name in _TOLD}) for line in lines)

    def occurrences(self, *, after: int = 0, limit: int = 1000) -> tuple[Occurrence, ...]:
        values = {"after": after, "limit": limit}
        lines = self._database.read_unbroken(statements.OCCURRENCES, values, table="transition")
        return tuple(
            Occurrence(
                seq=line["seq"],
                work_id=line["work_id"],
                kind=line["kind"],
                name=line["name"],
                transition=Transition(**{name: line[name] for name in _TOLD}),
            )
            for line in lines
        )

    def places(self) -> tuple[str, ...]:
        return tuple(line["place"] for line in self._database.read(statements.PLACES, {}))

    def forget_place(self, place: str) -> bool:
        def body(session: Session) -> bool:
            if session.rows(statements.LIVING, {"place": place}):
                return False
            session.later(statements.FORGET_PLACE, {"place": place})
            return True

        # Alone, so that no first attempt is just being reserved there.
        return self._database.write(body, posting="alone")

    def remembered(self, name: str, first: str) -> str:
        def body(session: Session) -> str:
            session.count(statements.REMEMBER, {"name": name, "value": first})
            return str(session.rows(statements.REMEMBERED, {"name": name})[0]["value"])

        known = self._database.read(statements.REMEMBERED, {"name": name})
        return str(known[0]["value"]) if known else self._database.write(body)

    # -- the books ----------------------------------------------------------------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        month = month_of(self.now())
        found = sorted(map(limit_of, self._database.read(statements.BUDGETS, {})), key=key_of)
        return tuple(
            replace(limit, month=month, held=0, spent=0) if limit.period and limit.month < month else limit
            for limit in found
        )

    def set_limit(self, scope: str, meter: Meter, period: Period, most: int | None) -> Limit | None:
        def body(session: Session) -> Limit | None:
            session.later(statements.DELETE_BUDGET, {"scope": scope, "meter": meter, "period": period})
            if most is None:
                return None
            limit = Limit(scope=scope, meter=meter, period=period, most=most)
            if period:
                limit = replace(limit, month=month_of(session.now))
            # By month, so that a monthly limit meets the months in order and a later one starts it anew.
            sums = sorted(session.rows(statements.SUMS, {"scope": scope}), key=lambda line: str(line["month"]))
            for line in sums:
                limit = limit.with_posting(Posting(attempt=0, kind="reserve", **line))
            session.later(statements.INSERT_BUDGET, columns_of(limit))
            return limit

        return self._database.write(body, posting="alone")

    def lines(
        self, *, work_id: str | None = None, since: float = 0.0, after: int = 0, limit: int = 10_000
    ) -> tuple[Line, ...]:
        values = {"since": since, "after": after, "limit": limit}
        if work_id is None:
            found = self._database.read_unbroken(statements.LINES, values, table="ledger")
        else:  # those of one row are written one after another, under its lock
            found = self._database.read(statements.LINES_OF_WORK, {**values, "work_id": work_id})
        return tuple(
            Line(
                seq=line["seq"],
                at=line["at"],
                work_id=line["work_id"],
                kind_of_work=line["kind_of_work"],
                name=line["name"],
                place=line["place"],
                posting=Posting(**{name: line[name] for name in _POSTED}),
            )
            for line in found
        )

    def scopes_of(self, work_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        found = self._database.read(statements.SCOPES, {"ids": list(work_ids)})
        return {line["id"]: scopes_of(line["scopes"]) for line in found}


def _claimed(session: Session, found: Sequence[Mapping[str, Any]], owner: str, lease_s: float) -> list[Row]:
    until = session.now + lease_s
    values = {"ids": [line["id"] for line in found], "lease_owner": owner, "lease_until": until}
    session.later(statements.CLAIM, values)
    return [_row(line, lease_owner=owner, lease_token=line["lease_token"] + 1, lease_until=until) for line in found]


def _present(found: Sequence[Mapping[str, Any]], row_id: str) -> Row:
    if not found:
        raise NotFound(f"no row {row_id}", resource=row_id)
    return _row(found[0])


def _row(line: Mapping[str, Any], **changed: Any) -> Row:
    values = {name: line[name] for name in _COLUMNS}
    values["spec"] = json.loads(values["spec"])
    values["data"] = json.loads(values["data"])
    values["scopes"] = scopes_of(values["scopes"])
    return Row(**{**values, **changed})


def _stored(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    return {**values, **{name: json.dumps(values[name]) for name in ("spec", "data", "scopes")}}
