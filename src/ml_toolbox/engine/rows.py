"""One unit of durable work: what was asked, what the loop remembers, and who may write it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml_toolbox.engine.ledger import Posting

Level = Literal["info", "warning", "alarm"]
"""How much a line of history matters: ``warning`` should be read, ``alarm`` needs somebody."""

Wish = Literal["", "stop", "delete"]
"""What a user wants of a row after it was made. Written by anybody, lease or not; only ever grows stronger."""

WISH_ORDER: tuple[Wish, ...] = ("", "stop", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One unit of work as the store holds it. ``spec`` never changes; the loop alone writes ``phase``, ``state``, ``data``."""

    id: str
    kind: str
    """Which workflow drives it."""
    name: str
    """What the user calls it; need not be unique (the newest wins in look-ups)."""
    phase: str
    """What the loop does next; a word of the workflow. Every word ever shipped must stay understood."""
    state: str
    """What users see."""
    wish: Wish = ""
    place: str = ""
    """Backend, with ``@region`` where it has several: where resources of this row may exist. Never changes."""
    scopes: tuple[str, ...] = ()
    """Whose budgets pay: ``all``, ``user:ann``, ``project:churn``, … Never changes."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    due_at: float | None = None
    """When the loop should look again; ``None``: only when a wish is made."""
    lease_owner: str = ""
    lease_token: int = 0
    """Fencing token: grows with every claim. A write that carries an older one is dropped."""
    lease_until: float = 0.0
    created_at: float = 0.0
    updated_at: float = 0.0
    ended_at: float | None = None
    """When the row came to rest for good; such rows are never due again unless a wish is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a decision writes, all of it in one guarded transaction together with its line of history."""

    phase: str
    state: str
    data: Mapping[str, Any]
    due_at: float | None = None
    ended: bool = False
    message: str = ""
    """Why, for the history."""
    level: Level = "info"
    postings: tuple[Posting, ...] = ()
    """Lines of the ledger, written with the rest or not at all."""

    def is_news(self, phase: str, state: str) -> bool:
        """Whether it is worth a line of history to a row that was in this phase and state."""
        return bool(self.message) or (phase, state) != (self.phase, self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One decision to be written under the lease that ``row`` shows."""

    row: Row
    change: Change | None
    """``None``: only the lease changes."""
    cause: str = ""
    """What led to it, for the history."""
    release: bool = True


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of a row's history."""

    at: float
    phase: str
    state: str
    message: str
    lease_token: int
    cause: str = ""
    """What led to it: the effect that ended, ``claim``, ``insert``, ``wish``, ``budget``."""
    level: Level = "info"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One line of any row's history, as the stream of events shows it."""

    seq: int
    """Grows with every line; a place to go on from."""
    work_id: str
    kind: str
    name: str
    transition: Transition
