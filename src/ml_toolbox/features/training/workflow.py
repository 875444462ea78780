"""The life of a job as the durable loop drives it. ``decide`` is pure; ``observe`` and ``perform`` call the backend.

submitting ──▶ active ──▶ (registering) ──▶ ended
    ▲            │ lost or failed, attempts left
    └────────────┘                       any ──▶ deleting ──▶ deleted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, assert_never

from ml_toolbox.base.errors import Bug, Conflict, NotFound, ToolboxError
from ml_toolbox.base.ids import digest
from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.engine.rows import Change, Row
from ml_toolbox.engine.workflow import (
    OBSERVE,
    Claimed,
    Decision,
    Done,
    Effect,
    Event,
    Failed,
    Inserted,
    Observed,
    backoff_s,
)
from ml_toolbox.features.training.records import KIND, Attempt, JobData, JobRecord, data_of, order_of, plain, record_of
from ml_toolbox.ports.jobs import TAG_ATTEMPT, TAG_INSTALL, TAG_OWNER, JobBackend, JobObservation, JobRequest, Owner


class Phase(StrEnum):
    """What the loop does next. Rows of every release are read by every later one: words are added, never changed."""

    SUBMITTING = "submitting"
    ACTIVE = "active"
    REGISTERING = "registering"
    ENDED = "ended"
    DELETING = "deleting"
    DELETED = "deleted"


SUBMIT, STOP, REGISTER = Effect("submit"), Effect("stop"), Effect("register")
POLL_S = 1.0
"""A job that runs is due again after this time; looking at it in between reads the backend and writes nothing."""

Backends = Callable[[str], JobBackend]
Register = Callable[[JobRecord], str]


class JobWorkflow:
    """One kind of row for the engine.

    Args:
        register: makes the finished job's model a version in a registry and returns ``NAME:VERSION``. Called again after a
            crash: must return the version it made before (the record's ``id`` tells).
    """

    kind = KIND

    def __init__(self, backends: Backends, register: Register | None, install: str) -> None:
        self._backends = backends
        self._register = register
        self._install = install

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        data = data_of(row)
        match row.phase:
            case Phase.SUBMITTING:
                return _submitting(row, data, event, now)
            case Phase.ACTIVE:
                return _active(row, data, event, now)
            case Phase.REGISTERING:
                return _registering(row, data, event, now)
            case Phase.ENDED:
                return _delete(row, data) if row.wish == "delete" else _rest(row, data)
            case Phase.DELETING:
                return _deleting(row, data, event, now)
            case Phase.DELETED:
                return _rest(row, data)
        raise Bug(f"job {row.id} is in the unknown phase {row.phase!r}")

    def observe(self, row: Row) -> JobObservation:
        return self._backends(order_of(row).backend).observe(data_of(row).attempt.resource)

    def perform(self, row: Row, effect: Effect) -> Any:
        backend = self._backends(order_of(row).backend)
        data = data_of(row)
        match effect.name:
            case "submit":
                return self._submit(row, backend)
            case "stop":
                return backend.stop(data.attempt.resource, grace_s=order_of(row).job.limits.stop_grace_s)
            case "register":
                if self._register is None:
                    raise Bug("no registry was given to register the model in")
                return self._register(record_of(row))
            case "delete":
                return backend.delete(effect.arguments["resource"])
        raise Bug(f"a job has no effect {effect.name!r}")

    def request(self, row_id: str, job: JobSpec, code_sha256: str, backend: JobBackend, attempt: int) -> JobRequest:
        """The request of one attempt: the same arguments always give the same request."""
        tagged = replace(job, tags={**job.tags, "mlt:code": code_sha256})
        return backend.build(tagged, Owner(install=self._install, row=row_id, attempt=attempt))

    def _submit(self, row: Row, backend: JobBackend) -> str:
        order, attempt = order_of(row), data_of(row).attempt
        request = self.request(row.id, order.job, order.code_sha256, backend, attempt.number)
        # A backend without idempotency would make a second resource: look for the one a lost answer may have left.
        left_behind = _find(backend, request) if backend.idempotency.kind == "none" else None
        if left_behind:
            return left_behind
        try:
            return backend.submit(request, attempt.token)
        except Conflict:
            # Another release built the body a little differently, or the name is all that it goes by: ours all the same.
            found = _find(backend, request)
            if found is None:
                raise
            return found


def _find(backend: JobBackend, request: JobRequest) -> str | None:
    """The resource that carries this attempt's owner tags, if there is one."""
    mine = {name: request.tags[name] for name in (TAG_INSTALL, TAG_OWNER, TAG_ATTEMPT)}
    return min((resource for resource, _ in backend.list_by_tag(mine)), default=None)


def token_of(row_id: str, spec: Mapping[str, Any], attempt: int) -> str:
    """The idempotency token: the same attempt of the same order, and only that, gives the same token."""
    return digest({"row": row_id, "attempt": attempt, "order": spec})


def first_data(row_id: str, spec: Mapping[str, Any], now: float) -> JobData:
    """What a new row remembers: the intent of its first attempt."""
    return JobData(attempts=(Attempt(number=1, token=token_of(row_id, spec, 1), submitted_at=now),))


def _submitting(row: Row, data: JobData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            # Also after a crash, where the outcome is unknown: the token makes the second call return the first's resource.
            return _change(row, data, Phase.SUBMITTING, row.state, "", effect=SUBMIT)
        case Done(result=resource):
            attempt = replace(data.attempt, resource=resource)
            known = replace(data, attempts=(*data.attempts[:-1], attempt), tries=0, problem="")
            effect = OBSERVE if row.wish else None
            return _change(row, known, Phase.ACTIVE, row.state, f"created {resource}", effect=effect, due_at=now)
        case Failed(error=error):
            return _retry_or_fail(row, data, error, now, Phase.SUBMITTING)
        case Observed():
            raise Bug("a job that is not created cannot be observed")
    assert_never(event)


def _active(row: Row, data: JobData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            if row.wish == "delete":
                return _delete(row, data)
            return _change(row, data, Phase.ACTIVE, row.state, "", effect=OBSERVE)
        case Observed(value=seen):
            return _observed(row, data, seen, now)
        case Done():
            sent = replace(data, stop_sent=True, tries=0, problem="")
            return _change(row, sent, Phase.ACTIVE, JobState.STOPPING, "stop sent", effect=OBSERVE, due_at=now)
        case Failed(effect=effect, error=error):
            if effect == OBSERVE and isinstance(error, NotFound):
                return _gone(row, data, now)
            return _later(row, data, error, now, Phase.ACTIVE)
    assert_never(event)


def _observed(row: Row, data: JobData, seen: JobObservation, now: float) -> Decision:
    fresh = replace(data, observation=seen, tries=0, problem="")
    if not seen.state.is_final:
        if row.wish == "delete":
            return _delete(row, fresh)
        if row.wish == "stop" and not data.stop_sent:
            return _change(row, replace(data, observation=seen), Phase.ACTIVE, row.state, "", effect=STOP)
        state = JobState.STOPPING if data.stop_sent else seen.state
        # Progress alone is not written down: it changes ten times a second and can be read from the backend.
        kept = data if row.state == state and data.observation is not None and data.tries == 0 else fresh
        message = f"seen {state}" if row.state != state else ""
        return _change(row, kept, Phase.ACTIVE, state, message, due_at=now + POLL_S)
    if seen.state is JobState.SUCCEEDED:
        return _succeeded(row, fresh, seen, now)
    if seen.state is JobState.FAILED:
        return _failed(row, fresh, seen, now)
    return _end(row, fresh, seen.state, "stopped")


def _succeeded(row: Row, data: JobData, seen: JobObservation, now: float) -> Decision:
    wanted = order_of(row).job.register
    if wanted is None:
        return _end(row, data, JobState.SUCCEEDED, "succeeded")
    if seen.model_uri is None:
        failure = FailureDigest(
            kind="missing-file",
            cause=seen.message or "the script succeeded but left no model to register",
            next_step="write the model into the folder that SM_MODEL_DIR or ml_toolbox.runtime.model_dir() names",
        )
        return _end(row, replace(data, failure=failure), JobState.FAILED, failure.cause)
    state = row.state if row.state == JobState.STOPPING else JobState.RUNNING
    return _change(row, data, Phase.REGISTERING, state, f"registering as {wanted}", effect=REGISTER, due_at=now)


def _failed(row: Row, data: JobData, seen: JobObservation, now: float) -> Decision:
    failure = seen.failure or FailureDigest(kind="exit-code", cause=seen.message or "the platform gave no reason")
    rule = order_of(row).job.retry
    is_lost = failure.kind == "lost"
    used, allowed = (data.lost, rule.lost) if is_lost else (data.user_errors, rule.user_error)
    if used >= allowed or row.wish:
        return _end(row, replace(data, failure=failure), JobState.FAILED, failure.cause)
    number = data.attempt.number + 1
    again = replace(
        data,
        attempts=(*data.attempts, Attempt(number=number, token=token_of(row.id, row.spec, number), submitted_at=now)),
        observation=None,
        lost=data.lost + is_lost,
        user_errors=data.user_errors + (not is_lost),
    )
    message = f"attempt {number} after: {failure.cause}"
    return _change(row, again, Phase.SUBMITTING, JobState.QUEUED, message, effect=SUBMIT, due_at=now)


def _gone(row: Row, data: JobData, now: float) -> Decision:
    """The platform does not know the resource: deleted behind our back, or not visible yet."""
    lost = JobObservation(
        state=JobState.FAILED,
        failure=FailureDigest(
            kind="lost",
            cause="the backend does not know the job any more",
            evidence=data.attempt.resource,
            next_step="somebody removed it; start it again",
        ),
        ended_at=now,
    )
    return _failed(row, replace(data, observation=lost), lost, now)


def _registering(row: Row, data: JobData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            return _change(row, data, Phase.REGISTERING, row.state, "", effect=REGISTER)
        case Done(result=model):
            return _end(row, replace(data, model=model, tries=0, problem=""), JobState.SUCCEEDED, f"registered {model}")
        case Failed(error=error):
            return _retry_or_fail(row, data, error, now, Phase.REGISTERING)
        case Observed():
            raise Bug("a job that is being registered is not observed")
    assert_never(event)


def _deleting(row: Row, data: JobData, event: Event, now: float) -> Decision:
    match event:
        case Failed(error=error):
            # Never given up: a resource that was paid for must not be forgotten.
            return _later(row, data, error, now, Phase.DELETING)
        case Done():
            return _delete(row, replace(data, deleted=data.deleted + 1, tries=0, problem=""))
        case Inserted() | Claimed() | Observed():
            return _delete(row, data)
    assert_never(event)


def _delete(row: Row, data: JobData) -> Decision:
    """Delete the resources of the attempts one by one, each recorded before the next."""
    left = data.attempts[data.deleted :]
    if not left:
        change = Change(phase=Phase.DELETED, state=row.state, data=plain(data), ended=True, message="deleted")
        return Decision(change=change)
    effect = Effect("delete", {"resource": left[0].resource})
    return _change(row, data, Phase.DELETING, row.state, "", effect=effect)


def _retry_or_fail(row: Row, data: JobData, error: ToolboxError, now: float, phase: str) -> Decision:
    if error.retryable:
        return _later(row, data, error, now, phase)
    done = "trained, but the model could not be registered" if phase == Phase.REGISTERING else "could not be started"
    failure = FailureDigest(kind="environment", cause=f"{done}: {error.message}", next_step=error.hint)
    return _end(row, replace(data, failure=failure, tries=0, problem=""), JobState.FAILED, failure.cause)


def _later(row: Row, data: JobData, error: ToolboxError, now: float, phase: str) -> Decision:
    waiting = replace(data, tries=data.tries + 1, problem=error.message)
    pause = getattr(error, "retry_after_s", None) or backoff_s(data.tries)
    return _change(row, waiting, phase, row.state, error.message, due_at=now + pause)


def _end(row: Row, data: JobData, state: JobState, message: str) -> Decision:
    if row.wish == "delete":
        return _delete(row, data)
    change = Change(phase=Phase.ENDED, state=state, data=plain(data), ended=True, message=message)
    return Decision(change=change)


def _rest(row: Row, data: JobData) -> Decision:
    return Decision(change=Change(phase=row.phase, state=row.state, data=plain(data)))


def _change(
    row: Row,
    data: JobData,
    phase: str,
    state: str,
    message: str,
    *,
    effect: Effect | None = None,
    due_at: float | None = None,
) -> Decision:
    """``due_at`` ``None``: stays as it is, so that a process dying in the effect leaves the row as due as it was."""
    due = row.due_at if due_at is None else due_at
    change = Change(phase=phase, state=str(state), data=plain(data), due_at=due, message=message)
    return Decision(change=change, effect=effect)
