"""What must hold after any schedule, checked on plain data: the platform's own log, the store's rows, histories and ledger.

Nothing here knows how the data came about: the simulator fills :class:`Evidence` from virtual time, and runs with real processes
that are really killed can fill it from a database and a pretended platform's log. Each function is one promise; it yields one
line for every time it was broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ml_toolbox.engine.ledger import Limit, Line, Meter, Period
from ml_toolbox.engine.rows import WISH_ORDER, Transition, Wish
from ml_toolbox.ports.jobs import TAG_ATTEMPT, TAG_EXPIRES, TAG_INSTALL, TAG_OWNER
from ml_toolbox.testing.simulator.cloud import Call
from ml_toolbox.testing.simulator.product import RowView

NEVER = float("inf")


class Violation(NamedTuple):
    """One broken promise."""

    promise: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Existed:
    """A resource, as the platform's own books have it."""

    id: str
    kind: str
    place: str
    name: str
    tags: Mapping[str, str]
    max_run_s: float
    hourly: int
    """Micro-dollars."""
    created_at: float
    by: str
    charged_s: float
    """Until now."""
    ended_at: float
    """From then on it costs nothing; ``inf``: it still does."""
    gone_at: float
    """From then on nothing shows it; ``inf``: something still does."""
    outcome: str = ""
    stale: bool = False
    """Its caller had lost its row to somebody else before the call was sent."""
    removed_by_others: bool = False
    """It vanished behind our back: what it had been by then nobody may ever have seen."""

    @property
    def owner(self) -> tuple[str, int]:
        return self.tags.get(TAG_OWNER, ""), int(self.tags.get(TAG_ATTEMPT, "0") or 0)

    @property
    def cost(self) -> float:
        return self.hourly * self.charged_s / 3600.0


class LimitSet(NamedTuple):
    """A limit was made or changed after so many lines of the ledger."""

    after_seq: int
    scope: str
    meter: Meter
    period: Period
    most: int
    month: str = ""
    """Of a monthly one: the month in which it was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything known about one run, after everything had time to settle."""

    install: str
    now: float
    classes: Mapping[str, str]
    """Idempotency class of each place."""
    resources: Sequence[Existed]
    calls: Sequence[Call]
    rows: Sequence[RowView]
    histories: Mapping[str, Sequence[Transition]]
    lines: Sequence[Line]
    limits: Sequence[Limit] = ()
    limits_set: Sequence[LimitSet] = ()
    submitted: Sequence[str] = ()
    """Ids of rows whose submit was answered, or that a look found afterwards."""
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    """The strongest that was answered, by row."""
    registered: Sequence[tuple[str, str]] = ()
    """Job id and version, one entry for each version made."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """How many attempts the user's own errors get, by row; absent: none."""
    taken: Sequence[str] = ()
    """Leases that were taken from a holder before they had run out, where that was watched."""
    slept_s: float = 0.0
    """The longest that a process stood still."""
    lifetimes: bool = True
    """Whether ``created_at`` and ``ended_at`` are exact enough to be compared with the store's time."""

    def ours(self) -> Iterator[Existed]:
        return (one for one in self.resources if one.tags.get(TAG_INSTALL) == self.install)


def check(evidence: Evidence) -> list[Violation]:
    """Every broken promise."""
    return [Violation(promise.__name__, detail) for promise in PROMISES for detail in promise(evidence)]


# -- rows -------------------------------------------------------------------------------------------------------------


def every_row_ends(evidence: Evidence) -> Iterator[str]:
    """Every row comes to rest for good, and what was wished of it has happened."""
    for view in evidence.rows:
        row = view.row
        if row.ended_at is None:
            yield f"{row.kind} {row.id} is still {row.phase} ({row.state}), due {row.due_at}"
        elif row.wish == "delete" and not view.is_deleted:
            yield f"{row.kind} {row.id} was to be deleted and is {row.phase}"


def nothing_is_lost(evidence: Evidence) -> Iterator[str]:
    """What was answered is on record: rows, and wishes."""
    rows = {view.row.id: view.row for view in evidence.rows}
    for row_id in evidence.submitted:
        if row_id not in rows:
            yield f"row {row_id} was submitted and does not exist"
    for row_id, wish in evidence.wishes.items():
        if row_id in rows and WISH_ORDER.index(rows[row_id].wish) < WISH_ORDER.index(wish):
            yield f"{wish} of {row_id} was answered, and the row shows {rows[row_id].wish!r}"


def one_end(evidence: Evidence) -> Iterator[str]:
    """A row ends once, is deleted once, and says so once."""
    for view in evidence.rows:
        entered: Counter[str] = Counter()
        before = ""
        for step in evidence.histories[view.row.id]:
            if step.phase != before and step.phase in ("ended", "deleted"):
                entered[step.phase] += 1
            before = step.phase
        yield from (f"{view.row.id} was {phase} {times} times" for phase, times in entered.items() if times > 1)


def one_version(evidence: Evidence) -> Iterator[str]:
    """A job's model is registered once, and the row names that version."""
    versions: dict[str, list[str]] = defaultdict(list)
    for job_id, version in evidence.registered:
        versions[job_id].append(version)
    for job_id, made in versions.items():
        if len(made) > 1:
            yield f"job {job_id} was registered as {', '.join(made)}"
    for view in evidence.rows:
        made = versions.get(view.row.id, [])
        if view.model is not None and [view.model] != made:
            yield f"job {view.row.id} says {view.model}, the registry {made}"
        if view.wants_model and view.row.state == "succeeded" and view.model is None:
            yield f"job {view.row.id} succeeded without the model that was to be registered"


def tokens_only_grow(evidence: Evidence) -> Iterator[str]:
    """No line of history was written under an older lease than the line before."""
    for row_id, steps in evidence.histories.items():
        tokens = [step.lease_token for step in steps]
        if tokens != sorted(tokens):
            yield f"lease tokens of {row_id}: {tokens}"


def leases_last(evidence: Evidence) -> Iterator[str]:
    """A row is its holder's until the lease runs out: fencing would keep the record right, but the calls would be made twice."""
    yield from evidence.taken


def every_phase_understood(evidence: Evidence) -> Iterator[str]:
    """No decision raised."""
    for row_id, steps in evidence.histories.items():
        yield from (f"{row_id}: {step.message}" for step in steps if step.message.startswith("cannot be driven"))


def failures_have_causes(evidence: Evidence) -> Iterator[str]:
    """A job fails only for what the platform said of it: a passing fault fails nothing."""
    ends: dict[str, set[str]] = defaultdict(set)
    for one in evidence.ours():
        ends[one.owner[0]] |= {one.outcome.partition(":")[0], "removed" if one.removed_by_others else ""}
    refusals = {call.target for call in evidence.calls if call.operation == "create" and call.answer in _REFUSALS}
    for view in evidence.rows:
        row = view.row
        if row.state != "failed" or row.kind != "job":
            continue
        told = ends[row.id] & {"failed", "succeeded-empty", "removed"}
        refused = any(row.id in target for target in refusals)
        budget = any("budget" in step.message or "max_cost" in step.message for step in evidence.histories[row.id])
        if not told and not refused and not budget and not view.excused:
            yield f"{row.id} failed ({evidence.histories[row.id][-1].message}), of which the platform knows nothing"


_REFUSALS = ("Invalid", "NoCapacity", "Denied", "Conflict")


def user_errors_are_not_repeated(evidence: Evidence) -> Iterator[str]:
    """Another attempt follows only where the cause has one left."""
    rows = {view.row.id: view for view in evidence.rows}
    for one in evidence.ours():
        row_id, attempt = one.owner
        if row_id not in rows or not one.outcome.startswith(("failed:exception", "failed:out-of-memory")):
            continue
        known = {(held.attempt, held.resource) for held in rows[row_id].held}
        later = [held.attempt for held in rows[row_id].held if held.attempt > attempt]
        shown = not one.removed_by_others
        if (attempt, one.id) in known and later and shown and not evidence.retries.get(row_id):
            yield f"{row_id}: attempt {later[0]} follows attempt {attempt}, which ended by {one.outcome}"


# -- resources --------------------------------------------------------------------------------------------------------


def no_orphan(evidence: Evidence) -> Iterator[str]:
    """What exists belongs to a row that has not been deleted, and costs nothing once the row has ended."""
    rows = {view.row.id: view for view in evidence.rows}
    for one in evidence.ours():
        row_id, attempt = one.owner
        view = rows.get(row_id)
        if one.gone_at <= evidence.now:
            continue
        known = view is not None and any(held.resource == one.id and held.attempt == attempt for held in view.held)
        if not known:
            yield f"{one.id} exists, and no row knows it ({one.name}, made by {one.by})"
        elif view is not None and view.is_deleted:
            yield f"{one.id} exists, and its row {row_id} is deleted"
        elif one.ended_at > evidence.now:
            yield f"{one.id} still costs money, and its row {row_id} has ended"


def no_duplicate(evidence: Evidence) -> Iterator[str]:
    """An attempt has one resource. Another one comes only from a process that had stood still for longer than its lease in the
    middle of the call - nothing can call that back - and only where the platform recognises no repetition (class ``none``) or
    has forgotten what it would have recognised."""
    rows = {view.row.id: view for view in evidence.rows}
    groups: dict[tuple[str, int, str], list[Existed]] = defaultdict(list)
    for one in evidence.ours():
        if one.kind == "job":
            groups[(*one.owner, one.place)].append(one)
    for (row_id, attempt, place), made in groups.items():
        known = {held.resource for held in rows[row_id].held if held.attempt == attempt} if row_id in rows else set()
        made.sort(key=lambda one: one.created_at)
        for first, second in zip(made, made[1:], strict=False):
            if evidence.classes[place] != "none" and second.created_at < min(first.ended_at, first.gone_at):
                yield f"{second.id} was made for attempt {attempt} of {row_id} while {first.id} lived"
        # Which of two is taken for the attempt's own is no matter; how many are too many is.
        unknown = [one for one in made if one.id not in known and not one.removed_by_others]
        if len(unknown) > sum(one.stale for one in made):
            names = ", ".join(f"{one.id} by {one.by}" for one in unknown)
            yield f"{names} for attempt {attempt} of {row_id}, made by processes that held the row"


def strays_are_charged(evidence: Evidence) -> Iterator[str]:
    """What was collected has been paid for, and the ledger says so."""
    held = {(view.row.id, one.resource) for view in evidence.rows for one in view.held}
    rows = {view.row.id for view in evidence.rows}
    charged: Counter[str] = Counter()
    for line in evidence.lines:
        if line.posting.kind == "collect":
            charged[line.posting.reason] += line.posting.spent
    for one in evidence.ours():
        row_id = one.owner[0]
        if one.kind != "job" or (row_id, one.id) in held or row_id not in rows or one.removed_by_others:
            continue
        # Charged at the moment before the removal, which a process may sleep through.
        slept = one.hourly * evidence.slept_s / 3600.0
        if charged[f"stray {one.id}"] < int(one.cost - slept) - 1 or (one.cost >= 1 and not charged[f"stray {one.id}"]):
            yield f"{one.id}, which {row_id} did not know, cost {one.cost:.0f}, charged {charged[f'stray {one.id}']}"


def resources_are_their_own(evidence: Evidence) -> Iterator[str]:
    """What an attempt calls its own was made for it, by the tags that were in its create call."""
    made = {one.id: one for one in evidence.ours() if one.kind == "job"}
    for view in evidence.rows:
        for held in view.held:
            one = made.get(held.resource)
            if one is not None and one.owner != (view.row.id, held.attempt):
                yield f"attempt {held.attempt} of {view.row.id} took {one.id}, which was made for {one.owner}"
            if held.resource and one is None:
                yield f"attempt {held.attempt} of {view.row.id} holds {held.resource}, which never existed"


def charged_once(evidence: Evidence) -> Iterator[str]:
    """What an attempt has paid for in full is not paid for again as a stray, and no stray twice."""
    made = {one.id: one for one in evidence.ours()}
    known = {held.resource for view in evidence.rows for held in view.held}
    settled = {
        (line.work_id, line.posting.attempt): line.at for line in evidence.lines if line.posting.kind == "settle"
    }
    strays = [line for line in evidence.lines if line.posting.kind == "collect"]
    for line in strays:
        resource = line.posting.reason.removeprefix("stray ")
        one = made.get(resource)
        if one is None or one.kind != "job" or resource not in known or not line.posting.spent:
            continue
        if min(one.ended_at, one.gone_at) <= settled.get(one.owner, 0.0):
            yield f"{resource} was charged to its attempt and {line.posting.spent} again as a stray"
    reserved = {
        (line.work_id, line.posting.attempt): line.at for line in evidence.lines if line.posting.kind == "reserve"
    }
    for view in evidence.rows:
        asked = {held.attempt: held.asked_at for held in view.held}
        sums: Counter[str] = Counter()
        for line in strays:
            if line.work_id != view.row.id or view.row.kind != "job":
                continue
            sums[line.posting.reason] += line.posting.spent
            since = min(
                asked.get(line.posting.attempt, line.at), reserved.get((line.work_id, line.posting.attempt), line.at)
            )
            one = made.get(line.posting.reason.removeprefix("stray "))
            longest = one.hourly * (line.at - since + _SLACK_S) / 3600.0 if one else 0.0
            if one and since < line.at and sums[line.posting.reason] > longest:
                yield f"{one.id} can have cost {longest:.0f}, charged as a stray: {sums[line.posting.reason]}"


def one_attempt_at_a_time(evidence: Evidence) -> Iterator[str]:
    """The next attempt's resource is made after the one before has ended for certain."""
    made = {one.id: one for one in evidence.ours()}
    for view in evidence.rows:
        known = [made[held.resource] for held in view.held if held.resource in made]
        for first, second in zip(known, known[1:], strict=False):
            if first.id != second.id and second.created_at < min(first.ended_at, first.gone_at):
                yield f"{second.id} was made while {first.id} of the attempt before lived ({view.row.id})"


def every_create_is_tagged(evidence: Evidence) -> Iterator[str]:
    """Owner tags and an end of its own are in the create call itself, so that our own death costs a bounded sum."""
    for one in evidence.resources:
        missing = [tag for tag in (TAG_INSTALL, TAG_OWNER, TAG_ATTEMPT, TAG_EXPIRES) if tag not in one.tags]
        if missing:
            yield f"{one.id} was created without {', '.join(missing)}"
        if not 0 < one.max_run_s < NEVER:
            yield f"{one.id} was created without a maximum run time"


def foreign_untouched(evidence: Evidence) -> Iterator[str]:
    """What other installations made in the same account is neither stopped nor deleted."""
    foreign = {one.id for one in evidence.resources if one.tags.get(TAG_INSTALL) not in (evidence.install, None)}
    for call in evidence.calls:
        if call.target in foreign and call.operation in ("stop", "delete", "put"):
            yield f"{call.by} called {call.operation} on {call.target} of another installation"


def retry_after_obeyed(evidence: Evidence) -> Iterator[str]:
    """A process that was told when to come back does not come sooner."""
    shut: dict[tuple[str, str], float] = {}
    for call in evidence.calls:
        key = call.by, call.place
        if call.at < shut.get(key, 0.0) - 1e-6:
            yield f"{call.by} called {call.operation} {shut[key] - call.at:.2f} s before it was told to come back"
            return
        if call.answer.startswith("throttled:"):
            shut[key] = max(shut.get(key, 0.0), call.at + float(call.answer.partition(":")[2]))


# -- money ------------------------------------------------------------------------------------------------------------


def ledger_balances(evidence: Evidence) -> Iterator[str]:
    """Each attempt reserves first, never spends more than it reserved, and is settled exactly once, with nothing left held."""
    lines: dict[tuple[str, int], list[Line]] = defaultdict(list)
    for line in evidence.lines:
        if line.posting.kind != "collect":
            lines[line.work_id, line.posting.attempt].append(line)
    for (row_id, attempt), own in lines.items():
        where = f"attempt {attempt} of {row_id}"
        kinds = [line.posting.kind for line in own]
        if kinds[0] != "reserve" or kinds.count("reserve") > 1:
            yield f"{where}: {', '.join(kinds)}"
        if kinds.count("settle") != 1 or kinds[-1] != "settle":
            yield f"{where} was settled {kinds.count('settle')} times: {', '.join(kinds)}"
        held = spent = running = hourly = 0
        reserved = sum(line.posting.held for line in own if line.posting.kind == "reserve")
        for line in own:
            held += line.posting.held
            spent += line.posting.spent
            running += line.posting.running
            hourly += line.posting.hourly
            if held < 0 or line.posting.spent < 0 or held + spent > reserved:
                yield f"{where} holds {held} and has spent {spent} of {reserved} at line {line.seq}"
                break
        if held or running or hourly:
            yield f"{where} ends with {held} held, {running} running, {hourly} an hour"


def charged_what_it_cost(evidence: Evidence) -> Iterator[str]:
    """The ledger is never below the platform's bill. Above it only by time in which nobody could know of the end."""
    made = {one.id: one for one in evidence.ours()}
    spent: Counter[tuple[str, int]] = Counter()
    times: dict[str, dict[tuple[str, int], float]] = {"reserve": {}, "settle": {}}
    for line in evidence.lines:
        if line.posting.kind == "collect":
            continue
        key = line.work_id, line.posting.attempt
        spent[key] += line.posting.spent
        if line.posting.kind in times:
            times[line.posting.kind][key] = line.at
    for view in evidence.rows:
        if view.row.kind != "job":
            continue
        for held in view.held:
            one, key = made.get(held.resource), (view.row.id, held.attempt)
            if one is None or one.owner != key or key not in times["settle"]:
                continue
            if spent[key] < int(one.cost) - 1:
                yield f"attempt {held.attempt} of {view.row.id} cost {one.cost:.0f}, the ledger says {spent[key]}"
            longest = one.hourly * (times["settle"][key] - (held.asked_at or times["reserve"][key])) / 3600.0
            if spent[key] > longest + one.hourly * _SLACK_S / 3600.0:
                yield f"attempt {held.attempt} of {view.row.id} can have cost {longest:.0f}, ledger: {spent[key]}"


_SLACK_S = 1.0
"""Calls take time between the decision and the platform's own clock."""


def settled_when_gone(evidence: Evidence) -> Iterator[str]:
    """Money is released only after the resource has stopped to cost any."""
    if not evidence.lifetimes:
        return
    settled = {
        (line.work_id, line.posting.attempt): line.at for line in evidence.lines if line.posting.kind == "settle"
    }
    rows = {view.row.id: view for view in evidence.rows}
    for one in evidence.ours():
        if one.kind != "job" or one.owner not in settled:
            continue
        known = any(held.resource == one.id for held in rows[one.owner[0]].held)
        at = settled[one.owner]
        if one.created_at <= at < min(one.ended_at, one.gone_at) and (known or not one.stale):
            yield f"{one.id} of {one.owner} was settled {min(one.ended_at, one.gone_at) - at:.1f} s before its end"


def limits_are_sums(evidence: Evidence) -> Iterator[str]:
    """What a limit says is taken is what the ledger adds up to."""
    scopes = {view.row.id: view.row.scopes for view in evidence.rows}
    for limit in evidence.limits:
        total = replace(limit, held=0, spent=0)
        for line in evidence.lines:
            if limit.scope in scopes.get(line.work_id, ()):
                total = total.with_posting(line.posting)
        if (total.held, total.spent) != (limit.held, limit.spent):
            yield f"{limit.name} says {limit.held} + {limit.spent}, the ledger {total.held} + {total.spent}"


def limits_hold(evidence: Evidence) -> Iterator[str]:
    """No reservation went past a limit in force."""
    scopes = {view.row.id: view.row.scopes for view in evidence.rows}
    limits: dict[tuple[str, Meter, Period], Limit] = {}
    changes = sorted(evidence.limits_set, key=lambda change: change.after_seq)
    for line in (*evidence.lines, None):
        while changes and (line is None or changes[0].after_seq < line.seq):
            change = changes.pop(0)
            fresh = Limit(
                scope=change.scope, meter=change.meter, period=change.period, most=change.most, month=change.month
            )
            before = limits.get((change.scope, change.meter, change.period))
            limits[change.scope, change.meter, change.period] = (
                replace(before, most=change.most) if before else _summed(fresh, evidence, change.after_seq, scopes)
            )
        if line is None:
            return
        for key, limit in limits.items():
            if limit.scope not in scopes.get(line.work_id, ()):
                continue
            limits[key] = after = limit.with_posting(line.posting)
            if line.posting.kind == "reserve" and after.taken > limit.most and after.taken > limit.taken:
                yield f"line {line.seq} took {limit.name} to {after.taken} of {limit.most}"


def _summed(limit: Limit, evidence: Evidence, until: int, scopes: Mapping[str, Sequence[str]]) -> Limit:
    for line in evidence.lines[:until]:
        if limit.scope in scopes.get(line.work_id, ()):
            limit = limit.with_posting(line.posting)
    return limit


def concurrency_holds(evidence: Evidence) -> Iterator[str]:
    """On the platform itself there are never more than a limit on numbers lets exist. Strays are counted apart."""
    reserved = {
        (line.work_id, line.posting.attempt): line.seq for line in evidence.lines if line.posting.kind == "reserve"
    }
    rows = {view.row.id: view for view in evidence.rows}
    known = [
        one
        for one in evidence.ours()
        if one.kind == "job"
        and one.owner in reserved
        and any(held.resource == one.id for held in rows[one.owner[0]].held)
    ]
    for number, change in enumerate(evidence.limits_set):
        if change.meter != "running":
            continue
        until = next(
            (later.after_seq for later in evidence.limits_set[number + 1 :] if later[1:4] == change[1:4]), NEVER
        )
        mine = [one for one in known if change.scope in rows[one.owner[0]].row.scopes]
        for one in mine:
            seq = reserved[one.owner]
            if not change.after_seq < seq <= until:
                continue
            at = one.created_at
            together = [
                other.id
                for other in mine
                if reserved[other.owner] <= seq and other.created_at <= at < min(other.ended_at, other.gone_at)
            ]
            if len(together) > change.most:
                yield f"{', '.join(together)} live together, {change.most} are allowed"


PROMISES: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    every_row_ends,
    nothing_is_lost,
    one_end,
    one_version,
    tokens_only_grow,
    leases_last,
    every_phase_understood,
    failures_have_causes,
    user_errors_are_not_repeated,
    no_orphan,
    no_duplicate,
    strays_are_charged,
    resources_are_their_own,
    charged_once,
    one_attempt_at_a_time,
    every_create_is_tagged,
    foreign_untouched,
    retry_after_obeyed,
    ledger_balances,
    charged_what_it_cost,
    settled_when_gone,
    limits_are_sums,
    limits_hold,
    concurrency_holds,
)
