"""Offers and plans: where something could run, for how much, and why it does not run elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ml_toolbox.domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One place a job or replica could run."""

    backend: str
    instance_type: str
    region: str = ""
    vcpus: float = 0
    memory_gib: float = 0
    accelerator: str = ""
    accelerator_count: int = 0
    spot: bool = False
    price_hourly: Money = field(default_factory=Money)
    price_as_of: str = ""
    """Date of the price (ISO), or "" where nothing is charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request exactly as it would be sent. Secrets are ``***``."""

    action: str
    """What it does, e.g. ``create process`` or ``PUT object``."""
    target: str
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A backend or instance that was not taken, and the reason."""

    name: str
    reason: str
    price_hourly: Money | None = None
    price_as_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will happen, before it happens."""

    summary: str
    backend: str
    creates: tuple[str, ...]
    requests: tuple[PlannedRequest, ...]
    offer: Offer
    max_duration_s: float | None
    cost_per_hour: Money
    max_cost: Money | None
    alternatives: tuple[Alternative, ...] = ()
    warnings: tuple[str, ...] = ()
