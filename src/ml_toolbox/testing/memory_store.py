"""The loop's store in memory, for tests and the simulator: the same promises, as the suite for stores shows, without a disk."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound
from ml_toolbox.engine.ledger import Limit, Line, Meter, Period, Posting, month_of, posted
from ml_toolbox.engine.rows import WISH_ORDER, Occurrence, Row, Transition, Wish, Write
from ml_toolbox.engine.store import Written


class MemoryStore:
    """See ``engine.store.Store`` and ``engine.ledger.Books`` for what each method promises."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._rows: dict[str, Row] = {}
        self._occurrences: list[Occurrence] = []
        self._histories: defaultdict[str, list[Transition]] = defaultdict(list)
        self._lines: list[Line] = []
        self._limits: dict[tuple[str, Meter, Period], Limit] = {}
        self._places: dict[str, None] = {}
        self._remembered: dict[str, str] = {}

    def now(self) -> float:
        return self.clock.now()

    def rows(self) -> tuple[Row, ...]:
        """Every row, oldest first."""
        return tuple(self._rows.values())

    def stored_limits(self) -> tuple[Limit, ...]:
        """Every limit as it is kept, with the month that its sums belong to."""
        return tuple(limit for _, limit in sorted(self._limits.items()))

    def close(self) -> None:
        """Nothing to give up; what was written stays readable, as on a disk."""

    # -- the loop -----------------------------------------------------------------------------------------------------

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0, postings: Sequence[Posting] = ()) -> Row:
        with self._lock:
            if row.id in self._rows:
                raise Conflict(f"{row.kind} {row.id} exists already", resource=row.id)
            now = self.now()
            leased = replace(
                row,
                lease_owner=owner,
                lease_token=1 if owner else 0,
                lease_until=now + lease_s if owner else 0.0,
                created_at=row.created_at or now,
                updated_at=now,
            )
            warnings = self._post(leased, postings, now)
            self._rows[row.id] = leased
            if row.place:
                self._places.setdefault(row.place)
            self._note(leased, Transition(now, row.phase, row.state, "created", leased.lease_token, "insert"))
            self._warn(leased, warnings, now)
            return leased

    def get(self, row_id: str) -> Row:
        with self._lock:
            try:
                return self._rows[row_id]
            except KeyError:
                raise NotFound(f"no row {row_id}", resource=row_id) from None

    def get_many(self, row_ids: Collection[str]) -> dict[str, Row]:
        with self._lock:
            return {row_id: self._rows[row_id] for row_id in row_ids if row_id in self._rows}

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
        with self._lock:
            found = [
                row
                for row in self._rows.values()
                if (kind is None or row.kind == kind)
                and (name is None or row.name == name)
                and (id_prefix is None or row.id.startswith(id_prefix))
                and (states is None or row.state in states)
                and row.phase not in without_phases
                and (place is None or row.place == place)
                and (before is None or row.id < before)
            ]
        return tuple(sorted(found, key=lambda row: row.id, reverse=True)[:limit])

    def claim(self, row_id: str, *, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        with self._lock:
            row = self._rows.get(row_id)
            return None if row is None else self._claimed(row, owner, lease_s, is_dead)

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
        with self._lock:
            due = [
                row
                for row in self._rows.values()
                if row.due_at is not None
                and row.due_at <= due_before
                and row.kind in kinds
                and row.place not in elsewhere
            ]
            due.sort(key=lambda row: (row.due_at or 0.0, row.id))
            claimed: list[Row] = []
            for row in due:
                if len(claimed) == limit:
                    break
                if (taken := self._claimed(row, owner, lease_s, is_dead)) is not None:
                    claimed.append(taken)
            return tuple(claimed)

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        with self._lock:
            return [self._written(write, lease_s) for write in writes]

    def renew(self, owner: str, *, lease_s: float) -> int:
        with self._lock:
            mine = [row for row in self._rows.values() if row.lease_owner == owner]
            until = self.now() + lease_s
            for row in mine:
                self._rows[row.id] = replace(row, lease_until=until)
            return len(mine)

    def wish(self, row_id: str, wish: Wish, *, reason: str = "") -> Row:
        with self._lock:
            row = self.get(row_id)
            if WISH_ORDER.index(wish) <= WISH_ORDER.index(row.wish):
                return row
            now = self.now()
            self._rows[row_id] = wished = replace(row, wish=wish, due_at=now, updated_at=now)
            message = f"{wish} wanted{f': {reason}' if reason else ''}"
            self._note(row, Transition(now, row.phase, row.state, message, row.lease_token, "wish"))
            return wished

    def history(self, row_id: str) -> tuple[Transition, ...]:
        with self._lock:
            return tuple(self._histories[row_id])

    def occurrences(self, *, after: int = 0, limit: int = 1000) -> tuple[Occurrence, ...]:
        with self._lock:
            return tuple(self._occurrences[after : after + limit])

    def places(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._places)

    def forget_place(self, place: str) -> bool:
        with self._lock:
            if any(row.place == place and row.ended_at is None for row in self._rows.values()):
                return False
            self._places.pop(place, None)
            return True

    def remembered(self, name: str, first: str) -> str:
        with self._lock:
            return self._remembered.setdefault(name, first)

    # -- the books ----------------------------------------------------------------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        with self._lock:
            month = month_of(self.now())
            return tuple(
                replace(limit, month=month, held=0, spent=0) if limit.period and limit.month < month else limit
                for _, limit in sorted(self._limits.items())
            )

    def set_limit(self, scope: str, meter: Meter, period: Period, most: int | None) -> Limit | None:
        with self._lock:
            self._limits.pop((scope, meter, period), None)
            if most is None:
                return None
            limit = Limit(scope=scope, meter=meter, period=period, most=most)
            if period:
                limit = replace(limit, month=month_of(self.now()))
            for line in self._lines:
                if scope in self._rows[line.work_id].scopes:
                    limit = limit.with_posting(line.posting)
            self._limits[scope, meter, period] = limit
            return limit

    def lines(
        self, *, work_id: str | None = None, since: float = 0.0, after: int = 0, limit: int = 10_000
    ) -> tuple[Line, ...]:
        with self._lock:
            found = (line for line in self._lines[after:] if line.at >= since and work_id in (None, line.work_id))
            return tuple(line for line, _ in zip(found, range(limit), strict=False))

    def scopes_of(self, work_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        with self._lock:
            return {work_id: self._rows[work_id].scopes for work_id in work_ids if work_id in self._rows}

    # -- inside the lock ----------------------------------------------------------------------------------------------

    def _claimed(self, row: Row, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        now = self.now()
        if row.lease_owner and row.lease_until > now and not is_dead(row.lease_owner):
            return None
        claimed = replace(row, lease_owner=owner, lease_token=row.lease_token + 1, lease_until=now + lease_s)
        self._rows[row.id] = claimed
        return claimed

    def _written(self, write: Write, lease_s: float) -> Written:
        held = self._rows.get(write.row.id)
        if held is None or held.lease_token != write.row.lease_token:
            return None
        now, change, after = self.now(), write.change, held
        if change is not None:
            try:
                warnings = self._post(held, change.postings, now)
            except BudgetExceeded as refused:
                return refused
            if change.is_news(held.phase, held.state):
                line = Transition(
                    now, change.phase, change.state, change.message, held.lease_token, write.cause, change.level
                )
                self._note(held, line)
            self._warn(held, warnings, now)
            after = replace(
                held,
                phase=change.phase,
                state=change.state,
                data=change.data,
                # A wish that the decision did not know of: due, so that it is met even if the writer dies at this moment.
                due_at=change.due_at if held.wish == write.row.wish else now,
                updated_at=now,
                ended_at=now if change.ended and held.ended_at is None else held.ended_at,
            )
        gives_back = write.release and held.wish == write.row.wish
        after = replace(
            after,
            lease_owner="" if gives_back else held.lease_owner,
            lease_until=0.0 if gives_back else now + lease_s,
        )
        self._rows[held.id] = after
        return after

    def _post(self, row: Row, postings: Sequence[Posting], now: float) -> tuple[str, ...]:
        if not postings:
            return ()
        touched = [limit for (scope, _, _), limit in sorted(self._limits.items()) if scope in row.scopes]
        result = posted(touched, postings)
        for limit in result.limits:
            self._limits[limit.scope, limit.meter, limit.period] = limit
        for posting in postings:
            self._lines.append(
                Line(
                    seq=len(self._lines) + 1,
                    at=now,
                    work_id=row.id,
                    kind_of_work=row.kind,
                    name=row.name,
                    place=row.place,
                    posting=posting,
                )
            )
        return result.warnings

    def _note(self, row: Row, transition: Transition) -> None:
        self._histories[row.id].append(transition)
        self._occurrences.append(Occurrence(len(self._occurrences) + 1, row.id, row.kind, row.name, transition))

    def _warn(self, row: Row, warnings: Sequence[str], now: float) -> None:
        for warning in warnings:
            self._note(row, Transition(now, row.phase, row.state, warning, row.lease_token, "budget", "warning"))
