"""Plans: the exact requests, the price with its date, and a reason for every place not taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ml_toolbox.base.errors import Unsupported
from ml_toolbox.catalog import prices
from ml_toolbox.domain.endpoints import EndpointSpec
from ml_toolbox.domain.jobs import JobSpec, Resources
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Alternative, Offer, Plan, PlannedRequest
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import JobBackend, JobRequest, Owner

_SECRET_WORDS = ("secret", "password", "token", "credential", "key")


class WorstCase(Protocol):
    """The most that an attempt can cost, by the same rule as when it is begun."""

    @property
    def hourly(self) -> Money: ...

    @property
    def limit_s(self) -> float: ...

    @property
    def cost(self) -> Money: ...


def plan_job(
    spec: JobSpec,
    backend: JobBackend,
    others: Sequence[JobBackend],
    *,
    install: str,
    worst: Callable[[JobSpec, JobBackend, JobRequest], WorstCase],
) -> Plan:
    """What ``train`` would do with this spec on ``backend``.

    Raises ``Unsupported`` with the backend's reason when it refuses the job, and what ``worst`` raises, with its arithmetic,
    when the job's own limits forbid it.
    """
    _require(backend, backend.refuses(spec), spec.name)
    request = backend.build(spec, Owner(install=install, row="planned", attempt=1))
    offer = _first(backend.offers(spec), backend.name)
    most = worst(spec, backend, request)
    if most.limit_s < spec.limits.max_duration_s:  # sent is what its money lasts for
        cut = replace(spec, limits=replace(spec.limits, max_duration_s=most.limit_s))
        request = backend.build(cut, Owner(install=install, row="planned", attempt=1))
    creates = [f"1 job on {backend.name}, named {request.name}"]
    if spec.environment.requirements:
        creates.append(f"1 cached environment with {len(spec.environment.requirements)} requirements, unless it exists")
    if spec.register:
        creates.append(f"1 new version of the registered model {spec.register}, when the job succeeds")
    return Plan(
        summary=f"train {spec.script or ' '.join(spec.command or ())} on {backend.name}",
        backend=backend.name,
        creates=tuple(creates),
        requests=(PlannedRequest(action="submit job", target=backend.name, body=_redacted(request.body)),),
        offer=offer,
        max_duration_s=most.limit_s,
        cost_per_hour=most.hourly,
        max_cost=most.cost,
        alternatives=(*_job_alternatives(spec, others), *_priced(spec.resources, spec.resources.nodes, backend.name)),
        warnings=_warnings(spec, most),
    )


def plan_endpoint(
    spec: EndpointSpec, backend: EndpointBackend, others: Sequence[EndpointBackend], *, install: str
) -> Plan:
    """What ``deploy`` would do. Endpoints run until deleted, so there is a price per hour and no worst case."""
    _require(backend, backend.refuses(spec), spec.name)
    request = backend.build(spec, Owner(install=install, row="planned", attempt=1))
    offer = _first(backend.offers(spec), backend.name)
    shares = ", ".join(f"{v.name} {v.weight:g} %" for v in spec.variants)
    alternatives = [
        Alternative(name=other.name, reason=reason or "not asked for; choose it with --on")
        for other in others
        if other.name != backend.name
        for reason in [other.refuses(spec)]
    ]
    return Plan(
        summary=f"serve {spec.name} on {backend.name}: {shares}",
        backend=backend.name,
        creates=(f"endpoint {spec.name} with {spec.replicas} replica{'s' if spec.replicas > 1 else ''}",),
        requests=(PlannedRequest(action="apply endpoint", target=backend.name, body=_redacted(request.body)),),
        offer=offer,
        max_duration_s=None,
        cost_per_hour=offer.price_hourly.times(spec.replicas),
        max_cost=None,
        alternatives=(*alternatives, *_priced(spec.resources, spec.replicas, backend.name)),
    )


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _require(backend: _Named, reason: str | None, subject: str) -> None:
    if reason:
        raise Unsupported(
            f"{backend.name} cannot run {subject}: {reason}",
            hint="mltoolbox backends list shows what each place can do",
            provider=backend.name,
        )


def _first(offers: tuple[Offer, ...], backend: str) -> Offer:
    if not offers:
        raise Unsupported(
            f"{backend} has nothing large enough", hint="ask for less cpus, memory or accelerators", provider=backend
        )
    return offers[0]


def _job_alternatives(spec: JobSpec, others: Sequence[JobBackend]) -> list[Alternative]:
    found = []
    for other in others:
        reason = other.refuses(spec)
        offers = () if reason else other.offers(spec)
        price = offers[0].price_hourly.times(spec.resources.nodes) if offers else None
        found.append(
            Alternative(
                name=other.name,
                reason=reason or "not asked for; choose it with --on",
                price_hourly=price,
                price_as_of=offers[0].price_as_of if offers else "",
            )
        )
    return found


def _priced(wanted: Resources, count: int, taken: str) -> list[Alternative]:
    """Instances of the price table, for comparison; no installed backend can launch them in this version."""
    return [
        Alternative(
            name=f"{offer.backend} {offer.instance_type} ({offer.region}{', spot' if offer.spot else ''})",
            reason=f"no backend for {offer.backend} is installed; price for comparison",
            price_hourly=offer.price_hourly.times(count),
            price_as_of=offer.price_as_of,
        )
        for offer in prices.cheapest(wanted)
        if not taken.startswith(offer.backend)
    ]


def _warnings(spec: JobSpec, worst: WorstCase) -> tuple[str, ...]:
    said = []
    if spec.resources.spot:
        said.append("spot capacity can be taken away at any time: save checkpoints")
    if spec.limits.max_cost_usd is not None and worst.limit_s < spec.limits.max_duration_s:
        said.append(
            f"limits.max_cost_usd of {Money.usd(spec.limits.max_cost_usd)} lasts for {worst.limit_s:.0f} s of the "
            f"{spec.limits.max_duration_s:.0f} s that it may run: it is told to save and stop before"
        )
    return tuple(said)


def _redacted(value: Any, key: str = "") -> Any:
    """The request with everything that looks like a secret replaced, so that a plan can be pasted anywhere."""
    if any(word in key.lower() for word in _SECRET_WORDS) and isinstance(value, str) and value:
        return "***"
    if isinstance(value, Mapping):
        return {str(name): _redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item, key) for item in value]
    return value
