"""Is a concurrent history linearizable: does some order of its operations, each placed at one moment between its call and
its return, explain every answer by a sequential model?

The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", JPDC 1993) with Lowe's memory of visited
configurations ("Testing for linearizability", 2017) and the linked list of events that Porcupine uses. It knows nothing
of what is checked: a model is an initial state, a step, and the key by which operations are independent of each other.

An operation that returned an error has an *answer* and is placed like any other. Only where nobody knows whether it
happened (a lost answer, a killed client) it has no return: it may take effect at any moment after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from ml_toolbox.base.errors import Invalid

State = TypeVar("State", bound=Hashable)

UNKNOWN: Final = "outcome unknown"
"""What ``step`` gets as the output of an operation without a return."""
CONFIGURATIONS = 5_000_000
"""Visited configurations after which the search gives up: 20 s and 0.7 GB with a state as small as an integer (measured:
4 us and 140 bytes each). A history of four clients visits some three for each operation at most."""
_SHOWN_STATES = 3
_SHOWN_ORDER = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one client asked and was told. Times are of one clock that all clients share; any unit."""

    client: Hashable
    input: Any
    output: Any = UNKNOWN
    called: float
    returned: float = math.inf
    """Infinity: the outcome is unknown."""

    @property
    def is_unknown(self) -> bool:
        return self.returned == math.inf

    def __str__(self) -> str:
        until = "?" if self.is_unknown else f"{self.returned:g}"
        return f"client {self.client} [{self.called:g} .. {until}] {self.input} -> {self.output}"


def _one_key(_: Any) -> Hashable:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Generic[State]):
    """The object as it would behave if operations came one after the other.

    ``step(state, input, output)`` is pure: the state after the operation, or ``None`` when the operation cannot have
    answered ``output`` in ``state``. Given ``UNKNOWN`` it says what the operation would have done. States are hashable,
    and equal ones behave equally.

    ``key(input)``: operations with different keys never influence each other, and are searched apart.
    """

    initial: State
    step: Callable[[State, Any, Any], State | None]
    key: Callable[[Any], Hashable] = _one_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the search found. ``str`` tells it to a person."""

    outcome: Literal["linearizable", "violated", "undecided"]
    operations: int
    configurations: int
    """Visited, over all keys."""
    key: Hashable = None
    culprit: Operation | None = None
    """With its return ends the shortest prefix of the history that has no order."""
    order: tuple[Operation, ...] = ()
    """An order of everything that returned before, as far as one comes."""
    states: tuple[Any, ...] = ()
    """Some of the states in which such orders end; the culprit's answer fits none that can be reached."""
    unplaced: tuple[Operation, ...] = ()
    """Called before the culprit returned, and not in ``order``: also placing these first does not help."""

    @property
    def ok(self) -> bool:
        return self.outcome == "linearizable"

    def __str__(self) -> str:
        counted = f"{self.operations} operations, {self.configurations} configurations visited"
        if self.ok:
            return f"linearizable: {counted}"
        if self.outcome == "undecided":
            return f"undecided, the search was given up at key {self.key!r}: {counted}"
        shown = self.order[-_SHOWN_ORDER:]
        left_out = len(self.order) - len(shown)
        return "\n".join(
            [
                f"not linearizable: {counted}",
                f"The shortest prefix without an order (key {self.key!r}) ends with the return of",
                f"    {self.culprit}",
                f"Everything that returned before it has an order{f'; after {left_out} others' if left_out else ''}:",
                *(f"    {operation}" for operation in shown),
                "which leads to" if len(self.states) == 1 else "which, or another such order, leads to",
                *(f"    {state}" for state in self.states),
                "where that answer is impossible, whichever of these had happened too:"
                if self.unplaced
                else "where that answer is impossible, and nothing else was under way.",
                *(f"    {operation}" for operation in self.unplaced),
            ]
        )


def check(model: Model[State], history: Iterable[Operation], *, limit: int = CONFIGURATIONS) -> Verdict:
    """Search an order for every key. The first key without one decides.

    ``undecided`` after ``limit`` configurations: the problem is NP-complete, and a history with many operations at once or
    of unknown outcome can need more time than there is. ``Invalid`` when an operation returned before it was called.
    """
    parts: dict[Hashable, list[Operation]] = {}
    for operation in history:
        if not operation.called <= operation.returned:
            raise Invalid(
                f"history: an operation returned before it was called: {operation}",
                hint="take both times from one monotonic clock that all clients share",
                field="history",
            )
        parts.setdefault(model.key(operation.input), []).append(operation)
    total = sum(map(len, parts.values()))
    visited = 0
    for key, operations in parts.items():
        search = _Search(model, operations, limit - visited)
        outcome = search.run()
        visited += len(search.seen)
        if outcome != "linearizable":
            deepest = search.deepest
            return Verdict(
                outcome=outcome,
                operations=total,
                configurations=visited,
                key=key,
                culprit=deepest.culprit,
                order=deepest.order,
                states=tuple(deepest.states),
                unplaced=deepest.unplaced,
            )
    return Verdict(outcome="linearizable", operations=total, configurations=visited)


def assert_linearizable(model: Model[State], history: Iterable[Operation], *, about: str = "") -> Verdict:
    """``check`` for tests: an ``AssertionError`` with the whole story unless an order was found."""
    verdict = check(model, history)
    if not verdict.ok:
        raise AssertionError(f"{about}\n{verdict}" if about else str(verdict))
    return verdict


@dataclass(slots=True, eq=False)
class _Event:
    """A call or a return in the doubly linked list of what is not placed yet, in the order of time."""

    operation: Operation
    bit: int
    """One bit per operation: sets of operations are then integers."""
    place: int
    is_call: bool
    before: _Event | None = None
    after: _Event | None = None
    partner: _Event | None = None
    """Of a call: its return, if it has one."""


@dataclass(slots=True)
class _Deepest:
    """The furthest that any order came."""

    place: int = -1
    culprit: Operation | None = None
    order: tuple[Operation, ...] = ()
    states: list[Any] = field(default_factory=list)
    unplaced: tuple[Operation, ...] = ()


class _Search(Generic[State]):
    """The search over one key. Iterative: histories may be longer than Python's stack is deep."""

    def __init__(self, model: Model[State], operations: Sequence[Operation], limit: int) -> None:
        self._step = model.step
        self._initial = model.initial
        self._limit = limit
        self._operations = operations
        self._head = _linked(operations)
        self.seen: set[tuple[int, State]] = set()
        self.deepest = _Deepest()

    def run(self) -> Literal["linearizable", "violated", "undecided"]:
        must = sum(1 << index for index, operation in enumerate(self._operations) if not operation.is_unknown)
        state, placed = self._initial, 0
        path: list[tuple[_Event, State]] = []
        event = self._head.after
        while placed & must != must:
            # Before the list ends there is a return of an operation that must still be placed.
            assert event is not None
            if event.is_call:
                operation = event.operation
                following = self._step(state, operation.input, operation.output)
                if following is not None and (configuration := (placed | event.bit, following)) not in self.seen:
                    if len(self.seen) >= self._limit:
                        return "undecided"
                    self.seen.add(configuration)
                    path.append((event, state))
                    placed, state = configuration
                    _lift(event)
                    event = self._head.after
                else:
                    event = event.after
                continue
            # Whoever returned here must be placed earlier: take the last placement back and try what comes after it.
            self._remember(event, state, path)
            if not path:
                return "violated"
            event, state = path.pop()
            placed &= ~event.bit
            _unlift(event)
            event = event.after
        return "linearizable"

    def _remember(self, event: _Event, state: State, path: list[tuple[_Event, State]]) -> None:
        deepest = self.deepest
        if event.place < deepest.place:
            return
        further = event.place > deepest.place
        states = [] if further else deepest.states
        # Of the orders that come equally far the shortest is told: it holds only what the answers so far demand.
        if further or len(path) < len(deepest.order):
            order = tuple(placed.operation for placed, _ in path)
            states = [state, *(known for known in states if known != state)][:_SHOWN_STATES]
            self.deepest = _Deepest(event.place, event.operation, order, states, self._unplaced(event))
        elif len(states) < _SHOWN_STATES and state not in states:
            states.append(state)

    def _unplaced(self, until: _Event) -> tuple[Operation, ...]:
        found = []
        event = self._head.after
        while event is not None and event is not until:
            if event.is_call and event.bit != until.bit:
                found.append(event.operation)
            event = event.after
        return tuple(found)


def _linked(operations: Sequence[Operation]) -> _Event:
    """All events in the order of time, behind a head that is none. At equal times calls come first: the operations then
    count as concurrent, which never accuses wrongly. What has no outcome has no return event, so nothing forces it."""
    events: list[tuple[float, bool, int]] = []
    for index, operation in enumerate(operations):
        events.append((operation.called, False, index))
        if not operation.is_unknown:
            events.append((operation.returned, True, index))
    head = last = _Event(operations[0], 0, -1, False)
    calls: dict[int, _Event] = {}
    for place, (_, is_return, index) in enumerate(sorted(events)):
        event = _Event(operations[index], 1 << index, place, not is_return, before=last)
        last.after = event
        last = event
        if is_return:
            calls[index].partner = event
        else:
            calls[index] = event
    return head


def _lift(call: _Event) -> None:
    """Take a placed operation's events out of the list."""
    for event in (call, call.partner):
        if event is not None:
            assert event.before is not None
            event.before.after = event.after
            if event.after is not None:
                event.after.before = event.before


def _unlift(call: _Event) -> None:
    """The exact inverse: every event still knows its neighbours, so the order of undoing is all that matters."""
    for event in (call.partner, call):
        if event is not None:
            assert event.before is not None
            event.before.after = event
            if event.after is not None:
                event.after.before = event
