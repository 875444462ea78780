"""A reservation held against the limits before it is made: the same rule, asked without writing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.domain.money import Money
from ml_toolbox.engine import charges
from ml_toolbox.engine.ledger import Limit, month_of, posted


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The most that an attempt, or an endpoint's next day, can cost."""

    scopes: tuple[str, ...]
    hourly: Money
    seconds: float
    """How long the platform may let it exist."""

    @property
    def most(self) -> Money:
        return Money(charges.cost_of(self.hourly.micros, self.seconds))

    def __str__(self) -> str:
        """``at most $1.23 ($0.41/h x 3 h)``."""
        return f"at most {self.most} ({self.hourly}/h x {_hours(self.seconds)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the limits say."""

    reserves: tuple[str, ...]
    """One line for each limit on cost that the money is taken from."""
    waits: tuple[str, ...]
    """Limits on what exists at one time that have no room now: it would wait in line."""
    warnings: tuple[str, ...]
    """Limits that it would take past the share at which users are warned."""


def outlook(limits: Iterable[Limit], reservation: Reservation, now: float) -> Outlook:
    """What would happen. Raises ``BudgetExceeded``, with the arithmetic, when a limit would refuse for good."""
    _, posting = charges.reserve(1, hourly=reservation.hourly.micros, seconds=reservation.seconds, now=now)
    reserves: list[str] = []
    waits: list[str] = []
    warnings: list[str] = []
    for limit in limits:
        if limit.scope not in reservation.scopes:
            continue
        try:
            result = posted([limit], [posting])
        except BudgetExceeded as error:
            if not error.waits:
                raise
            waits.append(error.message)
            continue
        warnings += result.warnings
        if limit.meter == "cost" and posting.held:
            reserves.append(taken_from(limit, month=month_of(now)))
    return Outlook(reserves=tuple(reserves), waits=tuple(waits), warnings=tuple(warnings))


def taken_from(limit: Limit, *, month: str = "") -> str:
    """``budget project:churn $10.00 a month, $8.77 free``."""
    taken = 0 if limit.period and month and limit.month != month else limit.taken
    every = " a month" if limit.period else ""
    return f"budget {limit.scope} {limit.show(limit.most)}{every}, {limit.show(max(0, limit.most - taken))} free"


def held_by(limits: Iterable[Limit], scopes: Collection[str]) -> tuple[str, ...]:
    """The limits on cost that pay for these scopes, with what is free of them now."""
    return tuple(taken_from(limit) for limit in limits if limit.meter == "cost" and limit.scope in scopes)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 600 else f"{seconds:.4g} s"
