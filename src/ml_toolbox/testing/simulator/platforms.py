"""The hostile platform behind the ports: a ``JobBackend`` and an ``EndpointBackend``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from ml_toolbox.base.errors import NotFound
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.ports.jobs import Checkpoint, Idempotency, JobObservation, JobRequest, LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking
from ml_toolbox.testing.simulator.cloud import Cloud, Resource, Wanted

OVERHEAD_S = 60.0
"""How much longer than a job's own limit the platform lets it exist: to start and to stop."""
ENDPOINT_RUN_S = 30 * 24 * 3600.0


class SimulatedJobs:
    """Jobs on the hostile platform."""

    lacks: Lacking = MappingProxyType({})

    def __init__(self, cloud: Cloud, *, hourly: int) -> None:
        self._cloud = cloud
        self._hourly = hourly
        self.name = cloud.place
        self.idempotency = Idempotency(kind=cloud.profile.kind, visibility_window_s=cloud.profile.window_s)

    def refuses(self, spec: JobSpec) -> str | None:
        return None

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="simulated", price_hourly=Money(self._hourly)),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        return JobRequest(
            name=f"mlt-{owner.install}-{owner.row}-a{owner.attempt}",
            body={"command": spec.command, "max_run_s": spec.limits.max_duration_s},
            tags=owner.tags(f"+{spec.limits.max_duration_s:.0f}s"),
            max_run_s=spec.limits.max_duration_s + OVERHEAD_S,
        )

    def submit(self, request: JobRequest, token: str) -> str:
        wanted = Wanted(
            kind="job",
            name=request.name,
            token=token,
            body=request.body,
            tags=request.tags,
            max_run_s=request.max_run_s,
            hourly=self._hourly,
        )
        return self._cloud.create(wanted)

    def observe(self, job_id: str) -> JobObservation:
        def effect() -> JobObservation:
            shown = self._cloud.seen(job_id)
            if shown is None:
                raise NotFound(f"no job {job_id}")
            return _observation(*shown, tells_billing=self._cloud.profile.tells_billing)

        return self._cloud.call("get", effect, target=job_id)

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return LogChunk((), cursor, ended=True)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        def effect() -> None:
            one = self._cloud.resources.get(job_id)
            if one is not None:
                self._cloud.stop(one, grace_s)

        self._cloud.call("stop", effect, target=job_id)

    def delete(self, job_id: str) -> None:
        _delete(self._cloud, job_id)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        found = self._cloud.call("list", lambda: self._cloud.tagged("job", tags))
        return iter([(one.id, one.tags) for one in found])


class SimulatedJobsAtOnce(SimulatedJobs):
    """Likewise, on a platform that answers for many jobs in one call."""

    def observe_many(self, job_ids: Sequence[str]) -> Mapping[str, JobObservation]:
        def effect() -> dict[str, JobObservation]:
            shown = {job_id: self._cloud.seen(job_id) for job_id in job_ids}
            tells = self._cloud.profile.tells_billing
            return {job_id: _observation(*seen, tells_billing=tells) for job_id, seen in shown.items() if seen}

        return self._cloud.call("get-many", effect)


class SimulatedEndpoints:
    """Endpoints on the hostile platform: they go by their name, and are there until they are deleted."""

    lacks: Lacking = MappingProxyType({})

    def __init__(self, cloud: Cloud, *, hourly: int) -> None:
        self._cloud = cloud
        self._hourly = hourly
        self.name = cloud.place
        self.idempotency = Idempotency(kind="name", visibility_window_s=cloud.profile.window_s)

    def refuses(self, spec: EndpointSpec) -> str | None:
        return None

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="simulated", price_hourly=Money(self._hourly)),)

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        body = {"variants": [(one.name, one.weight) for one in spec.variants], "replicas": spec.replicas}
        return EndpointRequest(name=spec.name, body=body, tags=owner.tags(""))

    def apply(self, request: EndpointRequest) -> None:
        wanted = Wanted(
            kind="endpoint",
            name=request.name,
            token="",
            body=request.body,
            tags=request.tags,
            max_run_s=ENDPOINT_RUN_S,
            hourly=self._hourly,
        )
        self._cloud.put(wanted)

    def observe(self, endpoint: str) -> EndpointStatus:
        def effect() -> EndpointStatus:
            one = self._cloud.endpoint_named(endpoint)
            shown = one and self._cloud.seen(one.id)
            if not shown:
                raise NotFound(f"no endpoint {endpoint}")
            return EndpointStatus(state=EndpointState.READY, replicas_ready=1, replicas_wanted=1)

        return self._cloud.call("get", effect, target=endpoint)

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
        one = self._cloud.endpoint_named(endpoint)
        _delete(self._cloud, one.id if one else "")

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        found = self._cloud.call("list", lambda: self._cloud.tagged("endpoint", tags))
        return iter([(one.name, one.tags) for one in found])


def _delete(cloud: Cloud, resource_id: str) -> None:
    def effect() -> None:
        one = cloud.resources.get(resource_id)
        if one is not None:
            cloud.delete(one)

    cloud.call("delete", effect, target=resource_id)


def _observation(one: Resource, at: float, *, tells_billing: bool) -> JobObservation:
    """The job as it was at that moment."""
    billed_s = one.billed_s(at) if tells_billing else None
    if at < one.starts_at:
        return JobObservation(state=JobState.PROVISIONING, billed_s=billed_s)
    if at < one.ends_at:
        state = JobState.STOPPING if one.asked_to_stop_at <= at else JobState.RUNNING
        return JobObservation(state=state, started_at=one.starts_at, billed_s=billed_s, checkpoint=_checkpoint(one, at))
    state, _, kind = one.outcome.partition(":")
    failure = FailureDigest(kind=kind, cause=f"it was {kind}") if kind else None  # type: ignore[arg-type] # from _fate
    return JobObservation(
        state=JobState(state.removesuffix("-empty")),
        started_at=one.starts_at,
        ended_at=one.ends_at,
        billed_s=billed_s,
        failure=failure,
        model_uri=f"memory://models/{one.id}" if state == "succeeded" else None,
        checkpoint=_checkpoint(one, one.ends_at),
    )


def _checkpoint(one: Resource, at: float) -> Checkpoint | None:
    step = int((at - one.starts_at) // 60.0)
    return Checkpoint(step=step, sha256=f"{step:064d}", uri=f"memory://checkpoints/{step}") if step else None
