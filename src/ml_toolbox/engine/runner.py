"""The one runner: claims a row, lets its workflow decide, writes the decision under the lease, then acts."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Bug, ToolboxError
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.engine.rows import Change, Row
from ml_toolbox.engine.store import Store
from ml_toolbox.engine.workflow import OBSERVE, Claimed, Done, Effect, Event, Failed, Inserted, Observed, Workflow

_MAX_STEPS = 100
"""Decisions in a row before a workflow that never rests is called a bug (a job's longest path has about ten)."""


class Runner:
    """Drives rows. Any number of runners may work on one store, in any number of processes.

    Args:
        lease_s: how long a claim holds. Renewed by every write. The holder's death on this host frees the row at once; a
            holder that is merely paused for longer loses its right to write, never the row its meaning.
    """

    def __init__(
        self, store: Store, workflows: Iterable[Workflow], *, clock: Clock | None = None, lease_s: float = 60.0
    ) -> None:
        self._store = store
        self._workflows = {workflow.kind: workflow for workflow in workflows}
        self._clock = clock or SystemClock()
        self._lease_s = lease_s
        self._owner = this_owner()

    def insert(self, row: Row) -> Row:
        """Write the intent, then drive the row until it rests. Returns it as last seen."""
        crash_point("before:insert")
        written = self._store.insert(row, owner=self._owner, lease_s=self._lease_s)
        crash_point("after:insert:before:act")
        return self._advance(written, Inserted())

    def drive(self, row_id: str) -> Row:
        """Claim the row, due or not, and drive it until it rests. Held by another: returns it as it is."""
        row = self._claim(row_id)
        return self._store.get(row_id) if row is None else self._advance(row, Claimed())

    def tick(self, kinds: Collection[str] | None = None) -> int:
        """Drive every row that is due and free. Returns how many were driven."""
        driven = 0
        for row_id in self._store.due(kinds or tuple(self._workflows), self._clock.now()):
            row = self._claim(row_id)
            if row is not None and row.due_at is not None and row.due_at <= self._clock.now():
                self._advance(row, Claimed())
                driven += 1
            elif row is not None:  # another runner drove it between the listing and the claim
                self._store.apply(row, None, now=self._clock.now(), lease_s=self._lease_s, release=True)
        return driven

    def _claim(self, row_id: str) -> Row | None:
        return self._store.claim(
            row_id, owner=self._owner, now=self._clock.now(), lease_s=self._lease_s, is_dead=is_dead
        )

    def _advance(self, row: Row, event: Event) -> Row:
        workflow = self._workflows[row.kind]
        for _ in range(_MAX_STEPS):
            decision = workflow.decide(row, event, self._clock.now())
            effect = decision.effect
            label = _label(event)
            crash_point(f"after:{label}:before:record")
            seen = row
            applied = self._record(row, decision.change, release=effect is None)
            if applied is None:
                # The lease went to somebody else while we were away: what they wrote is the truth.
                return self._store.get(row.id)
            crash_point(f"after:record:{label}")
            row = applied
            if effect is None:
                if row.wish == seen.wish:
                    return row
                event = Claimed()
            else:
                event = self._execute(workflow, row, effect)
        raise Bug(f"{row.kind} {row.id} did not come to rest in {_MAX_STEPS} steps (phase {row.phase})")

    def _record(self, row: Row, change: Change, *, release: bool) -> Row | None:
        now = self._clock.now()
        if not _writes(row, change):
            if not release and row.lease_until - now > self._lease_s / 2:
                return row  # nothing to say, and the lease is fresh: acting twice is harmless, one sync is saved
            return self._store.apply(row, None, now=now, lease_s=self._lease_s, release=release)
        return self._store.apply(row, change, now=now, lease_s=self._lease_s, release=release)

    def _execute(self, workflow: Workflow, row: Row, effect: Effect) -> Event:
        crash_point(f"before:{effect.name}")
        try:
            if effect is OBSERVE:
                return Observed(workflow.observe(row))
            return Done(effect, workflow.perform(row, effect))
        except ToolboxError as error:
            return Failed(effect, error)
        except Exception as error:  # noqa: BLE001 - the loop's edge: one row's defect must not stop the others
            bug = Bug(f"{effect.name} of {row.kind} {row.name}: {type(error).__name__}: {error}")
            bug.__cause__ = error
            return Failed(effect, bug)


def _writes(row: Row, change: Change) -> bool:
    """Whether the change says anything new; the same row again needs no line of history."""
    same = (row.phase, row.state, row.data, row.due_at) == (change.phase, change.state, change.data, change.due_at)
    return not same or (change.ended and row.ended_at is None)


def _label(event: Event) -> str:
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
