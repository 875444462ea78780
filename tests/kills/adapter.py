"""The provider of the pretended cloud, as somebody outside would write it: HTTP calls, and errors classified by their codes."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec

from ml_toolbox.base.errors import Conflict, NoCapacity, NotFound, Throttled, Unavailable
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus, VariantStatus
from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.ports.jobs import Idempotency, JobObservation, JobRequest, LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking
from tests.kills.cloud import HOURLY

TIMEOUT_S = 10.0
PLACE = "http"


class Calls:
    """One connection for each thread. Nothing is repeated here: that is the loop's business."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own = threading.local()

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        sent = None if body is None else json.dumps(body)
        headers = {"X-Caller": f"{os.getpid()}.{threading.get_ident()}"}
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
            self._own.connection = connection
        try:
            connection.request(verb, path, sent, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(f"{verb} {path.partition('?')[0]}: {type(error).__name__}") from error
        told: Any = json.loads(text) if text else None
        if answer.status == 200:
            return told
        raise _error(answer.status, told["code"], answer.headers.get("Retry-After"))

    def close(self) -> None:
        """This thread's connection."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()

    def register(self, job_id: str, name: str) -> str:
        return str(self.call("POST", "/versions", {"job": job_id, "name": name})["version"])


def _error(status: int, code: str, retry_after: str | None) -> Exception:
    if status == 429:
        return Throttled("rate exceeded", retry_after_s=float(retry_after or 0.0))
    if code == "no-capacity":
        return NoCapacity("no capacity in the zone")
    if status == 404:
        return NotFound("no such job")
    if status == 409:
        return Conflict(code)
    return Unavailable(f"HTTP {status}")


class HttpJobs:
    """See the port for what each method promises."""

    name = PLACE
    lacks: Lacking = MappingProxyType({})

    def __init__(self, calls: Calls, kind: Literal["token", "name", "none"], lag_s: float) -> None:
        self._calls = calls
        self.idempotency = Idempotency(kind=kind, visibility_window_s=lag_s)

    def refuses(self, spec: JobSpec) -> str | None:
        return None

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="pretended", price_hourly=Money(HOURLY)),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        return JobRequest.of(spec, owner, {"command": list(spec.command or ())})

    def submit(self, request: JobRequest, token: str) -> str:
        body = {**msgspec.to_builtins(request), "token": token}
        return str(self._calls.call("POST", "/jobs", body)["id"])

    def observe(self, job_id: str) -> JobObservation:
        return _observation(job_id, self._calls.call("GET", f"/jobs/{job_id}"))

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return LogChunk((), cursor, ended=True)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        self._calls.call("POST", f"/jobs/{job_id}/stop", {"grace_s": grace_s})

    def delete(self, job_id: str) -> None:
        self._calls.call("DELETE", f"/jobs/{job_id}")

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        found = self._calls.call("GET", "/jobs?" + urlencode({"tags": json.dumps(dict(tags))}))
        return iter([(one["id"], one["tags"]) for one in found])


class HttpJobsAtOnce(HttpJobs):
    """Likewise, on a platform that answers for many jobs in one call."""

    def observe_many(self, job_ids: Sequence[str]) -> Mapping[str, JobObservation]:
        shown = self._calls.call("GET", "/jobs?" + urlencode({"ids": ",".join(job_ids)}))
        return {job_id: _observation(job_id, one) for job_id, one in shown.items()}


class HttpEndpoints:
    """See the port for what each method promises."""

    name = PLACE
    lacks: Lacking = MappingProxyType({})

    def __init__(self, calls: Calls, lag_s: float) -> None:
        self._calls = calls
        self.idempotency = Idempotency(kind="name", visibility_window_s=lag_s)

    def refuses(self, spec: EndpointSpec) -> str | None:
        return None

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="pretended"),)

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        return EndpointRequest.of(spec, owner, {"models": {variant.name: variant.model for variant in spec.variants}})

    def apply(self, request: EndpointRequest) -> None:
        self._calls.call("PUT", f"/endpoints/{request.name}", {"body": request.body, "tags": request.tags})

    def observe(self, endpoint: str) -> EndpointStatus:
        models = self._calls.call("GET", f"/endpoints/{endpoint}")["models"]
        variants = tuple(
            VariantStatus(name=name, model=model, weight=100.0 / len(models), healthy=True)
            for name, model in models.items()
        )
        return EndpointStatus(state=EndpointState.READY, variants=variants, replicas_ready=1, replicas_wanted=1)

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        return Invocation(status=200, body=b"{}", content_type="application/json")

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        return LogChunk((), cursor, ended=False)

    def delete(self, endpoint: str) -> None:
        self._calls.call("DELETE", f"/endpoints/{endpoint}")

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        found = self._calls.call("GET", "/endpoints?" + urlencode({"tags": json.dumps(dict(tags))}))
        return iter([(one["id"], one["tags"]) for one in found])


def _observation(job_id: str, shown: Mapping[str, Any]) -> JobObservation:
    state, kind = JobState(shown["state"]), shown.get("failure")
    return JobObservation(
        state=state,
        started_at=shown.get("started_at"),
        ended_at=shown.get("ended_at"),
        billed_s=shown.get("billed_s"),
        failure=FailureDigest(kind=kind, cause=f"it was {kind}") if kind else None,
        model_uri=f"memory://models/{job_id}" if state is JobState.SUCCEEDED else None,
    )
