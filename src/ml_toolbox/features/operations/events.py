"""Everything that happened to any row, as one stream to read from any moment on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ml_toolbox.base.clock import from_iso
from ml_toolbox.base.errors import Invalid
from ml_toolbox.engine.rows import Level, Occurrence
from ml_toolbox.engine.store import Store

_PAGE = 1000
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a history, with whose it is."""

    seq: int
    at: float
    level: Level
    kind: str
    id: str
    name: str
    state: str
    step: str
    """The phase it is in now."""
    cause: str
    message: str


class Events:
    """Reads occurrences; nothing here writes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def after(self, seq: int) -> Iterator[Event]:
        """Everything after the place ``seq``, oldest first, as far as it goes now."""
        while page := self._store.occurrences(after=seq, limit=_PAGE):
            yield from map(_event, page)
            seq = page[-1].seq

    def since(self, moment: float) -> Iterator[Event]:
        """Everything since a moment (the store's time), oldest first."""
        return (event for event in self.after(self.place_of(moment)) if event.at >= moment)

    def end(self) -> int:
        """The place after everything that has happened so far."""
        return self.place_of(float("inf"))

    def place_of(self, moment: float) -> int:
        """The last place before everything since ``moment``, found in a number of looks that grows with the logarithm of the
        stream's length. Writers that overlap may be a little out of order: earlier than asked is possible, later is not."""
        low, high = 0, 1
        while (first := self._first_after(high)) is not None and first.transition.at < moment:
            low, high = high, high * 2
        while low < high:
            middle = (low + high) // 2
            first = self._first_after(middle)
            if first is not None and first.transition.at < moment:
                low = middle + 1
            else:
                high = middle
        if moment == float("inf"):
            return low
        return max(0, low - _OVERLAP)

    def _first_after(self, seq: int) -> Occurrence | None:
        return next(iter(self._store.occurrences(after=seq, limit=1)), None)


_OVERLAP = 1000
"""How many lines further back reading begins, for writers that took their numbers in another order than their times."""


def follow(events: Events, seq: int, *, pause: Callable[[], bool]) -> Iterator[Event]:
    """Everything after ``seq`` as it comes; ``pause`` waits a moment, and says whether to go on."""
    while True:
        for event in events.after(seq):
            seq = event.seq
            yield event
        if not pause():
            return


def parse_since(text: str, now: float) -> float:
    """A moment: ``30m``, ``12h``, ``7d`` ago, ``2026-11`` or ``2026-11-20`` (UTC), or an ISO time with its zone."""
    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return now - float(ago[1]) * _UNITS_S[ago[2]]
    for form in ("%Y-%m-%d", "%Y-%m"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    try:
        return from_iso(text)
    except ValueError:
        raise Invalid(
            f"since: {text!r} is no moment",
            hint="write 30m, 12h, 7d, 2026-11, 2026-11-20 or 2026-11-20T08:00:00Z",
            field="since",
        ) from None


def _event(one: Occurrence) -> Event:
    step = one.transition
    return Event(
        seq=one.seq,
        at=step.at,
        level=step.level,
        kind=one.kind,
        id=one.work_id,
        name=one.name,
        state=step.state,
        step=step.phase,
        cause=step.cause,
        message=step.message,
    )
