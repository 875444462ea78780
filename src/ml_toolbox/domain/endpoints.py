"""What an endpoint is asked to be (:class:`EndpointSpec`, desired state) and what is seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.domain.jobs import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model version behind an endpoint."""

    name: str
    """Unique within the endpoint; ``v1`` for version 1 unless told otherwise."""
    package: str
    """URI of the model package (a folder or prefix)."""
    model: str = ""
    """``NAME:VERSION`` in the registry, when it came from there."""
    weight: float = 100.0
    """Share of traffic in percent; an endpoint's weights add up to 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Desired state of one served name. A backend's ``apply`` makes it so, and may be called again."""

    name: str
    variants: tuple[Variant, ...]
    replicas: int = 1
    resources: Resources = field(default_factory=Resources)
    tags: dict[str, str] = field(default_factory=dict)
    port: int | None = None
    """Port to listen on, on backends where the user can choose; ``None``: any free one, kept across restarts."""

    def __post_init__(self) -> None:
        if not self.variants:
            raise Invalid("an endpoint needs at least one variant", field="variants")
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise Invalid(f"variant names repeat: {', '.join(sorted(names))}", field="variants")
        if any(not 0 <= variant.weight <= 100 for variant in self.variants):
            raise Invalid("a weight is a percentage from 0 to 100", field="variants.weight")
        total = sum(variant.weight for variant in self.variants)
        if abs(total - 100) > 1e-6:
            raise Invalid(f"the weights add up to {total:g}, not 100", field="variants.weight")
        if self.replicas < 1:
            raise Invalid(f"replicas must be at least 1, not {self.replicas}", field="replicas")

    def variant(self, name: str) -> Variant:
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise NotFound(f"endpoint {self.name} has no variant {name!r}", hint=f"its variants: {known}")

    def with_variant(self, new: Variant, *, weight: float) -> EndpointSpec:
        """Add or replace a variant at ``weight`` percent; the others share the rest in their old proportions."""
        others = tuple(v for v in self.variants if v.name != new.name)
        if not others:
            return replace(self, variants=(replace(new, weight=100.0),))
        return replace(self, variants=(*_rescaled(others, 100.0 - weight), replace(new, weight=weight)))

    def with_weights(self, weights: dict[str, float]) -> EndpointSpec:
        """Set the named weights; the variants not named share what is left, in their old proportions."""
        for name in weights:
            self.variant(name)
        named = tuple(replace(v, weight=weights[v.name]) for v in self.variants if v.name in weights)
        others = tuple(v for v in self.variants if v.name not in weights)
        rest = 100.0 - sum(weights.values())
        if rest < -1e-9:
            raise Invalid(f"the weights add up to {sum(weights.values()):g}, more than 100", field="weights")
        by_name = {v.name: v for v in (*named, *_rescaled(others, rest))}
        return replace(self, variants=tuple(by_name[v.name] for v in self.variants))

    def without_variant(self, name: str) -> EndpointSpec:
        """Remove a variant; the others take over its share."""
        self.variant(name)
        others = tuple(v for v in self.variants if v.name != name)
        if not others:
            raise Invalid(f"{name} is the only variant of {self.name}; delete the endpoint instead", field="variant")
        return replace(self, variants=_rescaled(others, 100.0))


def _rescaled(variants: tuple[Variant, ...], total: float) -> tuple[Variant, ...]:
    if not variants:
        return ()
    old = sum(v.weight for v in variants)
    shares = [v.weight / old if old > 0 else 1 / len(variants) for v in variants]
    weights = [round(share * total, 9) for share in shares]
    weights[-1] = max(0.0, round(total - sum(weights[:-1]), 9))  # rounding must not take a share below nothing
    return tuple(replace(v, weight=w) for v, w in zip(variants, weights, strict=True))


class EndpointState(StrEnum):
    """The life of an endpoint on every platform."""

    CREATING = "creating"
    READY = "ready"
    UPDATING = "updating"
    DEGRADED = "degraded"
    """Answers, but not with everything that was asked for (a replica or a variant is down)."""
    FAILED = "failed"
    DELETING = "deleting"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantStatus:
    """One variant as seen: the weight really in force, and whether it answers."""

    name: str
    model: str
    weight: float
    healthy: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """An endpoint as seen at one moment."""

    state: EndpointState
    url: str = ""
    """Base URL; predictions go to its ``/invocations``, ``/v1/models/...``, ``/v2/models/...`` and ``/predict``."""
    variants: tuple[VariantStatus, ...] = ()
    replicas_ready: int = 0
    replicas_wanted: int = 0
    message: str = ""
