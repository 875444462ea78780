"""The life of a job as pure decisions: what is remembered, what happened, what to write and to do next.

waiting ──▶ submitting ──▶ active ──▶ (registering) ──▶ ended
   ▲            │  ▲          │ taken away, lost, failed: attempts left       any ──▶ deleting ──▶ deleted
   │            ▼  │          │
   │          unknown         │
   └──────────────────────────┘

An attempt's money is reserved by the write that begins it and released by the write that knows it gone, never later.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from ml_toolbox.base.errors import (
    BudgetExceeded,
    Bug,
    Conflict,
    Denied,
    Invalid,
    NoCapacity,
    NotFound,
    NotYet,
    Throttled,
    ToolboxError,
    Unsupported,
    Untrusted,
)
from ml_toolbox.domain.jobs import FailureDigest, FailureKind, JobState
from ml_toolbox.engine.absence import Absence
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.rows import Change, Level, Row
from ml_toolbox.engine.workflow import (
    AGAIN,
    OBSERVE,
    Claimed,
    Decision,
    Done,
    Effect,
    Event,
    Failed,
    Inserted,
    Observed,
    Refused,
    backoff_s,
)
from ml_toolbox.features.training import attempts
from ml_toolbox.features.training.records import JobData, JobOrder, data_of, kept, order_of, plain
from ml_toolbox.ports.jobs import JobObservation


class Phase(StrEnum):
    """What the loop does next. Rows of every release are read by every later one: words are added, never changed."""

    WAITING = "waiting"
    """No attempt exists: the next one waits for room under a limit, or for its time."""
    SUBMITTING = "submitting"
    """The intent is written, and the create call has not been answered."""
    UNKNOWN = "unknown"
    """A create call may or may not have had its effect."""
    ACTIVE = "active"
    REGISTERING = "registering"
    ENDED = "ended"
    DELETING = "deleting"
    DELETED = "deleted"


SUBMIT, LOOK_UP, STOP, REGISTER = Effect("submit"), Effect("look-up"), Effect("stop"), Effect("register")
EFFECTS = ("submit", "look-up", "stop", "register", "delete")

POLL_S = 1.0
"""A job that runs is due again after this time; looking at it in between reads the backend and writes nothing."""
LONG_POLL_S = 3.0
"""The same for one that has run for a minute or more. Ten thousand of those leave half a core free, and nothing that happens
to them is on record more than five seconds later."""
ROOM_S = 5.0
"""Between two tries to get under a limit on what exists at one time."""
ALARM_S = 900.0
"""Trouble that lasts longer than this needs somebody. The loop goes on all the same: it never gives up what may cost money."""
STOP_OVERDUE_S = 120.0
"""How long after its grace a stop may take before the resource is deleted instead."""

DELETE_OVERDUE_S = 60.0
"""How long an accepted deletion may take, past the platform's visibility window, before it is asked for again."""
SUBMIT_WITHIN_S = 3600.0
"""How long a create call is tried for when the platform does not answer or takes no more calls."""

_REFUSALS = (BudgetExceeded, Conflict, Denied, Invalid, NotFound, Unsupported, Untrusted)
"""Errors that say that a create call had no effect, and that the same call will have none later."""


class JobLife:
    """``decide`` for jobs.

    Args:
        install: id of this installation; part of every token.
    """

    def __init__(self, install: str) -> None:
        self._install = install

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        data, order = data_of(row), order_of(row)
        match row.phase:
            case Phase.WAITING:
                return self._waiting(row, data, order, event, now)
            case Phase.SUBMITTING | Phase.UNKNOWN:
                return _creating(row, data, order, event, now)
            case Phase.ACTIVE:
                return _active(row, data, order, event, now)
            case Phase.REGISTERING:
                return _registering(row, data, event, now)
            case Phase.ENDED:
                return _delete(row, data, now) if row.wish == "delete" else _rest(row, data)
            case Phase.DELETING:
                return _deleting(row, data, order, event, now)
            case Phase.DELETED:
                return _rest(row, data)
        raise Bug(f"job {row.id} is in the unknown phase {row.phase!r}")

    def _waiting(self, row: Row, data: JobData, order: JobOrder, event: Event, now: float) -> Decision:
        if row.wish:
            return _end(row, data, JobState.STOPPED, "stopped before the next attempt began", now)
        if isinstance(event, Refused):
            if not event.error.waits:
                return _over_budget(row, data, event.error, now)
            waits = replace(data, problem=event.error.message, tries=data.tries + 1)
            message = event.error.message if event.error.message != data.problem else ""
            pause = ROOM_S * (0.5 + backoff_s(1, f"{row.id}/{now}", base_s=0.5, cap_s=1.0))
            return _change(row, waits, Phase.WAITING, JobState.QUEUED, message, due_at=now + pause)
        try:
            begun, posting = attempts.opened(self._install, row.id, row.spec, order, data, now)
        except BudgetExceeded as error:
            return _over_budget(row, data, error, now)
        message = f"attempt {begun.attempt.number}"
        return _change(
            row, begun, Phase.SUBMITTING, JobState.QUEUED, message, effect=SUBMIT, due_at=now, postings=(posting,)
        )


# -- creating ---------------------------------------------------------------------------------------------------------


def _creating(row: Row, data: JobData, order: JobOrder, event: Event, now: float) -> Decision:
    match event:
        case Inserted():
            return _change(row, data, Phase.SUBMITTING, row.state, "", effect=SUBMIT)
        case Claimed():
            # Somebody died, or did not hear the answer: whether the resource exists is not known.
            return _resolve(row, data, order, now)
        case Done(effect=effect, result=resources) if effect.name == LOOK_UP.name:
            return _looked_up(row, data, order, resources, now)
        case Done(result=resource):
            return _created(row, data, resource, f"created {resource}", now)
        case Failed(effect=effect, error=error):
            return _not_created(row, data, order, effect, error, now)
        case Observed() | Refused():
            raise Bug("a job that is not created is neither observed nor charged")
    assert_never(event)


def _resolve(row: Row, data: JobData, order: JobOrder, now: float) -> Decision:
    """Find out whether the resource exists. Repeating the call is as good as looking where a token or name is honoured; a
    refusal that came after an unknown outcome, and a wish to be rid of it, leave only looking.

    Whoever takes up a call that was begun cannot know when it was sent: its sender held the lease, and may have slept, until
    just now. So the visibility window begins now, and a refusal of the next call (credentials that have expired meanwhile, a
    name that is taken - by the resource we do not see yet) must not count as the attempt's certain end.
    """
    if row.phase == Phase.SUBMITTING:
        data = _tried(data, now)
    if order.idempotency.kind != "none" and not row.wish and data.failure is None:
        return _change(row, _tried(data, now), Phase.SUBMITTING, row.state, "", effect=SUBMIT)
    look_at = data.attempt.absence.next_look_at(
        now, since=data.attempt.tried_at, window_s=order.idempotency.visibility_window_s
    )
    if look_at > now:
        message = "whether it exists is not known: looking again once it must be visible"
        waits = replace(data, problem=message, since=data.since or now)
        said = message if data.problem != message else ""
        return _change(row, waits, Phase.UNKNOWN, row.state, said, due_at=look_at)
    return _change(row, data, Phase.UNKNOWN, row.state, "", effect=LOOK_UP, due_at=now)


def _tried(data: JobData, now: float) -> JobData:
    """A create call may reach the platform as late as now."""
    attempt = replace(data.attempt, tried_at=now, absence=Absence())
    return replace(data, attempts=(*data.attempts[:-1], attempt))


def _looked_up(row: Row, data: JobData, order: JobOrder, found: list[str], now: float) -> Decision:
    if found:
        # Others, if there are any, belong to nobody: they are collected.
        return _created(row, replace(data, failure=None), min(found), f"found {', '.join(sorted(found))}", now)
    window_s = order.idempotency.visibility_window_s
    attempt = data.attempt
    absence = attempt.absence.noticed(now, since=attempt.tried_at, window_s=window_s)
    if not absence.certain:
        looked = replace(data, attempts=(*data.attempts[:-1], replace(attempt, absence=absence)))
        look_at = absence.next_look_at(now, since=attempt.tried_at, window_s=window_s)
        effect = LOOK_UP if look_at <= now else None
        return _change(row, looked, Phase.UNKNOWN, row.state, "", effect=effect, due_at=look_at)
    if data.failure is not None:
        return _never_was(row, data, order, data.failure, now)
    if row.wish:
        fresh, postings = attempts.settled(data, order, None, now, "it was never created")
        return _end(row, fresh, JobState.STOPPED, "stopped before it was created", now, postings)
    again = data.with_attempt(replace(attempt, absence=Absence(), tried_at=now))
    message = "it does not exist: creating it again"
    return _change(row, again, Phase.SUBMITTING, row.state, message, effect=SUBMIT, due_at=now)


def _created(row: Row, data: JobData, resource: str, message: str, now: float) -> Decision:
    known = data.with_attempt(replace(data.attempt, resource=resource, created_at=now, absence=Absence()))
    effect = OBSERVE if row.wish else None
    return _change(row, known, Phase.ACTIVE, row.state, message, effect=effect, due_at=now)


def _not_created(row: Row, data: JobData, order: JobOrder, effect: Effect, error: ToolboxError, now: float) -> Decision:
    is_refusal = isinstance(error, (NoCapacity, *_REFUSALS))
    is_first = row.phase == Phase.SUBMITTING and data.attempt.tried_at == data.attempt.submitted_at
    is_late = now - data.attempt.submitted_at > SUBMIT_WITHIN_S and data.failure is None
    if effect.name == LOOK_UP.name or not (is_refusal or is_late):
        if effect.name == LOOK_UP.name or (isinstance(error, Throttled) and is_first):
            return _later(row, data, error, now, Phase(row.phase))
        return _later(row, _tried(data, now), error, now, Phase.UNKNOWN)
    failure = _refusal(error)
    certain = is_first and data.tries == 0 and not is_late
    if certain:
        return _never_was(row, data, order, failure, now)
    # An earlier call of this attempt may have had its effect, whatever this one was answered.
    refused = replace(data if is_refusal else _tried(data, now), failure=failure, problem=error.message)
    return _change(row, refused, Phase.UNKNOWN, row.state, error.message, effect=AGAIN, due_at=now)


def _never_was(row: Row, data: JobData, order: JobOrder, failure: FailureDigest, now: float) -> Decision:
    """The attempt has certainly no resource."""
    fresh, postings = attempts.settled(replace(data, failure=None), order, None, now, failure.cause)
    if failure.kind == "no-capacity":
        return _another(row, fresh, order, failure, now, postings)
    return _end(row, replace(fresh, failure=failure), JobState.FAILED, failure.cause, now, postings)


def _refusal(error: ToolboxError) -> FailureDigest:
    kind: FailureKind = "no-capacity" if isinstance(error, NoCapacity) else "environment"
    return FailureDigest(kind=kind, cause=f"could not be started: {error.message}", next_step=error.hint)


# -- active -----------------------------------------------------------------------------------------------------------


def _active(row: Row, data: JobData, order: JobOrder, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            if row.wish == "delete":
                return _delete(row, data, now)
            return _change(row, data, Phase.ACTIVE, row.state, "", effect=OBSERVE)
        case Observed(value=seen):
            return _observed(row, data, order, seen, now)
        case Done(effect=effect):
            if effect.name == "delete":
                return _change(row, data, Phase.ACTIVE, row.state, "deleted: its stop took too long", effect=OBSERVE)
            sent = replace(data, stop_sent=True, stop_sent_at=now, tries=0, problem="", since=0.0, alarmed=False)
            return _change(row, sent, Phase.ACTIVE, JobState.STOPPING, "stop sent", effect=OBSERVE, due_at=now)
        case Failed(effect=effect, error=error):
            if effect == OBSERVE and isinstance(error, NotFound):
                return _not_found(row, data, order, now)
            return _later(row, data, error, now, Phase.ACTIVE)
        case Refused():
            raise Bug("what runs reserves nothing")
    assert_never(event)


def _observed(row: Row, data: JobData, order: JobOrder, seen: JobObservation, now: float) -> Decision:
    if seen.state.is_final:
        fresh = data.with_attempt(replace(data.attempt, absence=Absence()))
        return _finished(row, replace(fresh, observation=seen), order, seen, now)
    if row.wish == "delete":
        return _delete(row, replace(data, observation=seen), now)
    if not data.stop_sent and (reason := _stop_reason(row, data, order, seen, now)):
        told = replace(data, observation=seen, stop_reason="" if row.wish else reason)
        return _change(row, told, Phase.ACTIVE, row.state, "" if row.wish else reason, effect=STOP)
    overdue_s = order.job.limits.stop_grace_s + STOP_OVERDUE_S + order.idempotency.visibility_window_s
    if data.stop_sent_at and now > data.stop_sent_at + overdue_s:
        effect = Effect("delete", {"resource": data.attempt.resource})
        told = replace(data, stop_sent_at=now)
        return _change(row, told, Phase.ACTIVE, row.state, "does not stop: deleting it", effect=effect, level="alarm")
    data, postings = attempts.accrued(data, order, seen, now)
    state = JobState.STOPPING if data.stop_sent else seen.state
    # Progress alone is not written down: it changes ten times a second and can be read from the backend.
    news = row.state != state or data.observation is None or data.tries or data.attempt.absence.sightings
    if news or (seen.checkpoint and seen.checkpoint != data.observation.checkpoint):  # type: ignore[union-attr]
        data = replace(data.with_attempt(replace(data.attempt, absence=Absence())), observation=seen)
    message = f"seen {state}" if row.state != state else ""
    return _change(row, data, Phase.ACTIVE, state, message, due_at=now + _poll_s(data, now), postings=postings)


def _poll_s(data: JobData, now: float) -> float:
    """Most of what goes wrong goes wrong at the beginning, which is also what somebody waits for."""
    return min(LONG_POLL_S, max(POLL_S, (now - data.attempt.created_at) / 20))


def _stop_reason(row: Row, data: JobData, order: JobOrder, seen: JobObservation, now: float) -> str:
    if row.wish:
        return "a user asked"
    ends_at = attempts.money_ends_at(data.attempt, order, seen.started_at)
    if ends_at is not None and now >= ends_at:
        return f"its cost limit of ${order.job.limits.max_cost_usd:g} is reached: told to save and stop"
    return ""


def _finished(row: Row, data: JobData, order: JobOrder, seen: JobObservation, now: float) -> Decision:
    """The attempt exists no more; what it cost is known with the same write that says how it ended."""
    data, postings = attempts.settled(data, order, seen, now, str(seen.state))
    if seen.state is JobState.SUCCEEDED:
        return _succeeded(row, data, order, seen, now, postings)
    if data.stop_reason or (seen.failure and seen.failure.kind == "timeout" and _is_cut_short(data, order)):
        failure = FailureDigest(
            kind="budget",
            cause=f"stopped at its cost limit of ${order.job.limits.max_cost_usd:g}",
            evidence=f"checkpoint at step {seen.checkpoint.step}" if seen.checkpoint else "",
            next_step="raise limits.max_cost_usd and start it again with the same checkpoints",
        )
        return _end(row, replace(data, failure=failure), JobState.STOPPED, failure.cause, now, postings)
    if seen.state is JobState.STOPPED:
        return _end(row, data, JobState.STOPPED, "stopped", now, postings)
    failure = seen.failure or FailureDigest(kind="exit-code", cause=seen.message or "the platform gave no reason")
    if row.wish and failure.kind in ("lost", "preempted"):
        return _end(row, data, JobState.STOPPED, "gone while it was being stopped", now, postings)
    return _another(row, data, order, failure, now, postings)


def _is_cut_short(data: JobData, order: JobOrder) -> bool:
    return 0 < data.attempt.limit_s < order.job.limits.max_duration_s


def _succeeded(
    row: Row, data: JobData, order: JobOrder, seen: JobObservation, now: float, postings: tuple[Posting, ...]
) -> Decision:
    wanted = order.job.register
    if wanted is None:
        return _end(row, data, JobState.SUCCEEDED, "succeeded", now, postings)
    if seen.model_uri is None:
        failure = FailureDigest(
            kind="missing-file",
            cause=seen.message or "the script succeeded but left no model to register",
            next_step="write the model into the folder that SM_MODEL_DIR or ml_toolbox.runtime.model_dir() names",
        )
        return _end(row, replace(data, failure=failure), JobState.FAILED, failure.cause, now, postings)
    state = row.state if row.state == JobState.STOPPING else JobState.RUNNING
    return _change(
        row,
        data,
        Phase.REGISTERING,
        state,
        f"registering as {wanted}",
        effect=REGISTER,
        due_at=now,
        postings=postings,
    )


def _another(
    row: Row, data: JobData, order: JobOrder, failure: FailureDigest, now: float, postings: tuple[Posting, ...]
) -> Decision:
    """Another attempt if the cause still has some left; the one before is proved gone by now."""
    rule = order.job.retry
    counted = {
        "preempted": ("preempted", rule.preempted),
        "no-capacity": ("no_capacity", rule.no_capacity),
        "lost": ("lost", rule.lost),
    }
    cause, allowed = counted.get(failure.kind, ("user_errors", rule.user_error))
    used = getattr(data, cause)
    if used >= allowed or row.wish:
        return _end(row, replace(data, failure=failure), JobState.FAILED, failure.cause, now, postings)
    again = replace(data, stop_sent=False, stop_sent_at=0.0, **{cause: used + 1})
    pause = backoff_s(used + 1, row.id, base_s=5.0, cap_s=300.0) if failure.kind == "no-capacity" else 0.0
    message = f"attempt {data.attempt.number} ended: {failure.cause}"
    effect = None if pause else AGAIN
    due_at = now + pause
    return _change(row, again, Phase.WAITING, JobState.QUEUED, message, effect=effect, due_at=due_at, postings=postings)


def _not_found(row: Row, data: JobData, order: JobOrder, now: float) -> Decision:
    """The platform does not show it: deleted behind our back, or not visible yet."""
    attempt, window_s = data.attempt, order.idempotency.visibility_window_s
    absence = attempt.absence.noticed(now, since=attempt.created_at, window_s=window_s)
    looked = replace(data, attempts=(*data.attempts[:-1], replace(attempt, absence=absence)))
    if not absence.certain:
        look_at = absence.next_look_at(now, since=attempt.created_at, window_s=window_s)
        effect = OBSERVE if look_at <= now else None
        return _change(row, looked, Phase.ACTIVE, row.state, "", effect=effect, due_at=look_at)
    before = data.observation
    lost = JobObservation(
        state=JobState.FAILED,
        failure=FailureDigest(
            kind="lost",
            cause="the backend does not know the job any more",
            evidence=attempt.resource,
            next_step="somebody removed it; start it again",
        ),
        started_at=before.started_at if before else None,
        ended_at=now,
        billed_s=attempts.vanished_s(attempt, order, before, attempt.absence.last_at or now),
        checkpoint=before.checkpoint if before else None,
    )
    return _finished(row, replace(looked, observation=lost), order, lost, now)


# -- the end ----------------------------------------------------------------------------------------------------------


def _registering(row: Row, data: JobData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            return _change(row, data, Phase.REGISTERING, row.state, "", effect=REGISTER)
        case Done(result=model):
            registered = replace(data, model=model, tries=0, problem="")
            return _end(row, registered, JobState.SUCCEEDED, f"registered {model}", now)
        case Failed(error=error) if error.retryable:
            return _later(row, data, error, now, Phase.REGISTERING)
        case Failed(error=error):
            cause = f"trained, but the model could not be registered: {error.message}"
            failure = FailureDigest(kind="environment", cause=cause, next_step=error.hint)
            return _end(row, replace(data, failure=failure, tries=0, problem=""), JobState.FAILED, cause, now)
        case Observed() | Refused():
            raise Bug("a job that is being registered is neither observed nor charged")
    assert_never(event)


def _deleting(row: Row, data: JobData, order: JobOrder, event: Event, now: float) -> Decision:
    """Delete the attempts' resources one by one, each seen gone before the next."""
    window_s = order.idempotency.visibility_window_s
    match event:
        case Inserted() | Claimed() | Refused():
            if data.delete_sent_at:
                return _change(row, data, Phase.DELETING, row.state, "", effect=OBSERVE)
            return _delete(row, data, now)
        case Done():
            sent = replace(data, delete_sent_at=now, tries=0, problem="")
            return _change(row, sent, Phase.DELETING, row.state, "", effect=OBSERVE, due_at=now)
        case Observed(value=seen):
            if seen.state.is_final:  # some platforms go on showing what has ended
                return _deleted_one(row, data, order, seen, now)
            sent_again = now > data.delete_sent_at + window_s + DELETE_OVERDUE_S
            looked = replace(data, delete_sent_at=0.0) if sent_again else data
            return _later(row, looked, NotYet("still there after its deletion was accepted"), now, Phase.DELETING)
        case Failed(effect=effect, error=error) if effect == OBSERVE and isinstance(error, NotFound):
            return _missing(row, data, order, now)
        case Failed(error=error):
            # Never given up: a resource that was paid for must not be forgotten.
            return _later(row, data, error, now, Phase.DELETING)
    assert_never(event)


def _delete(row: Row, data: JobData, now: float, postings: tuple[Posting, ...] = ()) -> Decision:
    """Begin to delete the next resource that there is."""
    number = next((n for n in range(data.deleted, len(data.attempts)) if data.attempts[n].resource), None)
    if number is None:
        change = Change(
            phase=Phase.DELETED, state=row.state, data=plain(data), ended=True, message="deleted", postings=postings
        )
        return Decision(change=change)
    one = replace(data.attempts[number], absence=Absence())
    kept = (*data.attempts[:number], one, *data.attempts[number + 1 :])
    begun = replace(data, attempts=kept, deleted=number, delete_sent_at=0.0)
    effect = Effect("delete", {"resource": one.resource})
    return _change(row, begun, Phase.DELETING, row.state, "", effect=effect, due_at=now, postings=postings)


def _missing(row: Row, data: JobData, order: JobOrder, now: float) -> Decision:
    """The deletion seems to be through."""
    window_s = order.idempotency.visibility_window_s
    one = data.attempts[data.deleted]
    absence = one.absence.noticed(now, since=data.delete_sent_at, window_s=window_s)
    if absence.certain:
        last = data.observation or JobObservation(state=JobState.STOPPED)
        gone_by = one.absence.last_at or now
        last = replace(last, billed_s=attempts.vanished_s(one, order, data.observation, gone_by))
        return _deleted_one(row, data, order, last, now)
    kept = (*data.attempts[: data.deleted], replace(one, absence=absence), *data.attempts[data.deleted + 1 :])
    look_at = absence.next_look_at(now, since=data.delete_sent_at, window_s=window_s)
    effect = OBSERVE if look_at <= now else None
    looked = replace(data, attempts=kept)
    return _change(row, looked, Phase.DELETING, row.state, "", effect=effect, due_at=look_at)


def _deleted_one(row: Row, data: JobData, order: JobOrder, seen: JobObservation, now: float) -> Decision:
    postings: tuple[Posting, ...] = ()
    if data.deleted == len(data.attempts) - 1:
        if seen.state.is_final:
            data = replace(data, observation=seen)
        data, postings = attempts.settled(data, order, seen, now, "deleted")
    gone = replace(data, deleted=data.deleted + 1, delete_sent_at=0.0, tries=0, problem="", since=0.0, alarmed=False)
    return _delete(row, gone, now, postings)


def _over_budget(row: Row, data: JobData, error: BudgetExceeded, now: float) -> Decision:
    failure = FailureDigest(kind="budget", cause=error.message, next_step=error.hint)
    return _end(row, replace(data, failure=failure, problem=""), JobState.FAILED, failure.cause, now)


def _later(row: Row, data: JobData, error: ToolboxError, now: float, phase: Phase) -> Decision:
    """Try again after a pause, for ever. Whoever reads the history hears of new reasons, and of trouble that lasts."""
    since = data.since or now
    alarm = not data.alarmed and now - since >= ALARM_S
    waiting = replace(data, tries=data.tries + 1, problem=error.message, since=since, alarmed=data.alarmed or alarm)
    pause = max(getattr(error, "retry_after_s", None) or 0.0, backoff_s(data.tries, row.id))
    message = error.message if error.message != data.problem else ""
    if alarm:
        message = f"for {now - since:.0f} s: {error.message}"
    return _change(row, waiting, phase, row.state, message, due_at=now + pause, level="alarm" if alarm else "info")


def _end(
    row: Row, data: JobData, state: JobState, message: str, now: float, postings: tuple[Posting, ...] = ()
) -> Decision:
    if row.wish == "delete":
        return _delete(row, data, now, postings)
    change = Change(phase=Phase.ENDED, state=state, data=plain(data), ended=True, message=message, postings=postings)
    return Decision(change=change)


def _rest(row: Row, data: JobData) -> Decision:
    return Decision(change=Change(phase=row.phase, state=row.state, data=kept(row, data)))


def _change(
    row: Row,
    data: JobData,
    phase: Phase,
    state: str,
    message: str,
    *,
    effect: Effect | None = None,
    due_at: float | None = None,
    level: Level = "info",
    postings: tuple[Posting, ...] = (),
) -> Decision:
    """``due_at`` ``None``: stays as it is, so that a process dying in the effect leaves the row as due as it was."""
    change = Change(
        phase=phase,
        state=str(state),
        data=kept(row, data),
        due_at=row.due_at if due_at is None else due_at,
        message=message,
        level=level,
        postings=postings,
    )
    return Decision(change=change, effect=effect)
