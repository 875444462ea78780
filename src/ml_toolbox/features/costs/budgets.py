"""The limits that there are: made, lowered, shown, removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ml_toolbox.base.errors import Bug, NotFound
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.ledger import Books, Limit, Line, Meter, Period, month_of
from ml_toolbox.features.costs.limits import Wanted, checked_scope

Overdrawn = Callable[[Iterable[Limit]], Mapping[str, str]]
"""Ids of the rows that such limits would stop, and why."""

PAGE = 10_000
"""Lines of the ledger read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """A job or endpoint that takes part of a budget now."""

    work_id: str
    kind: str
    name: str
    held: Money = field(default_factory=Money)
    """Reserved, and not spent yet."""
    spent: Money = field(default_factory=Money)
    hourly: Money = field(default_factory=Money)
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """What a new limit would mean for what exists already."""

    limit: Limit
    stops: Mapping[str, str]
    """Ids of the rows that it would stop, and why."""


class Budgets:
    """Limits on money and numbers, kept where the rows are kept.

    Args:
        overdrawn: which rows limits that are passed would stop; changes nothing.
        enforce: tells them to stop, and drives that. Returns how many.
        now: the store's time.
    """

    def __init__(
        self, books: Books, *, overdrawn: Overdrawn, enforce: Callable[[], int], now: Callable[[], float]
    ) -> None:
        self._books = books
        self._overdrawn = overdrawn
        self._enforce = enforce
        self._now = now

    def list(self) -> tuple[Limit, ...]:
        """Every limit, with what is taken of it."""
        return self._books.limits()

    def show(self, scope: str) -> tuple[Limit, ...]:
        """The limits of one scope. ``NotFound`` when it has none."""
        checked_scope(scope)
        found = tuple(limit for limit in self._books.limits() if limit.scope == scope)
        if not found:
            raise NotFound(f"there is no budget for {scope}", hint="mltoolbox budgets list shows them", resource=scope)
        return found

    def takers(self, scope: str) -> tuple[Taker, ...]:
        """What takes part of the scope's limits now - holds money, or exists -, the one that holds most first."""
        sums: dict[str, Taker] = {}
        for line in self._lines_of(checked_scope(scope)):
            before = sums.get(line.work_id) or Taker(work_id=line.work_id, kind=line.kind_of_work, name=line.name)
            said = line.posting
            sums[line.work_id] = replace(
                before,
                held=before.held + Money(said.held),
                spent=before.spent + Money(said.spent),
                hourly=before.hourly + Money(said.hourly),
                running=before.running + said.running,
            )
        living = [taker for taker in sums.values() if taker.held.micros or taker.running]
        return tuple(sorted(living, key=lambda taker: (-taker.held.micros, taker.work_id)))

    def lowered(self, wanted: Wanted) -> Lowered:
        """What the limit would be, and what it would stop. Changes nothing."""
        limit = replace(self._as_taken(wanted), most=wanted.most)
        return Lowered(limit=limit, stops=dict(self._overdrawn([limit])))

    def set(self, wanted: Wanted) -> Limit:
        """Make or change the limit, and stop at once what it no longer pays for. Returns it as it now is."""
        limit = self._books.set_limit(wanted.scope, wanted.meter, wanted.period, wanted.most)
        if limit is None:
            raise Bug(f"the limit of {wanted.scope} was removed by being set")
        if limit.meter == "cost" and limit.taken > limit.most:
            self._enforce()
        return limit

    def remove(self, scope: str, *, meter: Meter | None = None, period: Period | None = None) -> tuple[Limit, ...]:
        """Lift the scope's limits, or only those of one meter or period. ``NotFound`` when there are none."""
        mine = [
            limit
            for limit in self.show(scope)
            if meter in (None, limit.meter) and (period is None or period == limit.period)
        ]
        if not mine:
            raise NotFound(f"budget {scope} has no such limit", hint=f"mltoolbox budgets show {scope}", resource=scope)
        for limit in mine:
            self._books.set_limit(limit.scope, limit.meter, limit.period, None)
        return tuple(mine)

    def _as_taken(self, wanted: Wanted) -> Limit:
        """The limit that there is, or an empty one with everything that the ledger counts for it."""
        for limit in self._books.limits():
            if (limit.scope, limit.meter, limit.period) == (wanted.scope, wanted.meter, wanted.period):
                return limit
        new = Limit(scope=wanted.scope, meter=wanted.meter, period=wanted.period, most=wanted.most)
        if wanted.period:
            new = replace(new, month=month_of(self._now()))
        for line in self._lines_of(wanted.scope):
            new = new.with_posting(line.posting)
        return new

    def _lines_of(self, scope: str) -> Iterator[Line]:
        for page, scopes in pages(self._books):
            yield from (line for line in page if scope in scopes.get(line.work_id, ()))


def pages(books: Books, *, since: float = 0.0) -> Iterator[tuple[tuple[Line, ...], Mapping[str, tuple[str, ...]]]]:
    """The ledger in pages, oldest first, each with the scopes of its rows."""
    known: dict[str, tuple[str, ...]] = defaultdict(tuple)
    after = 0
    while page := books.lines(since=since, after=after, limit=PAGE):
        missing = sorted({line.work_id for line in page} - known.keys())
        if missing:
            known.update(books.scopes_of(missing))
        yield page, known
        after = page[-1].seq
