"""The one runner: claims rows, lets their workflow decide, writes the decisions under the lease, then acts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ml_toolbox.base.errors import BudgetExceeded, Bug, Throttled, ToolboxError
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.keeper import Keeper
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.engine.store import Store
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
    Workflow,
)

_MAX_STEPS = 100
"""Decisions in a row before a workflow that never rests is called a bug (a job's longest path has about ten)."""
_SICK_S = 600.0
"""Pause before a row that this release cannot understand is looked at again."""
BATCH = 500
"""Rows claimed, looked at and written together. Larger batches save little and make others wait for the write lock."""


class KeepsLeases(Protocol):
    """What a :class:`Keeper` offers the runner."""

    def keeping(self) -> AbstractContextManager[None]: ...


class _Step(NamedTuple):
    """A row, what happened to it, and what is to be done about it."""

    row: Row
    event: Event
    decision: Decision


class Runner:
    """Drives rows. Any number of runners may work on one store, in any number of processes and threads.

    Args:
        lease_s: how long a claim holds. A keeper renews it while an effect is under way. The holder's death on this host
            frees the row at once; a holder that is merely paused for longer loses its right to write, never the row its
            meaning.
        pacer: holds calls back to what each platform takes.
        owner: id of this runner among all; must differ from every other's.
    """

    def __init__(
        self,
        store: Store,
        workflows: Iterable[Workflow],
        *,
        lease_s: float = 60.0,
        pacer: Pacer | None = None,
        keeper: KeepsLeases | None = None,
        owner: str | None = None,
    ) -> None:
        self._store = store
        self._workflows = {workflow.kind: workflow for workflow in workflows}
        self._lease_s = lease_s
        self._pacer = pacer or Pacer()
        self.owner = owner or this_owner()
        self._keeper = keeper or Keeper(lambda: store.renew(self.owner, lease_s=lease_s), every_s=lease_s / 3)

    def insert(self, row: Row, postings: Sequence[Posting] = ()) -> Row:
        """Write the intent with the money it may cost, then drive the row until it rests. Returns it as last seen.

        Raises ``BudgetExceeded`` when a limit refuses; nothing is written then.
        """
        crash_point("before:insert")
        written = self._store.insert(row, owner=self.owner, lease_s=self._lease_s, postings=postings)
        crash_point("after:insert:before:act")
        return self._advance(written, Inserted())

    def drive(self, row_id: str) -> Row:
        """Claim the row, due or not, and drive it until it rests. Held by another: returns it as it is."""
        row = self._store.claim(row_id, owner=self.owner, lease_s=self._lease_s, is_dead=is_dead)
        return self._store.get(row_id) if row is None else self._advance(row, Claimed())

    def tick(
        self, kinds: Collection[str] | None = None, *, executor: Executor | None = None, batch: int = BATCH
    ) -> int:
        """Drive every row that is due now and free. Returns how many were driven.

        Rows that only have to be looked at are looked at and written together; each of the others is driven alone, on
        ``executor`` when one is given.
        """
        driven, began = 0, self._store.now()
        while True:
            rows = self._store.claim_due(
                kinds or tuple(self._workflows),
                owner=self.owner,
                lease_s=self._lease_s,
                is_dead=is_dead,
                due_before=began,
                limit=batch,
            )
            driven += len(rows)
            self._drive_together(rows, executor)
            if len(rows) < batch:
                return driven

    def _drive_together(self, rows: Sequence[Row], executor: Executor | None) -> None:
        now = self._store.now()
        steps = [self._decided(row, Claimed(), now) for row in rows]
        with self._keeper.keeping():
            looking = [step for step in steps if step.decision.effect is OBSERVE and not _writes(step)]
            steps = [step for step in steps if step.decision.effect is not OBSERVE or _writes(step)]
            steps += self._looked(looking)
            resting = [step for step in steps if step.decision.effect is None]
            unfinished = self._write(resting)
            acting = [*unfinished, *(step for step in steps if step.decision.effect is not None)]
            if executor is None:
                for step in acting:
                    self._go_on(step)
            else:
                list(executor.map(self._go_on, acting))

    def _looked(self, looking: Sequence[_Step]) -> list[_Step]:
        """Observe the rows of each kind and place together."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for step in looking:
            groups[step.row.kind, step.row.place].append(step.row)
        seen = []
        for (kind, place), rows in groups.items():
            crash_point("before:observe")
            self._pacer.wait(place)
            values = self._observations(kind, rows)
            now = self._store.now()
            for row, value in zip(rows, values, strict=True):
                event = Failed(OBSERVE, value) if isinstance(value, ToolboxError) else Observed(value)
                self._learn(place, event)
                seen.append(self._decided(row, event, now))
        return seen

    def _observations(self, kind: str, rows: Sequence[Row]) -> Sequence[Any]:
        try:
            values = self._workflows[kind].observe_many(rows)
        except Exception as error:  # noqa: BLE001 - the loop's edge, as in _execute
            bug = Bug(f"observe of {len(rows)} rows of kind {kind}: {type(error).__name__}: {error}")
            bug.__cause__ = error
            return [bug] * len(rows)
        if len(values) != len(rows):
            return [Bug(f"{kind}: {len(values)} observations of {len(rows)} rows")] * len(rows)
        return values

    def _write(self, steps: Sequence[_Step]) -> list[_Step]:
        """Write decisions without an effect in one transaction; returns those that are not at rest yet."""
        if not steps:
            return []
        for step in steps:
            crash_point(f"after:{label(step.event)}:before:record")
        written = self._store.write([_as_write(step, release=True) for step in steps], lease_s=self._lease_s)
        unfinished = []
        for step, result in zip(steps, written, strict=True):
            crash_point(f"after:record:{label(step.event)}")
            if isinstance(result, BudgetExceeded):
                unfinished.append(self._decided(step.row, Refused(result), self._store.now()))
            elif result is not None and result.wish != step.row.wish:
                unfinished.append(self._decided(result, Claimed(), self._store.now()))
        return unfinished

    def _advance(self, row: Row, event: Event) -> Row:
        return self._go_on(self._decided(row, event, self._store.now()))

    def _go_on(self, step: _Step) -> Row:
        """Write, act, decide, write, … until the row rests."""
        for _ in range(_MAX_STEPS):
            row, event, decision = step
            effect = decision.effect
            crash_point(f"after:{label(event)}:before:record")
            if effect is not None and not _writes(step) and row.lease_until - self._store.now() > self._lease_s / 2:
                written: Row | BudgetExceeded | None = row  # nothing to say, and the lease is fresh: one sync is saved
            else:
                write = _as_write(step, release=effect is None)
                written = self._store.write([write], lease_s=self._lease_s)[0]
            if written is None:
                # The lease went to somebody else while we were away: what they wrote is the truth.
                return self._store.get(row.id)
            crash_point(f"after:record:{label(event)}")
            if isinstance(written, BudgetExceeded):
                event = Refused(written)
            elif effect is AGAIN:
                event = Claimed()
            elif effect is not None:
                event = self._execute(self._workflows[row.kind], written, effect)
            elif written.wish == row.wish:
                return written
            else:
                event = Claimed()
            step = self._decided(row if isinstance(written, BudgetExceeded) else written, event, self._store.now())
        raise Bug(f"{step.row.kind} {step.row.id} did not come to rest in {_MAX_STEPS} steps (phase {step.row.phase})")

    def _execute(self, workflow: Workflow, row: Row, effect: Effect) -> Event:
        crash_point(f"before:{effect.name}")
        self._pacer.wait(row.place)
        with self._keeper.keeping():
            try:
                if effect is OBSERVE:
                    event: Event = Observed(workflow.observe(row))
                else:
                    event = Done(effect, workflow.perform(row, effect))
            except ToolboxError as error:
                event = Failed(effect, error)
            except Exception as error:  # noqa: BLE001 - the loop's edge: one row's defect must not stop the others
                bug = Bug(f"{effect.name} of {row.kind} {row.name}: {type(error).__name__}: {error}")
                bug.__cause__ = error
                event = Failed(effect, bug)
        self._learn(row.place, event)
        return event

    def _learn(self, place: str, event: Event) -> None:
        if isinstance(event, Failed) and isinstance(event.error, Throttled):
            self._pacer.throttled(place, event.error.retry_after_s)
        elif isinstance(event, Done | Observed):
            self._pacer.passed(place)

    def _decided(self, row: Row, event: Event, now: float) -> _Step:
        try:
            return _Step(row, event, self._workflows[row.kind].decide(row, event, now))
        except Exception as error:  # noqa: BLE001 - the loop's edge: the row is kept as it is, for a release that understands it
            change = Change(
                phase=row.phase,
                state=row.state,
                data=row.data,
                due_at=now + _SICK_S,
                message=f"cannot be driven by this release: {type(error).__name__}: {error}",
                level="alarm",
            )
            return _Step(row, event, Decision(change=change))


def label(event: Event) -> str:
    """The event's name in crash points and in the history."""
    match event:
        case Inserted():
            return "insert"
        case Claimed():
            return "claim"
        case Observed():
            return "observe"
        case Done(effect=effect):
            return effect.name
        case Failed(effect=effect):
            return f"failed-{effect.name}"
        case Refused():
            return "refused"


def _as_write(step: _Step, *, release: bool) -> Write:
    change = step.decision.change if _writes(step) else None
    return Write(row=step.row, change=change, cause=label(step.event), release=release)


def _writes(step: _Step) -> bool:
    """Whether the decision says anything new; the same row again needs no line of history."""
    row, change = step.row, step.decision.change
    same = (row.phase, row.state, row.data, row.due_at) == (change.phase, change.state, change.data, change.due_at)
    return not same or bool(change.postings) or (change.ended and row.ended_at is None)


def changed(row: Row, change: Change) -> bool:
    """Whether a change is worth a line of history."""
    return bool(change.message) or (row.phase, row.state) != (change.phase, change.state)
