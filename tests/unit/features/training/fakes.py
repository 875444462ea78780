"""A job backend without processes: what it shows is set by the test, and every call is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Literal

from ml_toolbox.base.errors import Conflict, NotFound, ToolboxError
from ml_toolbox.domain.jobs import FailureDigest, FailureKind, JobSpec, JobState
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.jobs import Idempotency, JobObservation, JobRequest, LogChunk, LogLine, Owner
from ml_toolbox.ports.lacks import Lacking


class FakeJobs:
    """Honours tokens unless told otherwise. ``faults`` are raised by the next calls, before or after their effect."""

    name = "fake"
    lacks: Lacking = MappingProxyType({})

    def __init__(self, kind: Literal["token", "name", "none"] = "token") -> None:
        self.idempotency = Idempotency(kind=kind, visibility_window_s=0.0)
        self.calls: list[str] = []
        self.faults: dict[str, list[tuple[str, ToolboxError]]] = {}
        self.by_token: dict[str, str] = {}
        self.resources: dict[str, tuple[JobRequest, JobObservation]] = {}
        self.log: dict[str, list[str]] = {}
        self.refusal: str | None = None

    def show(self, job_id: str, state: JobState, *, kind: FailureKind | None = None, model: str | None = None) -> None:
        failure = FailureDigest(kind=kind, cause=f"it was {kind}") if kind else None
        request, _ = self.resources[job_id]
        ended = 9.0 if state.is_final else None
        seen = JobObservation(state=state, failure=failure, model_uri=model, started_at=1.0, ended_at=ended)
        self.resources[job_id] = (request, seen)

    def show_times(self, job_id: str, state: JobState, *, started_at: float, ended_at: float) -> None:
        request, _ = self.resources[job_id]
        ended = ended_at if state.is_final else None
        self.resources[job_id] = (request, JobObservation(state=state, started_at=started_at, ended_at=ended))

    def refuses(self, spec: JobSpec) -> str | None:
        return self.refusal

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return () if self.refusal else (Offer(backend=self.name, instance_type="fake"),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        body = {"script": spec.script, "source": spec.source, "variables": asdict(spec.environment)["variables"]}
        return JobRequest(
            name=f"job-{owner.row}-a{owner.attempt}",
            body=body,
            tags={**spec.tags, **owner.tags("")},
            max_run_s=spec.limits.max_duration_s,
        )

    def submit(self, request: JobRequest, token: str) -> str:
        self._called("submit", "before")
        known = self.by_token.get(token) if self.idempotency.kind == "token" else None
        if known is None:
            if self.idempotency.kind == "name" and any(r.name == request.name for r, _ in self.resources.values()):
                raise Conflict(f"{request.name} exists")
            known = f"fake{len(self.by_token) + len(self.resources)}"
            self.by_token[token] = known
            self.resources[known] = (request, JobObservation(state=JobState.RUNNING))
            self.log[known] = [f"attempt {request.tags['mlt:attempt']}"]
        self._fault("submit", "after")
        return known

    def observe(self, job_id: str) -> JobObservation:
        self._called("observe", "before")
        if job_id not in self.resources:
            raise NotFound(f"no {job_id}")
        return self.resources[job_id][1]

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        if job_id not in self.resources:
            raise NotFound(f"no {job_id}")
        lines = [LogLine(at=1.0, text=text) for text in self.log[job_id]][int(cursor or 0) :]
        return LogChunk(tuple(lines), str(len(self.log[job_id])), self.resources[job_id][1].state.is_final)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        self._called("stop", "before")
        if job_id in self.resources and not self.resources[job_id][1].state.is_final:
            request, seen = self.resources[job_id]
            self.resources[job_id] = (request, replace(seen, state=JobState.STOPPED, ended_at=seen.ended_at))
        self._fault("stop", "after")

    def delete(self, job_id: str) -> None:
        self._called("delete", "before")
        self.resources.pop(job_id, None)
        self._fault("delete", "after")

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        for job_id, (request, _) in list(self.resources.items()):
            if all(request.tags.get(name) == value for name, value in tags.items()):
                yield job_id, request.tags

    def _called(self, name: str, when: str) -> None:
        self.calls.append(name)
        self._fault(name, when)

    def _fault(self, name: str, when: str) -> None:
        waiting = self.faults.get(name, [])
        if waiting and waiting[0][0] == when:
            raise waiting.pop(0)[1]
