"""``MetricSink``: numbers over time, from jobs and endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ml_toolbox.ports.lacks import Lacking

CAPABILITIES = ("query", "dimensions", "backfill")


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One measurement."""

    name: str
    value: float
    """Finite; NaN and infinity are refused with ``Invalid``."""
    at: float
    """Seconds since the epoch."""
    dimensions: Mapping[str, str] = field(default_factory=dict)
    """e.g. ``{"job": "churn-1"}``; part of the series' identity."""
    step: int | None = None


@runtime_checkable
class MetricSink(Protocol):
    """Append-only series of points."""

    @property
    def lacks(self) -> Lacking: ...

    def record(self, points: Iterable[MetricPoint]) -> None:
        """Append, all or none, and return once durable. Written twice: kept twice. Empty: nothing happens."""

    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, since: float = 0.0, until: float | None = None
    ) -> tuple[MetricPoint, ...]:
        """Points with that name carrying at least these dimensions, ``since <= at < until``, by time then order of
        writing. None there: empty."""
