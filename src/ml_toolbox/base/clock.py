"""Time as a dependency, so that tests and the simulator own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What time it is and how to wait."""

    def now(self) -> float:
        """Seconds since the epoch, UTC. May jump when the host's clock is set."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""

    def sleep(self, seconds: float) -> None:
        """Wait that long."""


class SystemClock:
    """The host's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def iso(timestamp: float) -> str:
    """``1764000000.5`` -> ``'2025-11-24T16:00:00.500Z'`` (UTC, milliseconds, sortable as text)."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def from_iso(text: str) -> float:
    """The inverse of :func:`iso`; raises ``ValueError`` on anything else than an ISO 8601 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without zone: {text!r}")
    return moment.timestamp()
