"""The smallest honest ``EndpointBackend``: constants served from memory. What liars are made of, and what features are tested
with."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ml_toolbox.base.errors import NotFound, NotYet, Unsupported
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus, VariantStatus
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.ports.jobs import Idempotency, LogChunk, LogLine, Owner
from ml_toolbox.ports.lacks import Lacking, Lacks


@dataclass
class Cloud:
    """What every opening of the place shares. A package is ``constant:NUMBER``; ``constant:broken`` cannot be served."""

    wishes: dict[str, EndpointRequest] = field(default_factory=dict)
    served: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Variants in force."""
    made: Counter[str] = field(default_factory=Counter)
    logs: dict[str, list[LogLine]] = field(default_factory=dict)
    debts: dict[str, dict[str, float]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


class MemoryEndpoints:
    """Keeps every promise, lacks accelerators."""

    name = "memory"
    lacks: ClassVar[Lacking] = {"accelerators": Lacks("never", "memory has no accelerators")}

    idempotency = Idempotency(kind="name", visibility_window_s=0.0)

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def refuses(self, spec: EndpointSpec) -> str | None:
        if spec.resources.accelerators:
            return self.lacks["accelerators"].reason
        return None

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return () if self.refuses(spec) else (Offer(backend=self.name, instance_type="memory"),)

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        if reason := self.refuses(spec):
            raise Unsupported(f"memory cannot serve {spec.name}: {reason}")
        variants = [{"name": v.name, "package": v.package, "model": v.model, "weight": v.weight} for v in spec.variants]
        body = {"variants": variants, "replicas": spec.replicas, "port": spec.port or 8080}
        return EndpointRequest(name=spec.name, body=body, tags={**spec.tags, **owner.tags("never")})

    def apply(self, request: EndpointRequest) -> None:
        with self.cloud.lock:
            if self.cloud.wishes.get(request.name) == request:
                return
            self.cloud.made[request.name] += request.name not in self.cloud.wishes
            self.cloud.wishes[request.name] = request
            if not any(_broken(variant) for variant in request.body["variants"]):
                self.cloud.served[request.name] = list(request.body["variants"])
                self.cloud.debts[request.name] = {}
            self.cloud.logs.setdefault(request.name, []).append(
                LogLine(time.time(), f"wish {len(request.body)}", "system")
            )

    def observe(self, endpoint: str) -> EndpointStatus:
        with self.cloud.lock:
            request = self._wish(endpoint)
            served = self.cloud.served.get(endpoint, [])
            in_force = served == request.body["variants"]
            state = EndpointState.READY if in_force else EndpointState.DEGRADED if served else EndpointState.FAILED
            names = [v["name"] for v in served]
            failing = [v for v in request.body["variants"] if v["name"] not in names]
            return EndpointStatus(
                state=state,
                url=f"http://memory:{request.body['port']}",
                variants=(
                    *(
                        VariantStatus(name=v["name"], model=v["model"], weight=v["weight"], healthy=True)
                        for v in served
                    ),
                    *(VariantStatus(name=v["name"], model=v["model"], weight=0.0, healthy=False) for v in failing),
                ),
                replicas_ready=request.body["replicas"] if served else 0,
                replicas_wanted=request.body["replicas"],
                message="" if in_force else "a package cannot be served",
            )

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        with self.cloud.lock:
            self._wish(endpoint)
            served = self.cloud.served.get(endpoint)
            if not served:
                raise NotYet(f"{endpoint} is not ready")
            try:
                rows = json.loads(body)["instances"]
            except (ValueError, KeyError, TypeError):
                problem = {"detail": "the body is not JSON", "field": "body"}
                return Invocation(
                    status=400, body=json.dumps(problem).encode(), content_type="application/problem+json"
                )
            chosen = variant or self._next(endpoint, served)
            package = next(v["package"] for v in served if v["name"] == chosen)
        answer = json.dumps({"predictions": [float(package.partition(":")[2])] * len(rows)})
        return Invocation(status=200, body=answer.encode(), content_type="application/json", variant=chosen)

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        with self.cloud.lock:
            self._wish(endpoint)
            lines = self.cloud.logs[endpoint]
            return LogChunk(tuple(lines[int(cursor or 0) :]), str(len(lines)), False)

    def delete(self, endpoint: str) -> None:
        with self.cloud.lock:
            for table in (self.cloud.wishes, self.cloud.served, self.cloud.logs, self.cloud.debts):
                table.pop(endpoint, None)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        with self.cloud.lock:
            found = [(name, r.tags) for name, r in self.cloud.wishes.items() if tags.items() <= r.tags.items()]
        yield from found

    def _wish(self, endpoint: str) -> EndpointRequest:
        if endpoint not in self.cloud.wishes:
            raise NotFound(f"there is no endpoint {endpoint!r}")
        return self.cloud.wishes[endpoint]

    def _next(self, endpoint: str, served: list[dict[str, Any]]) -> str:
        debts = self.cloud.debts[endpoint]
        for variant in served:
            debts[variant["name"]] = debts.get(variant["name"], 0.0) + variant["weight"]
        chosen = max((v["name"] for v in served if v["weight"] > 0), key=lambda name: debts[name])
        debts[chosen] -= 100.0
        return str(chosen)


def _broken(variant: Mapping[str, Any]) -> bool:
    return bool(variant["package"] == "constant:broken")
