"""The one runner: claims rows, lets their workflow decide, writes the decisions under the lease, then acts."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias

from ml_toolbox.base.errors import BudgetExceeded, Bug, Throttled, ToolboxError
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.keeper import Keeper
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.places import OnePlaceEach, Places
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.engine.store import Store, Written
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
    taken: int = 0
    """Which step this is since the row was taken up."""


_Happened: TypeAlias = tuple[Row, Event, int]
"""A row, what happened to it, and the steps it has taken."""


class _UnderWay:
    """What rows do on an executor. Results are taken up as they come, all that have come together."""

    def __init__(self) -> None:
        self._rows = 0
        self._ended: SimpleQueue[list[_Happened] | BaseException] = SimpleQueue()

    def __len__(self) -> int:
        """Of rows."""
        return self._rows

    @property
    def has_ended(self) -> bool:
        return not self._ended.empty()

    def start(self, executor: Executor, rows: int, task: Callable[[], list[_Happened]]) -> None:
        executor.submit(self._run, task)
        self._rows += rows

    def ended(self, *, within_s: float) -> list[_Happened]:
        """What has ended since the last call; waits for the first that does. Raises what a task raised."""
        ended: list[_Happened] = []
        try:
            while len(ended) < self._rows:
                within = None if math.isinf(within_s) else within_s
                result = self._ended.get_nowait() if ended else self._ended.get(timeout=within)
                if isinstance(result, BaseException):
                    raise result
                ended += result
        except Empty:
            pass
        self._rows -= len(ended)
        return ended

    def _run(self, task: Callable[[], list[_Happened]]) -> None:
        try:
            self._ended.put(task())
        except BaseException as error:  # noqa: BLE001 - the thread's edge: it is raised where the results are waited for
            self._ended.put(error)


class Runner:
    """Drives rows. Any number of runners may work on one store, in any number of processes and threads.

    Args:
        lease_s: how long a claim holds. A keeper renews it while an effect is under way. The holder's death on this host
            frees the row at once; a holder that is merely paused for longer loses its right to write, never the row its
            meaning.
        pacer: holds calls back to what each platform takes.
        owner: id of this runner among all; must differ from every other's. After an error the attribute is another one.
        places: which rows are left to others.
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
        places: Places | None = None,
    ) -> None:
        self._places = places or OnePlaceEach()
        self._store = store
        self._workflows = {workflow.kind: workflow for workflow in workflows}
        self._lease_s = lease_s
        self._pacer = pacer or Pacer()
        self.owner = self._first_owner = owner or this_owner()
        self._dropped = 0
        self._keeper = keeper or Keeper(lambda: store.renew(self.owner, lease_s=lease_s), every_s=lease_s / 3)
        self._under_way = _UnderWay()

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
        self,
        kinds: Collection[str] | None = None,
        *,
        executor: Executor | None = None,
        batch: int = BATCH,
        linger_s: float = math.inf,
    ) -> int:
        """Drive every row that is due now and free. Returns how many were taken up.

        Rows that only have to be looked at are looked at and written together. Without ``executor`` each of the others is
        driven alone, one after the other. With one, effects and observations run there side by side, none waits for another
        row's, and whatever has ended by the time the former transaction is durable is written together in the next; what is
        still under way after ``linger_s`` is left to the next tick or to :meth:`finish`. All of these are for one thread.
        """
        wanted, began = tuple(kinds or self._workflows), self._store.now()
        elsewhere = self._places.elsewhere()
        until = time.monotonic() + linger_s
        driven, more = 0, True
        with ExitStack() as keeping, self._in_hand():
            while True:
                if self._under_way.has_ended and executor is not None:
                    self._set_going(self._after(self._under_way.ended(within_s=0.0)), executor)
                elif more and len(self._under_way) < batch:
                    rows = self._store.claim_due(
                        wanted,
                        owner=self.owner,
                        lease_s=self._lease_s,
                        is_dead=is_dead,
                        due_before=began,
                        limit=batch,
                        elsewhere=elsewhere,
                    )
                    if rows and not driven:
                        keeping.enter_context(self._keeper.keeping())
                    driven, more = driven + len(rows), len(rows) == batch
                    if executor is None:
                        self._drive_together(rows)
                    else:
                        self._set_going(self._claimed(rows), executor)
                elif executor is None or not self._under_way or time.monotonic() >= until:
                    return driven
                else:
                    ended = self._under_way.ended(within_s=max(0.0, until - time.monotonic()))
                    self._set_going(self._after(ended), executor)

    @property
    def under_way(self) -> int:
        """Rows whose effects or observations the last tick left on its executor."""
        return len(self._under_way)

    def finish(self, executor: Executor) -> None:
        """Wait for what earlier ticks left under way, and drive it on until it rests."""
        with self._in_hand():
            while self._under_way:
                self._set_going(self._after(self._under_way.ended(within_s=math.inf)), executor)

    @contextmanager
    def _in_hand(self) -> Iterator[None]:
        """Rows that an error makes us drop, such as a store that is away, must come free again: they stay leased under our
        former name, which nobody renews, until that lease runs out."""
        try:
            yield
        except BaseException:
            self._dropped += 1
            self.owner = f"{self._first_owner}+{self._dropped}"
            raise

    # -- many rows ----------------------------------------------------------------------------------------------------

    def _claimed(self, rows: Sequence[Row]) -> list[_Step]:
        now = self._store.now()
        return [self._decided(row, Claimed(), now) for row in rows]

    def _after(self, ended: Sequence[_Happened]) -> list[_Step]:
        now = self._store.now()
        return [self._decided(row, event, now, taken) for row, event, taken in ended]

    def _set_going(self, steps: list[_Step], executor: Executor) -> None:
        """Write decisions, each batch in one transaction, until every row rests or is on its way to what it has to do."""
        while steps:
            following, now = [], self._store.now()
            looking: dict[tuple[str, str], list[tuple[Row, int]]] = defaultdict(list)
            for step, written in zip(steps, self._recorded(steps), strict=True):
                effect = step.decision.effect
                if isinstance(written, BudgetExceeded):
                    following.append(self._decided(step.row, Refused(written), now, step.taken))
                elif written is None or (effect is None and written.wish == step.row.wish):
                    continue
                elif effect is None or effect is AGAIN:
                    following.append(self._decided(written, Claimed(), now, step.taken))
                elif effect is OBSERVE:
                    looking[written.kind, written.place].append((written, step.taken))
                else:
                    self._under_way.start(executor, 1, partial(self._acted, written, effect, step.taken))
            for (kind, place), rows in looking.items():
                self._under_way.start(executor, len(rows), partial(self._seen, kind, place, rows))
            steps = following

    def _recorded(self, steps: Sequence[_Step]) -> list[Written]:
        """Write in one transaction what says anything new, ends a lease, or comes so late that the lease grows old."""
        fresh = self._store.now() + self._lease_s / 2
        writing = []
        for number, step in enumerate(steps):
            crash_point(f"after:{label(step.event)}:before:record")
            if step.decision.effect is None or step.row.lease_until <= fresh or _writes(step):
                writing.append(number)
        results: list[Written] = [step.row for step in steps]
        if writing:
            writes = [_as_write(steps[number]) for number in writing]
            for number, result in zip(writing, self._store.write(writes, lease_s=self._lease_s), strict=True):
                results[number] = result
        for step, result in zip(steps, results, strict=True):
            if result is not None:
                crash_point(f"after:record:{label(step.event)}")
        return results

    def _acted(self, row: Row, effect: Effect, taken: int) -> list[_Happened]:
        return [(row, self._execute(self._workflows[row.kind], row, effect), taken)]

    def _seen(self, kind: str, place: str, rows: Sequence[tuple[Row, int]]) -> list[_Happened]:
        with self._keeper.keeping():
            events = self._observed(kind, place, [row for row, _ in rows])
        return [(row, event, taken) for (row, taken), event in zip(rows, events, strict=True)]

    def _drive_together(self, rows: Sequence[Row]) -> None:
        """Look together, write together, act one after the other: each result is on record before the next act begins."""
        steps, looking = [], defaultdict(list)
        for step in self._claimed(rows):
            if step.decision.effect is OBSERVE and not _writes(step):
                looking[step.row.kind, step.row.place].append(step.row)
            else:
                steps.append(step)
        for (kind, place), group in looking.items():
            events = self._observed(kind, place, group)
            steps += self._after([(row, event, 0) for row, event in zip(group, events, strict=True)])
        resting = [step for step in steps if step.decision.effect is None]
        acting = [step for step in steps if step.decision.effect is not None]
        for step in [*self._write(resting), *acting]:
            self._go_on(step)

    def _observed(self, kind: str, place: str, rows: Sequence[Row]) -> list[Event]:
        """Look at rows of one kind and place together."""
        crash_point("before:observe")
        self._pacer.wait(place)
        values = self._observations(kind, rows)
        events: list[Event] = [
            Failed(OBSERVE, value) if isinstance(value, ToolboxError) else Observed(value) for value in values
        ]
        refused = next(
            (event for event in events if isinstance(event, Failed) and isinstance(event.error, Throttled)), None
        )
        self._learn(place, refused or events[0])  # one call, whatever the number of its answers
        return events

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
        unfinished = []
        for step, result in zip(steps, self._recorded(steps), strict=True):
            if isinstance(result, BudgetExceeded):
                unfinished.append(self._decided(step.row, Refused(result), self._store.now()))
            elif result is not None and result.wish != step.row.wish:
                unfinished.append(self._decided(result, Claimed(), self._store.now()))
        return unfinished

    def _advance(self, row: Row, event: Event) -> Row:
        with self._in_hand():
            return self._go_on(self._decided(row, event, self._store.now()))

    def _go_on(self, step: _Step) -> Row:
        """Write, act, decide, write, … until the row rests."""
        for _ in range(_MAX_STEPS):
            row, effect = step.row, step.decision.effect
            written = self._recorded([step])[0]
            if written is None:
                # The lease went to somebody else while we were away: what they wrote is the truth.
                return self._store.get(row.id)
            event: Event
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

    def _decided(self, row: Row, event: Event, now: float, taken: int = 0) -> _Step:
        try:
            if taken >= _MAX_STEPS:
                raise Bug(f"it did not come to rest in {_MAX_STEPS} steps (phase {row.phase})")
            return _Step(row, event, self._workflows[row.kind].decide(row, event, now), taken + 1)
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


def _as_write(step: _Step) -> Write:
    change = step.decision.change if _writes(step) else None
    return Write(row=step.row, change=change, cause=label(step.event), release=step.decision.effect is None)


def _writes(step: _Step) -> bool:
    """Whether the decision says anything new; the same row again needs no line of history."""
    row, change = step.row, step.decision.change
    same = (row.phase, row.state, row.due_at) == (change.phase, change.state, change.due_at)
    same = same and (row.data is change.data or row.data == change.data)
    return not same or bool(change.postings) or (change.ended and row.ended_at is None)
