"""The life of an endpoint as pure decisions.

applying ──▶ active          (a new wish, or it vanished: applying again)
    │ refused and nothing served before        any ──▶ deleting ──▶ deleted
    └──▶ deleting

A wish is written before the backend hears of it, and applying is idempotent: after a crash anywhere the next look applies
the newest wish again. Deleting never gives up: what may cost money is not forgotten.

An endpoint has no end of its own, so its worst case has none either: money is reserved for a day at a time, and for the next
one when half of it is over. When a budget refuses that, the endpoint is deleted at the end of what is paid for.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import BudgetExceeded, Bug, NotFound, NotYet, ToolboxError
from ml_toolbox.domain.endpoints import EndpointState, EndpointStatus
from ml_toolbox.engine import charges
from ml_toolbox.engine.absence import Absence
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.rows import Change, Level, Row
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
    Refused,
    backoff_s,
)
from ml_toolbox.features.serving.records import EndpointData, Problem, data_of, plain, window_of


class Phase(StrEnum):
    """What the loop does next. Rows of every release are read by every later one: words are added, never changed."""

    APPLYING = "applying"
    ACTIVE = "active"
    DELETING = "deleting"
    DELETED = "deleted"


DELETE = Effect("delete")
EFFECTS = ("apply", "delete")

CHECK_S = 60.0
"""How often an endpoint is looked at when nobody asks, to make one again that has vanished."""
WEIGHT_TOLERANCE = 1.0
"""Percent: some platforms know whole shares only."""
PAID_AHEAD_S = 24 * 3600.0
"""What is reserved at a time."""
RENEW_BEFORE_S = PAID_AHEAD_S / 2
ENDING_S = 900.0
"""How long before the end of what is paid for an endpoint is deleted whose next day a budget refuses."""
ALARM_S = 900.0
DELETE_OVERDUE_S = 120.0
"""How long an accepted deletion may take, past the platform's visibility window, before it is asked for again."""


def decide(row: Row, event: Event, now: float) -> Decision:
    data = data_of(row)
    match row.phase:
        case Phase.APPLYING:
            return _applying(row, data, event, now)
        case Phase.ACTIVE:
            return _active(row, data, event, now)
        case Phase.DELETING:
            return _deleting(row, data, event, now)
        case Phase.DELETED:
            return Decision(change=Change(phase=row.phase, state=row.state, data=plain(data), ended=True))
    raise Bug(f"endpoint {row.name} is in the unknown phase {row.phase!r}")


# -- money ------------------------------------------------------------------------------------------------------------


def paid(data: EndpointData, hourly: int, now: float) -> tuple[EndpointData, tuple[Posting, ...]]:
    """From now on the endpoint costs ``hourly`` micro-dollars: what it has cost is settled, a day is reserved."""
    settled, postings = settled_charge(data, now, "a new reservation")
    charge, posting = charges.reserve(settled.charges + 1, hourly=hourly, seconds=PAID_AHEAD_S, now=now)
    begun = replace(settled, charge=charge, charges=settled.charges + 1, charged_from=now, unpaid=False)
    return begun, (*postings, posting)


def settled_charge(data: EndpointData, now: float, reason: str) -> tuple[EndpointData, tuple[Posting, ...]]:
    charge, postings = charges.settle(data.charges, data.charge, billed_s=now - data.charged_from, reason=reason)
    spent = data.spent + charge.spent if postings else data.spent
    return replace(data, charge=charge, spent=spent), postings


# -- phases -----------------------------------------------------------------------------------------------------------


def _applying(row: Row, data: EndpointData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            if row.wish == "delete":
                return _delete(row, data)
            return _change(row, data, Phase.APPLYING, row.state, effect=Effect("apply", {"edition": data.edition}))
        case Done():
            applied = replace(
                _calm(data),
                applied=data.wanted,
                applied_at=now,
                applied_hourly=data.charge.hourly,
                absence=Absence(),
            )
            if row.wish == "delete":
                return _delete(row, applied)
            message = f"applied wish {data.edition}"
            return _change(row, applied, Phase.ACTIVE, EndpointState.READY, message=message, due_at=now + CHECK_S)
        case Failed(error=error):
            if error.retryable or isinstance(error, NotYet | Bug) or row.wish == "delete":
                return _later(row, data, error, now, Phase.APPLYING)
            return _refused(row, data, error, now)
        case Observed() | Refused():
            raise Bug("an endpoint being applied is neither observed nor charged")
    assert_never(event)


def _refused(row: Row, data: EndpointData, error: ToolboxError, now: float) -> Decision:
    refused = replace(_calm(data), problem=Problem.of(error), refused=data.edition)
    if data.applied is None:
        return _delete(row, refused, state=EndpointState.FAILED)  # what a half-done create may have left goes, too
    back = replace(refused, wanted=data.applied)
    postings: tuple[Posting, ...] = ()
    if data.applied_hourly < data.charge.hourly:
        back, postings = paid(back, data.applied_hourly, now)
    message = f"refused: {error.message}"
    return _change(
        row, back, Phase.ACTIVE, EndpointState.READY, message=message, due_at=now + CHECK_S, postings=postings
    )


def _active(row: Row, data: EndpointData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            if row.wish:  # what serves has nothing to be saved: to stop it is to delete it
                return _delete(row, data)
            if data.charge.hourly and not data.unpaid and now >= data.charged_from + RENEW_BEFORE_S:
                longer, postings = paid(data, data.charge.hourly, now)
                return _change(row, longer, Phase.ACTIVE, row.state, effect=OBSERVE, postings=postings)
            return _checked(row, data, now)
        case Refused(error=error):
            return _unpaid(row, data, error, now)
        case Observed(value=seen) if now >= data.applied_at + window_of(row) and _serves_another(data, seen):
            return _applied_again(row, data, "it serves something else than what is wanted: applying again", now)
        case Observed():
            return _change(row, replace(_calm(data), absence=Absence()), Phase.ACTIVE, row.state, due_at=now + CHECK_S)
        case Failed(error=error) if isinstance(error, NotFound):
            return _vanished(row, data, now)
        case Failed(error=error):
            return _later(row, data, error, now, Phase.ACTIVE)
        case Done():
            raise Bug("an active endpoint has no effect")
    assert_never(event)


def _checked(row: Row, data: EndpointData, now: float) -> Decision:
    if data.unpaid and now >= data.charged_from + PAID_AHEAD_S - ENDING_S:
        return _delete(row, data, message="what is paid for ends: deleting it", level="alarm")
    if data.unpaid and now >= data.retry_pay_at:  # a budget may have been raised meanwhile
        longer, postings = paid(data, data.charge.hourly, now)
        return _change(row, longer, Phase.ACTIVE, row.state, effect=OBSERVE, postings=postings)
    charge, postings = charges.accrue(data.charges, data.charge, billed_s=now - data.charged_from)
    accrued = replace(data, charge=charge)
    return _change(row, accrued, Phase.ACTIVE, row.state, effect=OBSERVE, postings=postings)


def _unpaid(row: Row, data: EndpointData, error: BudgetExceeded, now: float) -> Decision:
    ends_at = data.charged_from + PAID_AHEAD_S - ENDING_S
    message = (
        "" if data.unpaid else f"the next day is not paid for, it will be deleted at {iso(ends_at)}: {error.message}"
    )
    unpaid = replace(data, unpaid=True, retry_pay_at=now + CHECK_S)
    return _change(row, unpaid, Phase.ACTIVE, row.state, message=message, due_at=now + CHECK_S, level="alarm")


def _vanished(row: Row, data: EndpointData, now: float) -> Decision:
    window_s = window_of(row)
    absence = data.absence.noticed(now, since=data.applied_at, window_s=window_s)
    if not absence.certain:
        look_at = absence.next_look_at(now, since=data.applied_at, window_s=window_s)
        looked = replace(data, absence=absence)
        effect = OBSERVE if look_at <= now else None
        return _change(row, looked, Phase.ACTIVE, row.state, effect=effect, due_at=look_at)
    return _applied_again(row, data, "the backend does not know it any more: applying again", now)


def _serves_another(data: EndpointData, seen: EndpointStatus) -> bool:
    """Whether another wish than the last is in force. Whoever stood still in the middle of applying an older one sends it when
    it goes on, and nothing can call that back; what such a process did is only seen by looking."""
    if data.applied is None or seen.state is not EndpointState.READY or not seen.variants:
        return False
    wanted = {variant.name: variant for variant in data.applied.variants}
    if {variant.name for variant in seen.variants} != wanted.keys():
        return True
    if any(variant.model and variant.model != wanted[variant.name].model for variant in seen.variants):
        return True
    # While a variant is ill, its share may be with the others.
    return all(variant.healthy for variant in seen.variants) and any(
        abs(variant.weight - wanted[variant.name].weight) > WEIGHT_TOLERANCE for variant in seen.variants
    )


def _applied_again(row: Row, data: EndpointData, message: str, now: float) -> Decision:
    again = replace(_calm(data), absence=Absence())
    effect = Effect("apply", {"edition": data.edition})
    return _change(row, again, Phase.APPLYING, EndpointState.UPDATING, message=message, effect=effect, due_at=now)


def _deleting(row: Row, data: EndpointData, event: Event, now: float) -> Decision:
    window_s = window_of(row)
    match event:
        case Inserted() | Claimed() | Refused():
            if data.delete_sent_at:
                return _change(row, data, Phase.DELETING, row.state, effect=OBSERVE)
            return _delete(row, data, EndpointState(row.state))
        case Done():
            sent = replace(_calm(data), delete_sent_at=now, absence=Absence())
            return _change(row, sent, Phase.DELETING, row.state, effect=OBSERVE, due_at=now)
        case Observed(value=seen) if seen.state is EndpointState.DELETED:
            return _gone(row, data, now)
        case Observed():
            sent_again = now > data.delete_sent_at + window_s + DELETE_OVERDUE_S
            looked = replace(data, absence=Absence(), delete_sent_at=0.0 if sent_again else data.delete_sent_at)
            return _later(row, looked, NotYet("still there after its deletion was accepted"), now, Phase.DELETING)
        case Failed(effect=effect, error=error) if effect == OBSERVE and isinstance(error, NotFound):
            absence = data.absence.noticed(now, since=data.delete_sent_at, window_s=window_s)
            if absence.certain:
                return _gone(row, data, now)
            look_at = absence.next_look_at(now, since=data.delete_sent_at, window_s=window_s)
            again = OBSERVE if look_at <= now else None
            looked = replace(data, absence=absence)
            return _change(row, looked, Phase.DELETING, row.state, effect=again, due_at=look_at)
        case Failed(error=error):
            return _later(row, data, error, now, Phase.DELETING)
    assert_never(event)


def _gone(row: Row, data: EndpointData, now: float) -> Decision:
    settled, postings = settled_charge(data, now, "deleted")
    state = EndpointState.FAILED if data.refused == data.edition else EndpointState.DELETED
    calm = _calm(settled, keep_problem=True)
    gone = Change(phase=Phase.DELETED, state=state, data=plain(calm), ended=True, message="deleted", postings=postings)
    return Decision(change=gone)


def _delete(
    row: Row,
    data: EndpointData,
    state: EndpointState = EndpointState.DELETING,
    *,
    message: str = "",
    level: Level = "info",
) -> Decision:
    begun = replace(data, delete_sent_at=0.0, absence=Absence())
    return _change(row, begun, Phase.DELETING, state, message=message, effect=DELETE, level=level)


def _later(row: Row, data: EndpointData, error: ToolboxError, now: float, phase: Phase) -> Decision:
    """Try again after a pause, for ever. Whoever reads the history hears of new reasons, and of trouble that lasts."""
    since = data.since or now
    alarm = not data.alarmed and now - since >= ALARM_S
    # A user's command looks again and again; only what was due counts, or the loop's own next look would be a minute away.
    is_early = row.due_at is not None and row.due_at > now
    waiting = replace(
        data,
        tries=data.tries + (not is_early),
        problem=Problem.of(error),
        since=since,
        alarmed=data.alarmed or alarm,
    )
    known = data.problem is not None and data.problem.message == error.message
    message = f"for {now - since:.0f} s: {error.message}" if alarm else "" if known else error.message
    pause = max(getattr(error, "retry_after_s", None) or 0.0, backoff_s(data.tries, row.id))
    level: Level = "alarm" if alarm else "info"
    return _change(row, waiting, phase, row.state, message=message, due_at=now + pause, level=level)


def _calm(data: EndpointData, *, keep_problem: bool = False) -> EndpointData:
    """The step before is through: its troubles are forgotten."""
    problem = data.problem if keep_problem or data.refused == data.edition else None
    return replace(data, tries=0, problem=problem, since=0.0, alarmed=False)


def _change(
    row: Row,
    data: EndpointData,
    phase: Phase,
    state: str,
    *,
    message: str = "",
    effect: Effect | None = None,
    due_at: float | None = None,
    level: Level = "info",
    postings: tuple[Posting, ...] = (),
) -> Decision:
    # While something is being done the row is due: whoever looks after a crash takes it up at once.
    acting = effect is not None and effect is not OBSERVE
    due = due_at if due_at is not None else row.updated_at if acting else row.due_at
    change = Change(
        phase=phase, state=state, data=plain(data), due_at=due, message=message, level=level, postings=postings
    )
    return Decision(change=change, effect=effect)
