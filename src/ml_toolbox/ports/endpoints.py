"""``EndpointBackend``: serves model packages. One implementation per platform service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ml_toolbox.domain.endpoints import EndpointSpec, EndpointStatus
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.jobs import Idempotency, LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking

CAPABILITIES = ("variants", "replicas", "scale-to-zero", "accelerators", "fixed-port", "logs", "memory-limit")
"""The optional powers an endpoint backend may declare as lacking."""


def needs(spec: EndpointSpec) -> tuple[str, ...]:
    """The optional powers that this endpoint asks for, for ``ports.lacks.declared_reason``."""
    asked = {
        "variants": len(spec.variants) > 1,
        "replicas": spec.replicas > 1,
        "accelerators": bool(spec.resources.accelerators),
        "fixed-port": spec.port is not None,
        "memory-limit": spec.resources.memory_gib is not None,
    }
    return tuple(capability for capability, is_asked in asked.items() if is_asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRequest:
    """Exactly what would be sent: data only, made by the pure ``build``."""

    name: str
    body: Mapping[str, Any]
    tags: Mapping[str, str]

    @classmethod
    def of(cls, spec: EndpointSpec, owner: Owner, body: Mapping[str, Any]) -> EndpointRequest:
        """The request with the name and tags that every backend gives it, around a body of its own."""
        return cls(name=spec.name, body=body, tags={**spec.tags, **owner.tags("never")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """The answer to one prediction request."""

    status: int
    body: bytes
    content_type: str
    variant: str = ""
    """Which variant answered, when the platform tells."""


@runtime_checkable
class EndpointBackend(Protocol):
    """Where endpoints run: desired state in, observed state out."""

    @property
    def name(self) -> str: ...

    @property
    def lacks(self) -> Lacking:
        """What it cannot do; keys from ``CAPABILITIES``. Needs no credentials and no network."""

    @property
    def idempotency(self) -> Idempotency:
        """``apply`` goes by the endpoint's name; how long reads may lag behind it."""

    def refuses(self, spec: EndpointSpec) -> str | None:
        """Why this concrete endpoint cannot run here, or ``None``. Pure; reads nothing global."""

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        """Places one replica fits, cheapest first; no credentials."""

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        """The request. Pure and deterministic."""

    def apply(self, request: EndpointRequest) -> None:
        """Create the endpoint or bring it to the requested state; returns once the wish is durably recorded, before it is
        fulfilled. Called again with the same request: changes nothing. No request in flight is dropped by a change of
        weights, variants or replicas, and the old variants serve until the new ones are healthy."""

    def observe(self, endpoint: str) -> EndpointStatus:
        """State, URL, health per variant and the weights actually in force. ``NotFound`` when absent."""

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        """One prediction. ``variant`` asks for a certain one. ``NotFound`` when the endpoint is absent, ``NotYet`` before it
        is ready; an HTTP error status is returned, not raised."""

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        """Server log lines after the cursor, like ``JobBackend.logs``."""

    def delete(self, endpoint: str) -> None:
        """Stop serving and remove everything. Absent: silent. ``NotYet`` when the platform needs longer: call again."""

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        """``(name, tags)`` of every endpoint carrying all these tags."""
