"""Money and numbers under limits: the lines of the ledger, the limits, and the one rule that says no.

Everything is whole: millionths of a US dollar, or things counted. A store writes postings in the transaction that writes the
row they belong to, and asks :func:`posted` in that same transaction, with the limits' rows locked. So no number of racing
clients can pass a limit, and no crash can lose or double a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.domain.money import Money

Kind = Literal["reserve", "accrue", "settle", "collect"]
"""``reserve``: the worst case, before anything is created; the only kind that a limit can refuse. ``accrue``: held money became
spent. ``settle``: it exists no more; what is still held is free again. ``collect``: spent by a resource that nobody knew of."""

Meter = Literal["cost", "cost-per-hour", "running"]
"""What a limit is on: money held or spent, money per hour of what exists now, the number of things that exist now."""

Period = Literal["", "month"]
"""A limit on cost holds for ever, or for every calendar month (UTC) anew."""

WARN_AT = 0.8
"""Share of a limit at which a warning is written (of what is held or spent, so before the money is gone)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One change of what an attempt holds and has spent."""

    attempt: int
    kind: Kind
    held: int = 0
    """Micro-dollars, added to what is held back."""
    spent: int = 0
    """Micro-dollars, added to what was spent."""
    hourly: int = 0
    """Micro-dollars per hour, added to the present rate."""
    running: int = 0
    """Added to the number of things that exist."""
    month: str = ""
    """Whose month pays, ``2026-11``: the one in which the attempt was reserved, also for lines of later months."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A posting as the ledger keeps it."""

    seq: int
    at: float
    work_id: str
    kind_of_work: str
    name: str
    place: str
    posting: Posting


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A budget, and how much of it is taken."""

    scope: str
    """Whose: ``all``, ``user:NAME``, ``project:NAME``, ``profile:NAME``, ``backend:NAME``."""
    meter: Meter
    period: Period = ""
    most: int = 0
    """Micro-dollars (an hour), or a number of things."""
    month: str = ""
    """For a monthly limit: the month that ``held`` and ``spent`` belong to."""
    held: int = 0
    spent: int = 0

    @property
    def name(self) -> str:
        return f"{self.scope} {self.meter}{' a month' if self.period else ''}"

    @property
    def taken(self) -> int:
        return self.held + self.spent

    def show(self, amount: int) -> str:
        return str(amount) if self.meter == "running" else str(Money(amount))

    def with_posting(self, posting: Posting) -> Limit:
        """The same limit after the posting. Lines of a month that is over no longer count; a new month begins empty."""
        if self.meter == "cost-per-hour":
            return replace(self, held=self.held + posting.hourly)
        if self.meter == "running":
            return replace(self, held=self.held + posting.running)
        if self.period == "month" and posting.month != self.month:
            if posting.month < self.month:
                return self
            return replace(self, month=posting.month, held=posting.held, spent=posting.spent)
        return replace(self, held=self.held + posting.held, spent=self.spent + posting.spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What a set of postings makes of the limits it touches."""

    limits: tuple[Limit, ...]
    """Those that changed."""
    warnings: tuple[str, ...]
    """One line for each limit that went past the share at which users are warned."""


def posted(limits: Iterable[Limit], postings: Sequence[Posting]) -> Posted:
    """The limits after the postings. Raises ``BudgetExceeded``, with the arithmetic, when a reservation goes past one.

    Only reservations are refused. What has been spent has been spent: refusing to write it down would be a lie. One that was
    meant for a month which is over for its limit is refused too, to be asked for again: it would pass under no month's limit.
    """
    asks = any(posting.kind == "reserve" for posting in postings)
    changed, warnings = [], []
    for before in limits:
        if before.period and any(posting.kind == "reserve" and posting.month < before.month for posting in postings):
            raise BudgetExceeded(
                f"budget {before.name}: the month that would pay is over",
                hint="ask again: the present one pays",
                resource=before.scope,
                waits=True,
            )
        after = before
        for posting in postings:
            after = after.with_posting(posting)
        if after == before:
            continue
        if asks and after.taken > after.most and after.taken > before.taken:
            raise _refusal(before, after)
        if after.meter == "cost" and after.taken >= WARN_AT * after.most > before.taken:
            warnings.append(
                f"{after.taken / after.most:.0%} of budget {after.name} is taken: "
                f"{after.show(after.taken)} of {after.show(after.most)}"
            )
        changed.append(after)
    return Posted(limits=tuple(changed), warnings=tuple(warnings))


def month_of(now: float) -> str:
    """``2026-11`` (UTC)."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def _refusal(before: Limit, after: Limit) -> BudgetExceeded:
    if before.period == "month" and before.month != after.month:
        before = replace(before, held=0, spent=0)
    asked = after.taken - before.taken
    waits = before.meter != "cost" and asked <= before.most
    free = max(0, before.most - before.taken)
    parts = (
        f"{before.show(before.spent)} spent - {before.show(before.held)} held" if before.meter == "cost" else "taken"
    )
    taken = parts if before.meter == "cost" else f"{before.show(before.held)} {parts}"
    return BudgetExceeded(
        f"budget {before.name}: {before.show(asked)} asked, {before.show(free)} free"
        f" ({before.show(before.most)} limit - {taken})",
        hint="it starts when others end"
        if waits
        else f"ask for less, or raise it: mltoolbox budgets set {before.scope}",
        resource=before.scope,
        waits=waits,
    )


class Books(Protocol):
    """What budgets and cost reports need of a store, besides the loop's :class:`~ml_toolbox.engine.store.Store`."""

    def limits(self) -> tuple[Limit, ...]:
        """Every limit, by scope. A monthly one of a month that is over is shown as empty for the present month."""

    def set_limit(self, scope: str, meter: Meter, period: Period, most: int | None) -> Limit | None:
        """Make, change or (``None``) remove a limit. What is taken already is added up from the ledger in the same
        transaction, so no reservation can slip through between. Returns the limit as it now is."""

    def lines(
        self, *, work_id: str | None = None, since: float = 0.0, after: int = 0, limit: int = 10_000
    ) -> tuple[Line, ...]:
        """Lines of the ledger, oldest first; ``after`` (a ``seq``) pages on."""

    def scopes_of(self, work_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Whose budgets pay for each of these rows."""
