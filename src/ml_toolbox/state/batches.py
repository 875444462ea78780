"""What a transaction writes to rows, history and ledger, collected so that each kind of statement is sent once."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.ledger import Limit, Meter, Period, Posting, posted
from ml_toolbox.engine.rows import Row, Write
from ml_toolbox.engine.store import Written
from ml_toolbox.state import statements
from ml_toolbox.state.database import Session


class Postings:
    """The limits of some scopes, locked until the transaction ends, and what it posts against them."""

    def __init__(self, session: Session, scopes: Iterable[str]) -> None:
        self._session = session
        wanted = sorted(set(scopes))
        found = session.rows(statements.LOCK_BUDGETS, {"scopes": wanted}) if wanted else ()
        self._limits = {key_of(limit): limit for limit in map(limit_of, found)}
        self._changed: dict[tuple[str, Meter, Period], Limit] = {}
        self._lines: list[dict[str, Any]] = []

    def post(self, work_id: str, scopes: Collection[str], postings: Sequence[Posting]) -> tuple[str, ...]:
        """Returns warnings. Raises ``BudgetExceeded``; nothing of these postings is written then."""
        if not postings:
            return ()
        result = posted([limit for limit in self._limits.values() if limit.scope in scopes], postings)
        for limit in result.limits:
            self._limits[key_of(limit)] = self._changed[key_of(limit)] = limit
        for posting in postings:
            values = {**columns_of(posting), "reason": _plain(posting.reason)}
            self._lines.append({"at": self._session.now, "work_id": work_id, **values})
        return result.warnings

    def close(self) -> None:
        """Write it."""
        self._session.later(statements.INSERT_LINE, *self._lines)
        self._session.later(
            statements.UPDATE_BUDGET,
            *({n: v for n, v in columns_of(limit).items() if n != "most"} for limit in self._changed.values()),
        )


def written(session: Session, writes: Sequence[Write], lease_s: float) -> list[Written]:
    """Rows that are all different, in one go: read and locked by one statement, written by one for each kind of write."""
    locked = {line["id"]: line for line in session.rows(statements.LOCK, {"ids": [write.row.id for write in writes]})}
    held = [
        line if (line := locked.get(write.row.id)) and line["lease_token"] == write.row.lease_token else None
        for write in writes
    ]
    payers = {
        write.row.id: scopes_of(line["scopes"])
        for write, line in zip(writes, held, strict=True)
        if line is not None and write.change is not None and write.change.postings
    }
    books = Postings(session, (scope for scopes in payers.values() for scope in scopes))
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
    crash_point("store:rows:before:ledger")
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
        if change.is_news(line["phase"], line["state"]):
            told = (change.phase, change.state, change.message, row.lease_token, write.cause, change.level)
            self._told.append(history_line(row.id, self._now, *told))
        self._told += warning_lines(row.id, self._now, line["phase"], line["state"], row.lease_token, warnings)
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


def history_line(
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


def warning_lines(
    row_id: str, now: float, phase: str, state: str, lease_token: int, warnings: Sequence[str]
) -> list[dict[str, Any]]:
    return [history_line(row_id, now, phase, state, warning, lease_token, "budget", "warning") for warning in warnings]


@lru_cache(maxsize=256)
def scopes_of(text: str) -> tuple[str, ...]:
    """Of the rows of one user in one project, which are many, the same."""
    return tuple(json.loads(text))


def limit_of(line: Mapping[str, Any]) -> Limit:
    return Limit(**{name: line[name] for name in ("scope", "meter", "period", "most", "month", "held", "spent")})


def key_of(limit: Limit) -> tuple[str, Meter, Period]:
    return limit.scope, limit.meter, limit.period


def columns_of(value: Limit | Posting) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain(text: str) -> str:
    """Text that every database takes: messages quote what programs print, and a NUL or half a character in one must not
    keep a row from being written."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
