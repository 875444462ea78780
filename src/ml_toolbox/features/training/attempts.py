"""One attempt's money and time: opened before anything is created, accrued while it runs, settled when it is proved gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.base.ids import digest
from ml_toolbox.domain.jobs import JobSpec, Limits
from ml_toolbox.domain.money import Money
from ml_toolbox.engine import charges
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.features.training.records import Attempt, JobData, JobOrder
from ml_toolbox.ports.jobs import JobBackend, JobObservation, JobRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The most that the first attempt can cost."""

    hourly: Money
    """Price of the cheapest place that the job may take, all nodes together."""
    limit_s: float
    """How long it is let run: the job's own limit, or what its money lasts for."""
    overhead_s: float
    """How much longer the platform may let it exist."""

    @property
    def seconds(self) -> float:
        return self.limit_s + self.overhead_s

    @property
    def cost(self) -> Money:
        return Money(charges.cost_of(self.hourly.micros, self.seconds))


LEAST_RUN_S = 60.0
"""A job whose money lasts for less than this after all overheads is not started at all."""


def worst(job: JobSpec, backend: JobBackend, request: JobRequest) -> Worst:
    """What the first attempt of the job would reserve there. Nothing is written.

    Raises ``BudgetExceeded`` when the job's own limits forbid it: the place is too dear, or the money lasts too short a time.
    """
    hourly = _hourly(job, backend)
    overhead_s = max(0.0, request.max_run_s - job.limits.max_duration_s)
    limit_s = _allowed_s(job.limits, hourly=hourly.micros, overhead_s=overhead_s, spent=0)
    return Worst(hourly=hourly, limit_s=limit_s, overhead_s=overhead_s)


def _hourly(job: JobSpec, backend: JobBackend) -> Money:
    offers = backend.offers(job)
    price = offers[0].price_hourly.times(job.resources.nodes) if offers else Money()
    most = job.limits.max_cost_per_hour_usd
    if most is not None and price > Money.usd(most):
        raise BudgetExceeded(
            f"limits.max_cost_per_hour_usd: the cheapest place on {backend.name} costs {price} an hour, "
            f"{Money.usd(most)} is the limit",
            hint="raise the limit, or ask for less",
            field="limits.max_cost_per_hour_usd",
        )
    return price


def token_of(install: str, row_id: str, attempt: int, parameters: Mapping[str, Any]) -> str:
    """The idempotency token: the same attempt of the same order here, and only that, gives the same token."""
    return digest({"install": install, "row": row_id, "attempt": attempt, "parameters": parameters})


def opened(
    install: str, row_id: str, spec: Mapping[str, Any], order: JobOrder, data: JobData, now: float
) -> tuple[JobData, Posting]:
    """The intent of the next attempt, and the reservation of the most it can cost.

    Raises ``BudgetExceeded`` when what is left of the job's own money is too little to begin with.
    """
    number = data.attempt.number + 1
    limit_s = _allowed_s(order.job.limits, hourly=order.hourly, overhead_s=order.overhead_s, spent=data.spent)
    charge, posting = charges.reserve(number, hourly=order.hourly, seconds=limit_s + order.overhead_s, now=now)
    attempt = Attempt(
        number=number,
        token=token_of(install, row_id, number, spec),
        submitted_at=now,
        tried_at=now,
        limit_s=limit_s,
        charge=charge,
    )
    fresh = replace(
        data, attempts=(*data.attempts, attempt), observation=None, tries=0, problem="", since=0.0, alarmed=False
    )
    return fresh, posting


def accrued(data: JobData, order: JobOrder, seen: JobObservation, now: float) -> tuple[JobData, tuple[Posting, ...]]:
    """What runs has cost this much so far."""
    attempt = data.attempt
    charge, postings = charges.accrue(attempt.number, attempt.charge, billed_s=billed_s(attempt, order, seen, now))
    if not postings:
        return data, ()
    return replace(data, attempts=(*data.attempts[:-1], replace(attempt, charge=charge))), postings


def settled(
    data: JobData, order: JobOrder, seen: JobObservation | None, now: float, reason: str
) -> tuple[JobData, tuple[Posting, ...]]:
    """The present attempt exists no more. ``seen`` ``None``: it never came to be."""
    attempt = data.attempt
    seconds = 0.0 if seen is None else billed_s(attempt, order, seen, now)
    charge, postings = charges.settle(attempt.number, attempt.charge, billed_s=seconds, reason=reason)
    if not postings:
        return data, ()
    ended = replace(
        attempt,
        charge=charge,
        ended_at=now,
        end=str(seen.failure) if seen is not None and seen.failure is not None else reason,
        checkpoint=seen.checkpoint if seen is not None else None,
    )
    return replace(data, attempts=(*data.attempts[:-1], ended)), postings


def billed_s(attempt: Attempt, order: JobOrder, seen: JobObservation, now: float) -> float:
    """Seconds to pay for: what the platform says, or the time since the start, but never more than it is let run."""
    if seen.billed_s is not None:
        return seen.billed_s
    if seen.started_at is None:
        return 0.0
    return min(max(0.0, (seen.ended_at or now) - seen.started_at), attempt.limit_s + order.overhead_s)


def vanished_s(attempt: Attempt, order: JobOrder, last: JobObservation | None, now: float) -> float:
    """Seconds to pay for when the end itself was never seen: it may have run until just now, and where its start was not seen
    either, from the moment it was asked for. The ledger must not be below the platform's bill."""
    since = attempt.submitted_at if last is None or last.started_at is None else last.started_at
    told = last.billed_s if last is not None and last.billed_s is not None else 0.0
    return max(told, min(max(0.0, now - since), attempt.limit_s + order.overhead_s))


def money_ends_at(attempt: Attempt, order: JobOrder, started_at: float | None) -> float | None:
    """When the job has to be told to stop so that its own cost limit holds, checkpoint included; ``None``: never."""
    if started_at is None or not attempt.limit_s or attempt.limit_s >= order.job.limits.max_duration_s:
        return None
    return started_at + attempt.limit_s - min(10.0, 0.1 * attempt.limit_s)


def _allowed_s(limits: Limits, *, hourly: int, overhead_s: float, spent: int) -> float:
    """How long an attempt may run: as long as the job wants, or as its money lasts. ``BudgetExceeded`` when that is nothing."""
    if limits.max_cost_usd is None or not hourly:
        return limits.max_duration_s
    most = Money.usd(limits.max_cost_usd)
    left = most - Money(spent)
    lasts_s = charges.seconds_for(hourly, left.micros) - overhead_s
    if lasts_s < min(LEAST_RUN_S, limits.max_duration_s):
        raise BudgetExceeded(
            f"limits.max_cost_usd: {left} of {most} left lasts {max(0.0, lasts_s):.0f} s at {Money(hourly)} an hour "
            f"(less {overhead_s:.0f} s to stop in); {min(LEAST_RUN_S, limits.max_duration_s):.0f} s are the least",
            hint="raise the limit, or take a cheaper place",
            field="limits.max_cost_usd",
        )
    return min(limits.max_duration_s, lasts_s)
