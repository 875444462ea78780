"""What the loop remembers of a job, and what callers are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec

from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.absence import Absence
from ml_toolbox.engine.charges import Charge
from ml_toolbox.engine.rows import Row
from ml_toolbox.ports.jobs import Checkpoint, Idempotency, JobObservation

KIND = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One resource on a backend."""

    number: int
    token: str
    resource: str = ""
    """The backend's id; "" until the create call has answered."""
    submitted_at: float = 0.0
    """When the intent was written."""
    tried_at: float = 0.0
    """When the last create call may have begun."""
    created_at: float = 0.0
    """When the id became known."""
    limit_s: float = 0.0
    """How long the platform is told to let it run: the job's limit, or what its money lasts for."""
    absence: Absence = field(default_factory=Absence)
    charge: Charge = field(default_factory=Charge)
    ended_at: float = 0.0
    """When it was proved gone; 0: it is not."""
    end: str = ""
    """Why it ended."""
    checkpoint: Checkpoint | None = None
    """The last complete one when it ended; the next attempt goes on from there."""


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
    since: float = 0.0
    """When the present step was first found to be in trouble; 0: it is not."""
    alarmed: bool = False
    """Somebody was told about the present step's trouble."""
    stop_sent: bool = False
    stop_sent_at: float = 0.0
    stop_reason: str = ""
    """Why the loop itself stops the job; "": it does not, or a user asked."""
    preempted: int = 0
    no_capacity: int = 0
    lost: int = 0
    user_errors: int = 0
    """Attempts used up by each cause of failure."""
    model: str | None = None
    failure: FailureDigest | None = None
    deleted: int = 0
    """How many of the attempts' resources are gone."""
    delete_sent_at: float = 0.0
    """When the deletion that is not confirmed yet was accepted; 0: none is."""

    @property
    def attempt(self) -> Attempt:
        """The present one, or the last; number 0 while the first still waits."""
        return self.attempts[-1] if self.attempts else Attempt(number=0, token="")

    def with_attempt(self, attempt: Attempt) -> JobData:
        """The same with another present attempt, and the step's troubles forgotten."""
        kept = (*self.attempts[:-1], attempt)
        return replace(self, attempts=kept, tries=0, problem="", since=0.0, alarmed=False)

    @property
    def spent(self) -> int:
        """Micro-dollars, over all attempts."""
        return sum(attempt.charge.spent for attempt in self.attempts)

    @property
    def held(self) -> int:
        return sum(attempt.charge.held for attempt in self.attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """The row's ``spec``: what was asked, with everything relative made absolute and the sources frozen."""

    job: JobSpec
    backend: str
    code_sha256: str = ""
    source: str = ""
    """The folder as the user named it."""
    idempotency: Idempotency = field(default_factory=lambda: Idempotency(kind="token", visibility_window_s=0.0))
    """As the backend declared it when the job was submitted: what was begun under one rule ends under it."""
    hourly: int = 0
    """Price of the place taken, in micro-dollars an hour."""
    overhead_s: float = 0.0
    """How much longer than the job's own limit the platform may let an attempt exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt as users see it."""

    number: int
    resource: str
    """Its id on the backend; "" until the create call has answered."""
    submitted_at: float
    created_at: float | None
    ended_at: float | None
    end: str
    """Why it ended; "" while it has not."""
    limit_s: float
    """How long it is let run."""
    held: Money
    spent: Money
    checkpoint: Checkpoint | None
    """The last complete one."""


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
    checkpoint: Checkpoint | None = None
    held: Money = field(default_factory=Money)
    """Reserved for what runs, and not spent yet."""
    spent: Money = field(default_factory=Money)
    waiting_for: str = ""
    """What the loop waits for before it goes on, when it does."""
    scopes: tuple[str, ...] = ()
    """Whose budgets pay."""
    attempts: tuple[AttemptRecord, ...] = ()
    reserved_s: float = 0.0
    """How long the present attempt may exist; what is held pays for that."""
    hourly: Money = field(default_factory=Money)
    """Price of the place taken."""


def payers(job: JobSpec, backend: str, actor: str) -> tuple[str, ...]:
    """The scopes whose budgets pay for such a job."""
    named = (("user", actor), ("project", job.project), ("profile", job.profile), ("backend", backend))
    return ("all", *(f"{scope}:{name}" for scope, name in named if name))


T = TypeVar("T")


class _Decoded(Generic[T]):
    """Rows' JSON as values, remembered by the identity of the JSON: between two writes a row is decided on and looked at
    several times, and decoding is a third of what that costs. JSON of rows is never changed in place."""

    _KEPT = 2048
    """Some times what the loop takes up together."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._known: dict[int, tuple[Mapping[str, Any], T]] = {}

    def of(self, values: Mapping[str, Any]) -> T:
        known = self._known.get(id(values))
        if known is not None:
            return known[1]  # what is remembered is also held, so its id is nobody else's
        decoded = msgspec.convert(values, self._kind)
        if len(self._known) >= self._KEPT:
            self._known.clear()
        self._known[id(values)] = (values, decoded)
        return decoded


_ORDERS, _DATA = _Decoded(JobOrder), _Decoded(JobData)


def order_of(row: Row) -> JobOrder:
    return _ORDERS.of(row.spec)


def data_of(row: Row) -> JobData:
    return _DATA.of(row.data)


def plain(value: JobData | JobOrder) -> dict[str, Any]:
    """As JSON values, as a store keeps them."""
    values: dict[str, Any] = msgspec.to_builtins(value)
    return values


def kept(row: Row, data: JobData) -> Mapping[str, Any]:
    """``data`` as JSON values: the row's own, as they are, when nothing has changed."""
    return row.data if data is data_of(row) else plain(data)


def record_of(row: Row, seen: JobObservation | None = None) -> JobRecord:
    """The row as users see it; ``seen`` is a newer observation of its present attempt than the recorded one."""
    order, data = order_of(row), data_of(row)
    shown = seen or data.observation or JobObservation(state=JobState(row.state))
    state = JobState(row.state)
    if seen is not None and not seen.state.is_final and state.may_become(seen.state):
        state = seen.state
    waiting = data.problem if row.ended_at is None else ""
    return JobRecord(
        id=row.id,
        name=row.name,
        backend=order.backend,
        state=state,
        spec=order.job,
        created_at=row.created_at,
        started_at=shown.started_at,
        ended_at=shown.ended_at or row.ended_at,
        attempt=max(1, data.attempt.number),
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
        checkpoint=shown.checkpoint,
        held=Money(data.held),
        spent=Money(data.spent),
        waiting_for=waiting,
        scopes=row.scopes,
        attempts=tuple(_attempt(one, shown if one is data.attempts[-1] else None) for one in data.attempts),
        reserved_s=data.attempt.limit_s + order.overhead_s if data.attempts else 0.0,
        hourly=Money(order.hourly),
    )


def _attempt(one: Attempt, seen: JobObservation | None) -> AttemptRecord:
    return AttemptRecord(
        number=one.number,
        resource=one.resource,
        submitted_at=one.submitted_at,
        created_at=one.created_at or None,
        ended_at=one.ended_at or None,
        end=one.end,
        limit_s=one.limit_s,
        held=Money(one.charge.held),
        spent=Money(one.charge.spent),
        checkpoint=one.checkpoint or (seen.checkpoint if seen is not None else None),
    )
