"""Bugs planted on purpose, one at a time, in the running code: each must be caught by the simulator.

Most are bugs that other systems had, or still have; the incident is named. Some were ours until the simulator found them.
``python -m tests.simulation.mutants`` prints, for each, the first seed that catches it, the share of schedules that do, and by
which promise.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from ml_toolbox.base.errors import BudgetExceeded, NotFound, ToolboxError, Unavailable
from ml_toolbox.domain.jobs import FailureDigest, JobState
from ml_toolbox.engine import absence, charges, collection, ledger, pacing
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.engine.workflow import OBSERVE, Decision, Done, Failed
from ml_toolbox.features.training import attempts, life
from ml_toolbox.features.training.records import data_of, order_of, plain
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.jobs import JobObservation
from ml_toolbox.testing import memory_store
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.simulator.profile import draw
from ml_toolbox.testing.simulator.simulation import Simulation
from tests.simulation.binding import Toolbox

Apply = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug."""

    name: str
    why: str
    """What it costs, or who had it."""
    apply: Apply
    seeds: int = 1_500
    """Schedules within which it must be caught."""
    trouble: Mapping[str, Any] = field(default_factory=dict)
    """What the schedules are full of, where the bug needs two rare things at once."""


MUTANTS: list[Mutant] = []


def mutant(name: str, why: str, *, seeds: int = 1_500, **trouble: float) -> Callable[[Apply], Apply]:
    def add(apply: Apply) -> Apply:
        MUTANTS.append(Mutant(name=name, why=why, apply=apply, seeds=seeds, trouble=trouble))
        return apply

    return add


# -- the store --------------------------------------------------------------------------------------------------------


@mutant(
    "no fencing", "two controllers write one row: SkyPilot added claim tokens for this in 2026 (sky/jobs/fencing.py)"
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._written

    def written(self: MemoryStore, write: Write, lease_s: float) -> Any:
        held = self._rows[write.row.id]
        return original(self, replace(write, row=replace(write.row, lease_token=held.lease_token)), lease_s)

    patch.setattr(MemoryStore, "_written", written)


@mutant("a living lease is taken", "two controllers work on one row all the time")
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._claimed

    def claimed(self: MemoryStore, row: Row, owner: str, lease_s: float, is_dead: Any) -> Row | None:
        return original(self, replace(row, lease_owner=""), owner, lease_s, is_dead)

    patch.setattr(MemoryStore, "_claimed", claimed)


@mutant("record outside the transaction", "the row says what the ledger never hears of when the writer dies in between")
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._written

    def written(self: MemoryStore, write: Write, lease_s: float) -> Any:
        if write.change is None or not write.change.postings:
            return original(self, write, lease_s)
        postings = write.change.postings
        if any(posting.kind == "reserve" for posting in postings):
            return original(self, write, lease_s)
        result = original(self, replace(write, change=replace(write.change, postings=())), lease_s)
        if isinstance(result, Row):
            crash_point("mutant")
            self._post(result, postings, self.now())
        return result

    patch.setattr(MemoryStore, "_written", written)


@mutant("ledger before the row", "a line is written twice when the writer dies in between, and its step is done again")
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._written

    def written(self: MemoryStore, write: Write, lease_s: float) -> Any:
        held = self._rows[write.row.id]
        if write.change is None or not write.change.postings or held.lease_token != write.row.lease_token:
            return original(self, write, lease_s)
        try:
            self._post(held, write.change.postings, self.now())
        except BudgetExceeded as refused:
            return refused
        crash_point("mutant")
        return original(self, replace(write, change=replace(write.change, postings=())), lease_s)

    patch.setattr(MemoryStore, "_written", written)


@mutant(
    "budget checked outside the transaction",
    "two submits see the same free money: the classic race of quota checks",
    seeds=6_000,
)
def _(patch: pytest.MonkeyPatch) -> None:
    insert = MemoryStore.insert

    def unchecked(limits: Any, postings: Sequence[ledger.Posting]) -> ledger.Posted:
        roomy = [replace(limit, most=limit.most + 10**15) for limit in limits]
        done = ledger.posted(roomy, postings)
        kept = tuple(replace(limit, most=limit.most - 10**15) for limit in done.limits)
        return ledger.Posted(limits=kept, warnings=())

    def checked_first(self: MemoryStore, row: Row, **values: Any) -> Row:
        postings = values.get("postings", ())
        ledger.posted([limit for limit in self.limits() if limit.scope in row.scopes], postings)
        crash_point("mutant")
        return insert(self, row, **values)

    write = MemoryStore.write

    def written(self: MemoryStore, writes: Sequence[Write], *, lease_s: float) -> Any:
        for one in writes:
            try:
                ledger.posted(
                    [limit for limit in self.limits() if limit.scope in one.row.scopes],
                    one.change.postings if one.change else (),
                )
            except BudgetExceeded as refused:
                return [refused] * len(writes)
        crash_point("mutant")
        return write(self, writes, lease_s=lease_s)

    patch.setattr(memory_store, "posted", unchecked)
    patch.setattr(MemoryStore, "insert", checked_first)
    patch.setattr(MemoryStore, "write", written)


@mutant(
    "wish overwritten", "a cancel during recovery said 'cleaned up' and the cluster leaked (skypilot-org/skypilot#4410)"
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._written

    def written(self: MemoryStore, write: Write, lease_s: float) -> Any:
        result = original(self, write, lease_s)
        if isinstance(result, Row):
            self._rows[result.id] = result = replace(result, wish=write.row.wish)
        return result

    patch.setattr(MemoryStore, "_written", written)


@mutant("wish slept through when its reader dies", "ours, found by the simulator", crash=0.12, meddles=0.5, deletes=1.0)
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._written

    def written(self: MemoryStore, write: Write, lease_s: float) -> Any:
        result = original(self, write, lease_s)
        if isinstance(result, Row) and write.change is not None:
            self._rows[result.id] = result = replace(result, due_at=write.change.due_at)
        return result

    patch.setattr(MemoryStore, "_written", written)


@mutant("time of the host", "leases and windows by clocks that are ten minutes apart")
def _(patch: pytest.MonkeyPatch) -> None:
    skew = [0.0]
    run = Simulation._run

    def with_skew(self: Simulation, process: Any) -> None:
        before, skew[0] = skew[0], process.around.clock.skew_s
        run(self, process)
        skew[0] = before

    patch.setattr(Simulation, "_run", with_skew)
    patch.setattr(MemoryStore, "now", lambda self: self.clock.now() + skew[0])


@mutant("a limit forgets what is settled by others", "a budget read before and written after: the last writer wins")
def _(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore._post

    def post(self: MemoryStore, row: Row, postings: Sequence[ledger.Posting], now: float) -> tuple[str, ...]:
        before = dict(self._limits)
        warnings = original(self, row, postings, now)
        if any(posting.kind == "settle" for posting in postings):
            self._limits = before
        return warnings

    patch.setattr(MemoryStore, "_post", post)


# -- creating ---------------------------------------------------------------------------------------------------------


class _Changed:
    """A backend of which one method is another."""

    def __init__(self, backend: Any, **methods: Any) -> None:
        self._backend = backend
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@mutant(
    "fresh token",
    "a token drawn anew for each call: neither SkyPilot nor dstack passes a stable one; 98 orphans of 200 jobs",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = JobWorkflow._submit
    numbers = itertools.count()

    def submit(self: JobWorkflow, row: Row, backend: Any) -> str:
        def anew(request: Any, token: str) -> str:
            return str(backend.submit(replace(request, name=f"{request.name}-{next(numbers)}"), f"{next(numbers)}"))

        return original(self, row, _Changed(backend, submit=anew))

    patch.setattr(JobWorkflow, "_submit", submit)


@mutant("token of the job, not of the attempt", "hands back the dead instance (boto/boto3#4406, harbor#2346)")
def _(patch: pytest.MonkeyPatch) -> None:
    original = attempts.token_of
    patch.setattr(attempts, "token_of", lambda install, row, attempt, spec: original(install, row, 1, spec))


@mutant(
    "tags after create",
    "a user's own tag, or a death in between, hides the machine: 124 for 2 (cluster-api-provider-aws#4629)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = JobWorkflow.request

    def request(self: JobWorkflow, *values: Any) -> Any:
        return replace(original(self, *values), tags={})

    patch.setattr(JobWorkflow, "request", request)


@mutant(
    "no maximum run time", "autodown was set after launch, so a cancel in between leaked (skypilot-org/skypilot#4410)"
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = JobWorkflow.request

    def request(self: JobWorkflow, *values: Any) -> Any:
        return replace(original(self, *values), max_run_s=float("inf"))

    patch.setattr(JobWorkflow, "request", request)


@mutant(
    "timeout = failed",
    "a live task was marked crashed on a submit timeout, and launched twice (PrefectHQ/prefect#13020)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._not_created

    def not_created(row: Row, data: Any, order: Any, effect: Any, error: ToolboxError, now: float) -> Decision:
        if isinstance(error, Unavailable) and effect.name == "submit":
            return life._never_was(row, data, order, life._refusal(error), now)
        return original(row, data, order, effect, error, now)

    patch.setattr(life, "_not_created", not_created)


@mutant(
    "a refusal after an unknown outcome is certain",
    "ours, found by the simulator: the job failed and its resource ran on",
    seeds=4_000,
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._not_created

    def not_created(row: Row, data: Any, order: Any, effect: Any, error: ToolboxError, now: float) -> Decision:
        if isinstance(error, life._REFUSALS) and effect.name == "submit":
            return life._never_was(row, data, order, life._refusal(error), now)
        return original(row, data, order, effect, error, now)

    patch.setattr(life, "_not_created", not_created)


@mutant(
    "the window begins at the intent",
    "ours, found by the simulator: a late call's resource came up after two looks",
    seeds=12_000,
)
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(life, "_tried", lambda data, now: data)


@mutant(
    "creates again without looking",
    "where calls are not recognised, each restart makes one more (cluster-api-provider-aws#5794)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._resolve

    def resolve(row: Row, data: Any, order: Any, now: float) -> Decision:
        repeats = replace(order, idempotency=replace(order.idempotency, kind="token"))
        return original(row, data, repeats, now)

    patch.setattr(life, "_resolve", resolve)


@mutant(
    "the id is written later",
    "a deferred write of the id was lost, and the first machine leaked (cluster-api-provider-aws#6131)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    created = life._created

    def forgets(row: Row, data: Any, resource: str, message: str, now: float) -> Decision:
        decision = created(row, data, resource, message, now)
        if message.startswith("created") and row.lease_token % 3 == 0:  # the write that is lost
            late = life._another(row, data, order_of(row), _lost(), now, ())
            return late
        return decision

    def _lost() -> Any:
        return FailureDigest(kind="preempted", cause="conflict while writing the id")

    patch.setattr(life, "_created", forgets)


# -- looking ----------------------------------------------------------------------------------------------------------


@mutant(
    "404 = gone at once",
    "Describe showed nothing of a living machine; a second was made (cluster-api-provider-aws#2915)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(absence.Absence, "noticed", lambda self, now, **_: replace(self, sightings=2, last_at=now))


@mutant("absence counts inside the visibility window", "the same, twice in a row within a second")
def _(patch: pytest.MonkeyPatch) -> None:
    def noticed(self: Any, now: float, *, since: float, window_s: float) -> Any:
        return replace(self, sightings=self.sightings + 1, last_at=now)

    patch.setattr(absence.Absence, "noticed", noticed)
    patch.setattr(absence.Absence, "next_look_at", lambda self, now, **_: now)


@mutant(
    "one row's lack of an answer is another's absence",
    "an empty list, because the call failed, read as 'nothing there'",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = JobWorkflow.perform

    def perform(self: JobWorkflow, row: Row, effect: Any) -> Any:
        try:
            return original(self, row, effect)
        except Unavailable:
            if effect.name == "look-up":
                return []
            raise

    patch.setattr(JobWorkflow, "perform", perform)
    patch.setattr(absence.Absence, "certain", property(lambda self: self.sightings >= 1))


@mutant(
    "message-text matching", "a reworded message broke upsert: 40 % of recorded failures (sagemaker-python-sdk#6256)"
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._active

    def active(row: Row, data: Any, order: Any, event: Any, now: float) -> Decision:
        if isinstance(event, Failed) and event.effect == OBSERVE:
            text = event.error.message
            if "terminated" in text or "does not exist" in text or "not found" in text:
                gone = replace(data, attempts=(*data.attempts[:-1], _seen_gone(data.attempt, now)))
                return original(row, gone, order, Failed(OBSERVE, NotFound(text)), now)
        return original(row, data, order, event, now)

    def _seen_gone(attempt: Any, now: float) -> Any:
        return replace(attempt, absence=absence.Absence(sightings=2, last_at=now))

    patch.setattr(life, "_active", active)


@mutant("Retry-After ignored", "throttled callers that come back at once keep an account throttled")
def _(patch: pytest.MonkeyPatch) -> None:
    original = pacing.Pacer.throttled
    patch.setattr(pacing.Pacer, "throttled", lambda self, key, _=None: original(self, key, None))


@mutant("user errors are retried", "a typo is paid for as often as there are retries")
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._another

    def another(row: Row, data: Any, order: Any, failure: Any, now: float, postings: Any) -> Decision:
        rule = replace(order.job.retry, user_error=5)
        return original(row, data, replace(order, job=replace(order.job, retry=rule)), failure, now, postings)

    patch.setattr(life, "_another", another)


# -- ending -----------------------------------------------------------------------------------------------------------


@mutant("record before delete", "marked terminated without terminating (dstackai/dstack#1551)")
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._delete

    def delete(row: Row, data: Any, now: float, postings: Any = ()) -> Decision:
        decision = original(row, data, now, postings)
        if decision.effect is None:
            return decision
        fresh, settled = attempts.settled(data, order_of(row), data.observation, now, "deleted")
        gone = Change(
            phase=life.Phase.DELETED,
            state=row.state,
            data=plain(fresh),
            ended=True,
            message="deleted",
            postings=(*postings, *settled),
        )
        return Decision(change=gone, effect=decision.effect)

    patch.setattr(life, "_delete", delete)


@mutant(
    "gives up on delete",
    "after 15 minutes: 'Please terminate the instance manually' (dstack, instances/termination.py)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._later

    def later(row: Row, data: Any, error: ToolboxError, now: float, phase: Any) -> Decision:
        if phase == life.Phase.DELETING and data.tries >= 1:
            return life._deleted_one(row, data, order_of(row), _stopped(), now)
        return original(row, data, error, now, phase)

    def _stopped() -> Any:
        return JobObservation(state=JobState.STOPPED)

    patch.setattr(life, "_later", later)


@mutant(
    "an accepted deletion is a deletion",
    "a machine goes on after its deletion was accepted (aws/karpenter-provider-aws#549)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._deleting

    def deleting(row: Row, data: Any, order: Any, event: Any, now: float) -> Decision:
        if isinstance(event, Done):
            return life._deleted_one(row, data, order, JobObservation(state=JobState.STOPPED), now)
        return original(row, data, order, event, now)

    patch.setattr(life, "_deleting", deleting)


@mutant("settles before it is proved gone", "the budget is free again while the machine still runs")
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._deleting

    def deleting(row: Row, data: Any, order: Any, event: Any, now: float) -> Decision:
        decision = original(row, data, order, event, now)
        if not isinstance(event, Done):
            return decision
        last = data.observation or JobObservation(state=JobState.STOPPED)
        fresh, postings = attempts.settled(data_of(replace(row, data=decision.change.data)), order, last, now, "sent")
        change = replace(decision.change, data=plain(fresh), postings=(*decision.change.postings, *postings))
        return replace(decision, change=change)

    patch.setattr(life, "_deleting", deleting)


@mutant("settles twice", "double charge: what has ended is settled again when it is deleted")
def _(patch: pytest.MonkeyPatch) -> None:
    original = charges.settle

    def settle(attempt: int, charge: Any, **values: Any) -> Any:
        settled, postings = original(attempt, replace(charge, open=True), **values)
        return settled, postings

    patch.setattr(charges, "settle", settle)


@mutant("what vanished has cost nothing", "ours, found by the simulator: deleted before it was ever looked at")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "vanished_s", lambda attempt, order, last, now: (last.billed_s or 0.0) if last else 0.0)


@mutant("the next attempt does not wait", "the old attempt's deletion is only asked for: two run at once")
def _(patch: pytest.MonkeyPatch) -> None:
    original = life._not_found

    def not_found(row: Row, data: Any, order: Any, now: float) -> Decision:
        certain = replace(data.attempt, absence=absence.Absence(sightings=2, last_at=now))
        return original(row, replace(data, attempts=(*data.attempts[:-1], certain)), order, now)

    patch.setattr(life, "_not_found", not_found)


@mutant("registers again", "the record is doubled after a crash: 3 to 11 of 200 in a durable-execution library")
def _(patch: pytest.MonkeyPatch) -> None:
    original = Simulation.register

    def register(self: Simulation, job_id: str, name: str) -> str:
        others = [entry for entry in self.registered if entry[0] == job_id]
        self.registered = [entry for entry in self.registered if entry[0] != job_id]
        try:
            return original(self, job_id, name)
        finally:
            self.registered = [*others, *self.registered]

    patch.setattr(Simulation, "register", register)


# -- collecting -------------------------------------------------------------------------------------------------------


@mutant("collects what others made", "accounts are shared by several servers (dstackai/dstack#3453)")
def _(patch: pytest.MonkeyPatch) -> None:
    def resources(self: JobWorkflow, place: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        return self._backends(place).list_by_tag({})

    patch.setattr(JobWorkflow, "resources", resources)


@mutant(
    "collects what is being created",
    "overlapping deletes took a machine that was just coming up (karpenter-provider-gcp#242)",
)
def _(patch: pytest.MonkeyPatch) -> None:
    def owns(self: JobWorkflow, row: Row, resource: str, attempt: int, now: float) -> bool:
        return any(one.resource == resource for one in data_of(row).attempts)

    patch.setattr(JobWorkflow, "owns", owns)


@mutant("rows are read before the list", "what was recorded in between is taken for a stray", seeds=6_000)
def _(patch: pytest.MonkeyPatch) -> None:
    original = collection.Collector.compare
    find = collection.Collector._rows

    def compare(self: collection.Collector) -> Any:
        rows = {row.id: row for row in self._store.find(None, limit=100_000)}
        crash_point("mutant")
        patch.setattr(collection.Collector, "_rows", lambda _, ids: {one: rows[one] for one in ids if one in rows})
        try:
            return original(self)
        finally:
            patch.setattr(collection.Collector, "_rows", find)

    patch.setattr(collection.Collector, "compare", compare)


@mutant("nothing is collected", "GC is part of correctness: a call that comes late leaves what no row will ever name")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collection.Collector, "collect", lambda self: self.compare())


@mutant("what is collected is not charged", "money that was spent is missing from the costs", seeds=4_000)
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collection.Collector, "_charged", lambda self, kind, stray: None)


def caught(one: Mutant, seeds: Sequence[int] | range, *, stop: bool = True) -> tuple[list[int], Counter[str], int]:
    """Seeds that catch it, by which promises, and how many were run."""
    found: list[int] = []
    promises: Counter[str] = Counter()
    ran = 0
    with pytest.MonkeyPatch.context() as patch:
        one.apply(patch)
        for seed in seeds:
            ran += 1
            profile = replace(draw(Random(seed)), **one.trouble) if one.trouble else None
            violations = Simulation(seed, Toolbox(), profile=profile).run().violations
            if violations:
                found.append(seed)
                promises.update({violation.promise for violation in violations})
                if stop:
                    break
    return found, promises, ran


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000, help="schedules for each")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    survivors = 0
    print("| planted bug | first seed | share of schedules | caught by | why |\n|---|---|---|---|---|")
    for one in MUTANTS:
        if arguments.names and one.name not in arguments.names:
            continue
        began = time.monotonic()
        found, promises, ran = caught(one, range(max(arguments.count, 1)), stop=False)
        if not found:
            found, promises, ran = caught(one, range(one.seeds))
        survivors += not found
        by = ", ".join(promise for promise, _ in promises.most_common(2))
        share = f"{len(found) / ran:.2%}" if found else "SURVIVES"
        print(f"| {one.name} | {found[0] if found else '-'} | {share} | {by} | {one.why} |", flush=True)
        print(f"{one.name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(f"{len(MUTANTS)} planted, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
