"""Plans: the exact requests, the price with its date, and a reason for every place not taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ml_toolbox.base.errors import BudgetExceeded, Unsupported
from ml_toolbox.catalog import prices
from ml_toolbox.domain.endpoints import EndpointSpec
from ml_toolbox.domain.jobs import JobSpec, Resources
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Alternative, Offer, Plan, PlannedRequest
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import JobBackend, Owner

_SECRET_WORDS = ("secret", "password", "token", "credential", "key")


def plan_job(spec: JobSpec, backend: JobBackend, others: Sequence[JobBackend], *, install: str) -> Plan:
    """What ``train`` would do with this spec on ``backend``.

    Raises ``Unsupported`` with the backend's reason when it refuses the job, and ``BudgetExceeded`` with the arithmetic when
    the worst case (price x longest duration) is above ``limits.max_cost_usd``.
    """
    _require(backend, backend.refuses(spec), spec.name)
    request = backend.build(spec, Owner(install=install, row="planned", attempt=1))
    offer = _first(backend.offers(spec), backend.name)
    hourly = offer.price_hourly.times(spec.resources.nodes)
    worst = hourly.times(spec.limits.max_duration_s / 3600)
    _check_budget(spec, hourly, worst)
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
        max_duration_s=spec.limits.max_duration_s,
        cost_per_hour=hourly,
        max_cost=worst,
        alternatives=(*_job_alternatives(spec, others), *_priced(spec.resources, spec.resources.nodes, backend.name)),
        warnings=_warnings(spec),
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


def _check_budget(spec: JobSpec, hourly: Money, worst: Money) -> None:
    limit = spec.limits.max_cost_usd
    if limit is not None and worst > Money.usd(limit):
        hours = spec.limits.max_duration_s / 3600
        raise BudgetExceeded(
            f"{spec.name} could cost {worst}: {hourly}/h x {hours:g} h; limits.max_cost_usd is {Money.usd(limit)}",
            hint="lower limits.max_duration_s or raise limits.max_cost_usd",
            field="limits.max_cost_usd",
        )


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


def _warnings(spec: JobSpec) -> tuple[str, ...]:
    if spec.resources.spot:
        return ("spot capacity can be taken away at any time: save checkpoints",)
    return ()


def _redacted(value: Any, key: str = "") -> Any:
    """The request with everything that looks like a secret replaced, so that a plan can be pasted anywhere."""
    if any(word in key.lower() for word in _SECRET_WORDS) and isinstance(value, str) and value:
        return "***"
    if isinstance(value, Mapping):
        return {str(name): _redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item, key) for item in value]
    return value
