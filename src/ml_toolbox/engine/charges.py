"""What one attempt holds and has spent, as pure steps: reserve the worst case, accrue while it runs, settle when it is gone.

Each step returns the new charge and the posting that says the difference, so that the row's data and the ledger, written in
one transaction, can never tell different sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ml_toolbox.engine.ledger import Posting, month_of

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Money of one attempt, in micro-dollars."""

    hourly: int = 0
    """Price an hour."""
    held: int = 0
    spent: int = 0
    month: str = ""
    """In which it was reserved: that month's budgets pay."""
    open: bool = False
    """Reserved and not settled: it counts as one thing that exists."""

    @property
    def reserved(self) -> int:
        """The worst case that was reserved."""
        return self.held + self.spent


def cost_of(hourly: int, seconds: float) -> int:
    """Micro-dollars for that long, rounded up.

    Seconds are differences of times of day, exact to a fraction of a microsecond: what that adds must not become a micro-dollar
    more than was reserved for the same time.
    """
    return max(0, ceil(hourly * max(0.0, seconds) / _HOUR_S - 0.01))


def seconds_for(hourly: int, amount: int) -> float:
    """How long the amount lasts; infinite where nothing is charged."""
    return amount / hourly * _HOUR_S if hourly else float("inf")


def reserve(attempt: int, *, hourly: int, seconds: float, now: float) -> tuple[Charge, Posting]:
    """Hold the worst case: the price for as long as the platform may let it run."""
    charge = Charge(hourly=hourly, held=cost_of(hourly, seconds), month=month_of(now), open=True)
    reason = f"{seconds / _HOUR_S:.4g} h at most"
    return charge, _posting("reserve", attempt, Charge(month=charge.month), charge, reason)


def accrue(attempt: int, charge: Charge, *, billed_s: float, least: float = 0.02) -> tuple[Charge, tuple[Posting, ...]]:
    """Turn held money into spent money. Steps smaller than ``least`` of the reservation are left for later: a line of the
    ledger every second would say nothing new."""
    spent = cost_of(charge.hourly, billed_s)
    if not charge.open or spent - charge.spent < max(1, least * charge.reserved):
        return charge, ()
    grown = replace(charge, spent=spent, held=max(0, charge.reserved - spent))
    return grown, (_posting("accrue", attempt, charge, grown, f"{billed_s:.0f} s"),)


def settle(attempt: int, charge: Charge, *, billed_s: float, reason: str) -> tuple[Charge, tuple[Posting, ...]]:
    """It exists no more: what it cost is spent, the rest is free again. Settled already: nothing."""
    if not charge.open:
        return charge, ()
    spent = max(charge.spent, cost_of(charge.hourly, billed_s))
    settled = replace(charge, spent=spent, held=0, open=False)
    return settled, (_posting("settle", attempt, charge, settled, reason),)


def _posting(kind: str, attempt: int, before: Charge, after: Charge, reason: str) -> Posting:
    return Posting(
        attempt=attempt,
        kind=kind,  # type: ignore[arg-type] # one of the literals, at each call above
        held=after.held - before.held,
        spent=after.spent - before.spent,
        hourly=after.hourly * after.open - before.hourly * before.open,
        running=after.open - before.open,
        month=after.month,
        reason=reason,
    )
