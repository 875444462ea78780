"""What the loop remembers of a job, and what callers are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.engine.rows import Row
from ml_toolbox.ports.jobs import JobObservation

KIND = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One resource on a backend."""

    number: int
    token: str
    resource: str = ""
    """The backend's id; "" until the create call has answered."""
    submitted_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """The row's ``data``. Fields are only ever added, with defaults, so that older rows stay readable."""

    attempts: tuple[Attempt, ...]
    observation: JobObservation | None = None
    """The last one that was recorded; callers are shown a newer one when they look."""
    tries: int = 0
    """Failed tries of the present step in a row."""
    problem: str = ""
    """Why the present step did not succeed yet."""
    stop_sent: bool = False
    lost: int = 0
    user_errors: int = 0
    """Attempts used up by each kind of failure."""
    model: str | None = None
    failure: FailureDigest | None = None
    deleted: int = 0
    """How many of the attempts' resources are gone."""

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """The row's ``spec``: what was asked, with everything relative made absolute and the sources frozen."""

    job: JobSpec
    backend: str
    code_sha256: str = ""
    source: str = ""
    """The folder as the user named it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as users see it."""

    id: str
    name: str
    backend: str
    state: JobState
    spec: JobSpec
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 1
    resource: str = ""
    """The present attempt's id on its backend."""
    exit_code: int | None = None
    progress: float | None = None
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: FailureDigest | None = None
    model: str | None = None
    """``NAME:VERSION`` once registered."""
    model_uri: str | None = None
    """Where the model package lies."""
    output_uri: str | None = None
    message: str = ""
    code_sha256: str = ""
    source: str = ""


def order_of(row: Row) -> JobOrder:
    return msgspec.convert(row.spec, JobOrder)


def data_of(row: Row) -> JobData:
    return msgspec.convert(row.data, JobData)


def plain(value: JobData | JobOrder) -> dict[str, Any]:
    """As JSON values, as a store keeps them."""
    values: dict[str, Any] = msgspec.to_builtins(value)
    return values


def record_of(row: Row, seen: JobObservation | None = None) -> JobRecord:
    """The row as users see it; ``seen`` is a newer observation of its present attempt than the recorded one."""
    order, data = order_of(row), data_of(row)
    shown = seen or data.observation or JobObservation(state=JobState(row.state))
    state = JobState(row.state)
    if seen is not None and not seen.state.is_final and state.may_become(seen.state):
        state = seen.state
    return JobRecord(
        id=row.id,
        name=row.name,
        backend=order.backend,
        state=state,
        spec=order.job,
        created_at=row.created_at,
        started_at=shown.started_at,
        ended_at=shown.ended_at or row.ended_at,
        attempt=data.attempt.number,
        resource=data.attempt.resource,
        exit_code=shown.exit_code,
        progress=shown.progress,
        epoch=shown.epoch,
        metrics=shown.metrics,
        failure=data.failure,
        model=data.model,
        model_uri=shown.model_uri,
        output_uri=shown.output_uri,
        message=data.problem or shown.message,
        code_sha256=order.code_sha256,
        source=order.source,
    )
