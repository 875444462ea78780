"""What users do in one schedule, drawn from its seed: submit, stop, delete, deploy, set and lower limits."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from ml_toolbox.domain.jobs import JobSpec, Limits, RetryRule
from ml_toolbox.engine.ledger import Meter, Period
from ml_toolbox.engine.rows import Wish
from ml_toolbox.testing.simulator.profile import Profile

HOURLY = 3_600_000
"""3.60 USD: a second costs a thousandth of a dollar."""
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One thing that a user (or the platform's fate, for ``preempt``) does."""

    at: float
    """Seconds after the beginning."""
    what: Literal["submit", "wish", "limit", "deploy", "preempt"]
    row: str = ""
    """Its id; an endpoint's name."""
    job: JobSpec | None = None
    scopes: tuple[str, ...] = ()
    wish: Wish = ""
    limit: tuple[str, Meter, Period, int] = ("all", "cost", "", 0)
    version: int = 1


def deeds(profile: Profile, random: Random, start: float) -> list[Deed]:
    """Everything users do, in order."""
    found: list[Deed] = []
    for number in range(profile.jobs):
        at = random.random() * 120.0 * (number > 0)
        row = row_id(start + at, number)
        scopes = ("all", "user:ann" if number % 2 else "user:bob", "backend:sky")
        found.append(Deed(at=at, what="submit", row=row, job=_job(profile, random, number), scopes=scopes))
        if random.random() < profile.stops:
            found.append(Deed(at=at + _soon(random), what="wish", row=row, wish="stop"))
        if random.random() < profile.deletes:
            found.append(Deed(at=at + _soon(random), what="wish", row=row, wish="delete"))
    for number in range(profile.endpoints):
        name = f"endpoint{number}"
        versions = range(1, random.randint(2, 4))
        found += [Deed(at=random.random() * 300.0, what="deploy", row=name, version=version) for version in versions]
        if random.random() < 0.5:
            found.append(Deed(at=random.random() * 600.0, what="wish", row=f"{name}.000001", wish="delete"))
    if profile.limited:
        found += _limits(random)
    if profile.preempts:
        found += [Deed(at=_soon(random) + 60.0, what="preempt") for _ in range(random.randint(1, 3))]
    return sorted(found, key=lambda deed: deed.at)


def row_id(at: float, number: int) -> str:
    """A ULID whose random part is the number."""
    value = (int(at * 1000) << 80) | number + 1
    digits = []
    for _ in range(26):
        value, digit = divmod(value, 32)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _soon(random: Random) -> float:
    return random.choice((1.0, 30.0, 400.0)) * random.random()


def _job(profile: Profile, random: Random, number: int) -> JobSpec:
    duration_s = random.choice((120.0, 600.0, 3600.0))
    cost_limited = profile.priced and random.random() < profile.cost_limited
    most_usd = (duration_s + 60.0) / 1000.0 * random.choice((0.6, 1.0, 1.7)) if cost_limited else None
    rule = RetryRule(
        preempted=random.choice((0, 2, 10)),
        no_capacity=random.choice((0, 2, 10)),
        lost=random.choice((0, 0, 2)),
        user_error=random.choice((0, 0, 1)),
    )
    return JobSpec(
        name=f"job{number}",
        command=("train",),
        limits=Limits(max_duration_s=duration_s, stop_grace_s=random.choice((0.0, 30.0)), max_cost_usd=most_usd),
        retry=rule,
        register="model" if random.random() < profile.registers else None,
    )


def _limits(random: Random) -> list[Deed]:
    found = []
    choices: tuple[tuple[str, Meter, Period, tuple[int, ...]], ...] = (
        ("all", "running", "", (1, 2)),
        ("user:ann", "running", "", (1,)),
        ("all", "cost", "", (700_000, 2_000_000, 8_000_000)),
        ("backend:sky", "cost", "month", (700_000, 4_000_000)),
        ("all", "cost-per-hour", "", (HOURLY, 2 * HOURLY)),
    )
    for scope, meter, period, amounts in choices:
        if random.random() < 0.45:
            most = random.choice(amounts)
            found.append(Deed(at=0.0, what="limit", limit=(scope, meter, period, most)))
            if random.random() < 0.4:
                changed = random.choice((most // 2, most * 2, max(1, most // 10)))
                limit = (scope, meter, period, changed)
                found.append(Deed(at=_soon(random), what="limit", limit=limit))
    return found
