"""What one schedule is like, drawn from its seed: which platform, how hostile, how many workers, what users ask for.

Each schedule switches kinds of trouble on and off at random instead of having a little of everything ("Swarm Testing", Groce
et al., ISSTA 2012): faults that hide each other - a platform that refuses everything never shows what a lost answer does -
are then met alone in some schedules and together in others.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Class = Literal["token", "name", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Probabilities are per call or per crash point; times are in seconds."""

    kind: Class
    window_s: float
    workers: int
    jobs: int
    endpoints: int
    crash: float
    """Of a process dying at a crash point."""
    pause: float
    """Of a process standing still at a crash point, for up to several leases."""
    switch: float
    """Of another process going on first."""
    meddles: float
    """Of a user's wish arriving just between an answer and its record."""
    fails_before: float
    """No answer, and no effect."""
    fails_after: float
    """The effect happened, the answer was lost."""
    fails_late: float
    """No answer now, and the effect a moment later (creating only)."""
    breaks_after: float
    """The adapter itself raises something that is no error of ours, after the effect."""
    throttles: float
    """Without a wish for when to come back; besides the platform's own token bucket."""
    rate: float
    """Calls a second that the platform takes."""
    burst: float
    stale: float
    """Of a read showing an earlier state, within the window."""
    no_capacity: float
    refused: float
    """Of a create call being refused for good, whatever was created before."""
    denied_s: float
    """How long the credentials are expired for, in all."""
    preempts: float
    slow_delete: float
    """Of an accepted deletion taking minutes."""
    lost_delete: float
    """Of an accepted deletion having no effect."""
    not_yet: float
    """Of a delete call being told to come again."""
    at_once: bool
    """The platform answers for many jobs in one call."""
    forgets: bool
    """Jobs that ended vanish after some minutes, as if somebody had removed them."""
    tells_billing: bool
    """Whether observations carry the seconds charged."""
    answers_conflict: bool
    """Class ``name``: a repeated name is refused instead of answered with the first."""
    frees_names: bool
    """Class ``name``: the name of what is gone may be taken again."""
    forgets_tokens: bool
    """Class ``token``: a token is good only for as long as its resource exists."""
    stops: float
    """Of a user stopping, and likewise deleting, a job early."""
    deletes: float
    priced: bool
    limited: bool
    """Budgets and limits on numbers exist, and are changed under way."""
    cost_limited: float
    registers: float
    users_skew_s: float
    """Largest error of a host's clock."""
    lease_s: float


def draw(random: Random) -> Profile:
    """The profile of a seed."""

    def sometimes(most: float, share: float = 0.5) -> float:
        return random.random() * most if random.random() < share else 0.0

    kind: Class = random.choice(("token", "token", "name", "none"))
    return Profile(
        kind=kind,
        window_s=random.choice((0.0, 2.0, 30.0, 30.0, 120.0)),
        workers=random.choice((1, 2, 2, 3)),
        jobs=random.choice((1, 1, 2, 3)),
        endpoints=random.choice((0, 0, 1)),
        crash=sometimes(0.12, 0.7),
        pause=sometimes(0.12, 0.6),
        switch=sometimes(0.4, 0.7),
        meddles=sometimes(0.3, 0.3),
        fails_before=sometimes(0.2),
        fails_after=sometimes(0.3, 0.6),
        fails_late=sometimes(0.3, 0.3),
        breaks_after=sometimes(0.1, 0.15),
        throttles=sometimes(0.2, 0.3),
        rate=random.choice((1000.0, 1000.0, 2.0, 0.5)),
        burst=random.choice((10.0, 3.0)),
        stale=sometimes(1.0, 0.6),
        no_capacity=sometimes(0.5, 0.25),
        refused=sometimes(0.2, 0.15),
        denied_s=sometimes(600.0, 0.2),
        preempts=sometimes(0.6, 0.3),
        slow_delete=sometimes(0.8, 0.4),
        lost_delete=sometimes(0.4, 0.2),
        not_yet=sometimes(0.5, 0.3),
        at_once=random.random() < 0.3,
        forgets=random.random() < 0.15,
        tells_billing=random.random() < 0.5,
        answers_conflict=random.random() < 0.6,
        frees_names=random.random() < 0.5,
        forgets_tokens=random.random() < 0.4,
        stops=sometimes(0.5, 0.4),
        deletes=sometimes(0.7, 0.5),
        priced=random.random() < 0.8,
        limited=random.random() < 0.5,
        cost_limited=sometimes(0.7, 0.4),
        registers=sometimes(0.8, 0.5),
        users_skew_s=random.choice((0.0, 600.0)),
        lease_s=random.choice((10.0, 60.0)),
    )


def calm(kind: Class, window_s: float) -> Profile:
    """Nothing happens by chance."""
    return Profile(
        kind=kind,
        window_s=window_s,
        workers=1,
        jobs=0,
        endpoints=0,
        crash=0.0,
        pause=0.0,
        switch=0.0,
        meddles=0.0,
        fails_before=0.0,
        fails_after=0.0,
        fails_late=0.0,
        breaks_after=0.0,
        throttles=0.0,
        rate=1000.0,
        burst=1000.0,
        stale=0.0,
        no_capacity=0.0,
        refused=0.0,
        denied_s=0.0,
        preempts=0.0,
        slow_delete=0.0,
        lost_delete=0.0,
        not_yet=0.0,
        at_once=False,
        forgets=False,
        tells_billing=False,
        answers_conflict=True,
        frees_names=False,
        forgets_tokens=False,
        stops=0.0,
        deletes=0.0,
        priced=True,
        limited=False,
        cost_limited=0.0,
        registers=0.0,
        users_skew_s=0.0,
        lease_s=60.0,
    )
