"""The engine's store and books in SQL: one logic for every database, in transactions that each :mod:`database` provides."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound
from ml_toolbox.engine.ledger import Limit, Line, Meter, Period, Posting, month_of, posted
from ml_toolbox.engine.rows import WISH_ORDER, Occurrence, Row, Transition, Wish, Write
from ml_toolbox.engine.store import Written
from ml_toolbox.state import statements
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
            books = _Books(session, row.scopes if postings else ())
            told = [_told(row.id, now, row.phase, row.state, "created", leased.lease_token, "insert")]
            warnings = books.post(row.id, row.scopes, postings)
            told += _warnings(row.id, now, row.phase, row.state, leased.lease_token, warnings)
            session.later(statements.INSERT_TRANSITION, *told)
            books.close()
            return leased

        try:
            return self._database.write(body, posting="shared" if postings else "none")
        except Duplicate as error:
            raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id) from error

    def get(self, row_id: str) -> Row:
        return _present(self._database.read(statements.GET, {"id": row_id}), row_id)

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
    ) -> tuple[Row, ...]:
        def body(session: Session) -> tuple[Row, ...]:
            holders = session.rows(statements.HOLDERS, {"now": session.now, "due_before": due_before})
            gone = [line["lease_owner"] for line in holders if is_dead(line["lease_owner"])]
            values = {
                "kinds": list(kinds),
                "due_before": due_before,
                "now": session.now,
                "free": ["", *gone],
                "limit": limit,
            }
            found = session.rows(statements.CLAIMABLE, values)
            return tuple(_claimed(session, found, owner, lease_s)) if found else ()

        return self._database.write(body)

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        def body(session: Session) -> list[Written]:
            if len({write.row.id for write in writes}) == len(writes):
                return _written(session, writes, lease_s)
            # A row that is written twice must show what the first write made of it to the second.
            return [_written(session, [write], lease_s)[0] for write in writes]

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
            told = _told(row_id, now, row.phase, row.state, message, row.lease_token, "wish")
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

    # -- the books ----------------------------------------------------------------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        month = month_of(self.now())
        found = sorted(map(_limit, self._database.read(statements.BUDGETS, {})), key=_key)
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
            session.later(statements.INSERT_BUDGET, _columns(limit))
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
        return {line["id"]: _scopes(line["scopes"]) for line in found}


class _Books:
    """The limits of some scopes, locked until the transaction ends, and what it posts against them."""

    def __init__(self, session: Session, scopes: Iterable[str]) -> None:
        self._session = session
        wanted = sorted(set(scopes))
        found = session.rows(statements.LOCK_BUDGETS, {"scopes": wanted}) if wanted else ()
        self._limits = {_key(limit): limit for limit in map(_limit, found)}
        self._changed: dict[tuple[str, Meter, Period], Limit] = {}
        self._lines: list[dict[str, Any]] = []

    def post(self, work_id: str, scopes: Collection[str], postings: Sequence[Posting]) -> tuple[str, ...]:
        """Returns warnings. Raises ``BudgetExceeded``; nothing of these postings is written then."""
        if not postings:
            return ()
        result = posted([limit for limit in self._limits.values() if limit.scope in scopes], postings)
        for limit in result.limits:
            self._limits[_key(limit)] = self._changed[_key(limit)] = limit
        for posting in postings:
            values = {**_columns(posting), "reason": _plain(posting.reason)}
            self._lines.append({"at": self._session.now, "work_id": work_id, **values})
        return result.warnings

    def close(self) -> None:
        """Write it."""
        self._session.later(statements.INSERT_LINE, *self._lines)
        self._session.later(
            statements.UPDATE_BUDGET,
            *({n: v for n, v in _columns(limit).items() if n != "most"} for limit in self._changed.values()),
        )


def _claimed(session: Session, found: Sequence[Mapping[str, Any]], owner: str, lease_s: float) -> list[Row]:
    until = session.now + lease_s
    values = {"ids": [line["id"] for line in found], "lease_owner": owner, "lease_until": until}
    session.later(statements.CLAIM, values)
    return [_row(line, lease_owner=owner, lease_token=line["lease_token"] + 1, lease_until=until) for line in found]


def _written(session: Session, writes: Sequence[Write], lease_s: float) -> list[Written]:
    """Rows that are all different, in one go: read and locked by one statement, written by one for each kind of write."""
    locked = {line["id"]: line for line in session.rows(statements.LOCK, {"ids": [write.row.id for write in writes]})}
    held = [
        line if (line := locked.get(write.row.id)) and line["lease_token"] == write.row.lease_token else None
        for write in writes
    ]
    payers = {
        write.row.id: _scopes(line["scopes"])
        for write, line in zip(writes, held, strict=True)
        if line is not None and write.change is not None and write.change.postings
    }
    books = _Books(session, (scope for scopes in payers.values() for scope in scopes))
    batch = _Batch(session.now, lease_s)
    results: list[Written] = []
    for write, line in zip(writes, held, strict=True):
        if line is None:
            results.append(None)
            continue
        try:
            postings = write.change.postings if write.change is not None else ()
            warnings = books.post(write.row.id, payers.get(write.row.id, ()), postings)
        except BudgetExceeded as refused:
            results.append(refused)
            continue
        results.append(batch.add(write, line, warnings))
    batch.send(session)
    books.close()
    return results


class _Batch:
    """Writes that are granted, collected by the statement that writes them."""

    def __init__(self, now: float, lease_s: float) -> None:
        self._now = now
        self._until = now + lease_s
        self._released: list[str] = []
        self._leased: list[dict[str, Any]] = []
        self._changed: list[dict[str, Any]] = []
        self._changed_but_data: list[dict[str, Any]] = []
        self._told: list[dict[str, Any]] = []

    def add(self, write: Write, line: Mapping[str, Any], warnings: Sequence[str]) -> Row:
        row, change = write.row, write.change
        gives_back = write.release and line["wish"] == row.wish
        lease = {
            "lease_owner": "" if gives_back else line["lease_owner"],
            "lease_until": 0.0 if gives_back else self._until,
        }
        if change is None:
            if gives_back:
                self._released.append(row.id)
            else:
                self._leased.append({"id": row.id, "lease_token": row.lease_token, **lease})
            return _seen(row, line, data=json.loads(line["data"]), **lease)
        if change.message or (change.phase, change.state) != (line["phase"], line["state"]):
            told = (change.phase, change.state, change.message, row.lease_token, write.cause, change.level)
            self._told.append(_told(row.id, self._now, *told))
        self._told += _warnings(row.id, self._now, line["phase"], line["state"], row.lease_token, warnings)
        values = {
            "phase": change.phase,
            "state": change.state,
            # A wish that the decision did not know of: due, so that it is met even if the writer dies at this moment.
            "due_at": change.due_at if line["wish"] == row.wish else self._now,
            "updated_at": self._now,
            "ended_at": self._now if change.ended and line["ended_at"] is None else line["ended_at"],
            **lease,
        }
        mine = {"id": row.id, "lease_token": row.lease_token, **values}
        data = json.dumps(change.data)
        if data == line["data"]:
            self._changed_but_data.append(mine)
        else:
            self._changed.append({**mine, "data": data})
        return _seen(row, line, data=change.data, **values)

    def send(self, session: Session) -> None:
        if self._released:
            session.later(statements.RELEASE, {"ids": self._released})
        session.later(statements.LEASE, *self._leased)
        session.later(statements.CHANGE, *self._changed)
        session.later(statements.CHANGE_ALL_BUT_DATA, *self._changed_but_data)
        session.later(statements.INSERT_TRANSITION, *self._told)


_LOCKED = ("phase", "state", "wish", "due_at", "lease_owner", "lease_token", "lease_until", "updated_at", "ended_at")
"""What may have changed since the caller read the row, besides its data. The rest never changes."""


def _seen(row: Row, line: Mapping[str, Any], *, data: Mapping[str, Any], **changed: Any) -> Row:
    return replace(row, data=data, **{**{name: line[name] for name in _LOCKED}, **changed})


def _told(
    row_id: str,
    now: float,
    phase: str,
    state: str,
    message: str,
    lease_token: int,
    cause: str,
    level: str = "info",
) -> dict[str, Any]:
    return {
        "work_id": row_id,
        "at": now,
        "phase": phase,
        "state": state,
        "message": _plain(message),
        "lease_token": lease_token,
        "cause": _plain(cause),
        "level": level,
    }


def _warnings(
    row_id: str, now: float, phase: str, state: str, lease_token: int, warnings: Sequence[str]
) -> list[dict[str, Any]]:
    return [_told(row_id, now, phase, state, warning, lease_token, "budget", "warning") for warning in warnings]


def _present(found: Sequence[Mapping[str, Any]], row_id: str) -> Row:
    if not found:
        raise NotFound(f"no row {row_id}", resource=row_id)
    return _row(found[0])


def _row(line: Mapping[str, Any], **changed: Any) -> Row:
    values = {name: line[name] for name in _COLUMNS}
    values["spec"] = json.loads(values["spec"])
    values["data"] = json.loads(values["data"])
    values["scopes"] = _scopes(values["scopes"])
    return Row(**{**values, **changed})


@lru_cache(maxsize=256)
def _scopes(text: str) -> tuple[str, ...]:
    """Of the rows of one user in one project, which are many, the same."""
    return tuple(json.loads(text))


def _stored(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    return {**values, **{name: json.dumps(values[name]) for name in ("spec", "data", "scopes")}}


def _limit(line: Mapping[str, Any]) -> Limit:
    return Limit(**{name: line[name] for name in ("scope", "meter", "period", "most", "month", "held", "spent")})


def _key(limit: Limit) -> tuple[str, Meter, Period]:
    return limit.scope, limit.meter, limit.period


def _columns(value: Limit | Posting) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain(text: str) -> str:
    """Text that every database takes: messages quote what programs print, and a NUL or half a character in one must not
    keep a row from being written."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
