"""What one kind of durable work provides: a pure ``decide``, a reading ``observe`` and an acting ``perform``.

The runner feeds ``decide`` with events and executes the single effect of each decision:

    claim ──▶ Claimed ──▶ decide ──▶ write (fenced) ──▶ perform(effect) ──▶ Done | Failed ──▶ decide ──▶ …
                                       └── a limit refuses ──▶ Refused ──▶ decide ──▶ …

A decision has at most one effect. So there is never a half-executed list: each crash point lies between exactly one
durable row before it and one after it, and the row's phase alone says what has to be done (again).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ml_toolbox.base.errors import BudgetExceeded, ToolboxError
from ml_toolbox.engine.rows import Change, Row


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to do outside the store, as data. Performing it twice must be as good as once."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


OBSERVE = Effect("observe")
"""Look at the resource: the runner calls ``observe`` instead of ``perform``. Changes nothing anywhere."""


AGAIN = Effect("again")
"""Do nothing outside and decide at once on the row as it was written: for a step that needs a write of its own."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """The row has just been written by this process, which holds its lease: nothing was tried before."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The row was taken up: it is due, or its former holder died. What that one did last is unknown."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What ``observe`` returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The effect succeeded; ``result`` is JSON."""

    effect: Effect
    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The effect (or the observation) raised."""

    effect: Effect
    error: ToolboxError


@dataclass(frozen=True, slots=True)
class Refused:
    """A limit refused the postings of the last decision: nothing of that decision was written, its effect not begun."""

    error: BudgetExceeded


Event: TypeAlias = Inserted | Claimed | Observed | Done | Failed | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to write, and the one thing to do after it has been written. No effect: the row is released."""

    change: Change
    effect: Effect | None = None


class Workflow(Protocol):
    """One kind of durable work."""

    @property
    def kind(self) -> str: ...

    @property
    def effects(self) -> tuple[str, ...]:
        """Names of everything that ``perform`` can do; with ``observe`` they name the crash points of this kind."""

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        """Pure: reads only its arguments. Must understand every phase ever shipped together with every event."""

    def observe(self, row: Row) -> Any:
        """Look at the row's resource. Raises errors of the one tree; ``NotFound`` when the platform does not know it."""

    def observe_many(self, rows: Sequence[Row]) -> Sequence[Any | ToolboxError]:
        """``observe`` for each row, in their order, with an error in the place of a value where ``observe`` raises one."""

    def perform(self, row: Row, effect: Effect) -> Any:
        """Do it, and return JSON. Idempotent: after a crash the same effect is performed again with the same arguments."""


def backoff_s(tries: int, key: str, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
    """Pause before the next try of something that failed ``tries`` times.

    Full jitter, uniform in (0, min(cap, base * 2**tries)] ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015), with
    the chance drawn from ``key`` and ``tries``: rows that failed together do not come back together, and ``decide`` stays pure.
    """
    drawn = int.from_bytes(hashlib.blake2b(f"{key}/{tries}".encode(), digest_size=8).digest()) + 1
    return float(min(cap_s, base_s * 2.0 ** min(tries, 20)) * drawn / 2.0**64)
