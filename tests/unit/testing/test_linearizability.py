"""The checker itself: against histories whose verdict is known, against every order tried one by one, and its speed."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.testing.linearizability import UNKNOWN, Model, Operation, assert_linearizable, check

Step = tuple[str, Any]


def register_step(state: int, input: Step, output: Any) -> int | None:  # noqa: A002
    """One register with compare-and-swap: the classic."""
    name, argument = input[-2:]
    if name == "write":
        return int(argument)
    if name == "read":
        return state if output in (state, UNKNOWN) else None
    expected, new = argument
    if output is UNKNOWN:
        return int(new) if state == expected else state
    if output != (state == expected):
        return None
    return int(new) if output else state


def counter_step(state: int, input: Step, output: Any) -> int | None:  # noqa: A002
    """Version numbers: each registration gets the next; a read sees the highest."""
    name, _ = input
    if name == "register":
        return state + 1 if output in (state + 1, UNKNOWN) else None
    return state if output in (state, UNKNOWN) else None


REGISTER = Model(initial=0, step=register_step)
COUNTER = Model(initial=0, step=counter_step)


def op(called: float, returned: float, name: str, argument: Any = None, output: Any = None) -> Operation:
    unknown = returned == math.inf
    return Operation(
        client=0,
        input=(name, argument),
        output=UNKNOWN if unknown else output,
        called=called,
        returned=returned,
    )


INF = math.inf
KNOWN: dict[str, tuple[Model[int], list[Operation], bool]] = {
    "nothing": (REGISTER, [], True),
    "one after the other": (REGISTER, [op(0, 1, "write", 1), op(2, 3, "read", output=1)], True),
    "stale read": (REGISTER, [op(0, 1, "write", 1), op(2, 3, "read", output=0)], False),
    "old value while the write is under way": (REGISTER, [op(0, 5, "write", 1), op(2, 3, "read", output=0)], True),
    "new value, then the old one again": (
        REGISTER,
        [op(0, 9, "write", 1), op(1, 2, "read", output=1), op(3, 4, "read", output=0)],
        False,
    ),
    "touching intervals count as concurrent": (REGISTER, [op(0, 1, "write", 1), op(1, 2, "read", output=0)], True),
    "lost update": (
        REGISTER,
        [
            op(0, 5, "swap", (0, 1), True),
            op(1, 4, "swap", (0, 2), True),
        ],
        False,
    ),
    "one of two swaps wins": (
        REGISTER,
        [
            op(0, 5, "swap", (0, 1), True),
            op(1, 4, "swap", (0, 2), False),
        ],
        True,
    ),
    "unknown write that happened": (REGISTER, [op(0, INF, "write", 1), op(2, 3, "read", output=1)], True),
    "unknown write that never happened": (REGISTER, [op(0, INF, "write", 1), op(2, 3, "read", output=0)], True),
    "unknown write that happens late": (
        REGISTER,
        [op(0, INF, "write", 1), op(2, 3, "write", 2), op(4, 5, "read", output=2), op(6, 7, "read", output=1)],
        True,
    ),
    "unknown write that happens twice": (
        REGISTER,
        [
            op(0, INF, "write", 1),
            op(2, 3, "read", output=1),
            op(4, 5, "write", 2),
            op(6, 7, "read", output=1),
        ],
        False,
    ),
    "unknown write before its call": (REGISTER, [op(0, 1, "read", output=1), op(2, INF, "write", 1)], False),
    "numbers in either order": (COUNTER, [op(0, 9, "register", output=2), op(1, 8, "register", output=1)], True),
    "duplicate version number": (COUNTER, [op(0, 9, "register", output=1), op(1, 8, "register", output=1)], False),
    "gap": (COUNTER, [op(0, 1, "register", output=1), op(2, 3, "register", output=3)], False),
    "gap that an unknown registration explains": (
        COUNTER,
        [op(0, INF, "register"), op(0, 1, "register", output=1), op(2, 3, "register", output=3)],
        True,
    ),
    "numbers against real time": (COUNTER, [op(0, 1, "register", output=2), op(2, 3, "register", output=1)], False),
    "listing that goes back": (
        COUNTER,
        [op(0, 9, "register", output=1), op(1, 2, "latest", output=1), op(3, 4, "latest", output=0)],
        False,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_histories(name: str) -> None:
    model, history, expected = KNOWN[name]
    assert check(model, history).ok is expected
    assert check(model, list(reversed(history))).ok is expected, "the order of recording means nothing"


def test_keys_are_independent() -> None:
    model = Model(initial=0, step=register_step, key=lambda input: input[0])  # noqa: A006
    wrong = [
        Operation(client=1, input=("a", "write", 1), output=None, called=0, returned=1),
        Operation(client=1, input=("b", "read", None), output=0, called=2, returned=3),
    ]
    assert check(model, wrong).ok
    stale = Operation(client=1, input=("a", "read", None), output=0, called=4, returned=5)
    verdict = check(model, [*wrong, stale])
    assert (verdict.ok, verdict.key, verdict.culprit) == (False, "a", stale)


def test_a_failure_is_told_with_the_shortest_prefix_that_has_none() -> None:
    good = [op(0, 1, "write", 1), op(2, 20, "write", 7), op(3, 4, "read", output=1)]
    culprit = op(5, 6, "read", output=0)
    later = [op(7, 8, "read", output=9), op(9, 10, "read", output=1)]
    verdict = check(REGISTER, [*good, culprit, *later])
    assert verdict.culprit == culprit
    assert verdict.order == (good[0], good[2])
    assert 1 in verdict.states
    assert check(REGISTER, good).ok
    told = str(verdict)
    assert "[5 .. 6] ('read', None) -> 0" in told
    assert str(good[1]) in told, "what was under way is shown"
    assert str(later[0]) not in told, "what came later is not"
    with pytest.raises(AssertionError, match=r"(?s)seed 7.*not linearizable"):
        assert_linearizable(REGISTER, [*good, culprit], about="seed 7")


def test_the_prefix_is_the_shortest() -> None:
    """Cut right before the culprit's return, with everything open left open, the history has an order."""
    generator = random.Random(3)
    found = 0
    for _ in range(300):
        history = tiny_history(generator)
        verdict = check(REGISTER, history)
        if verdict.culprit is not None:
            found += 1
            assert not check(REGISTER, cut(history, verdict.culprit.returned)).ok
            assert check(REGISTER, cut(history, verdict.culprit.returned - 0.5)).ok
    assert found > 20


def cut(history: list[Operation], at: float) -> list[Operation]:
    return [
        done if done.returned <= at else Operation(client=done.client, input=done.input, called=done.called)
        for done in history
        if done.called <= at
    ]


def tiny_history(generator: random.Random) -> list[Operation]:
    times = iter(generator.sample(range(20), 20))
    history = []
    for _ in range(5):
        called, returned = sorted((next(times), next(times)))
        name = generator.choice(["write", "read"])
        argument = generator.randint(0, 2) if name == "write" else None
        history.append(op(called, returned, name, argument, generator.randint(0, 2) if name == "read" else None))
    return history


def test_a_search_that_takes_too_long_says_so() -> None:
    # Ten concurrent writes and a read of what nobody wrote: 2**10 sets times 10 last writers.
    history = [op(0, 100, "write", number) for number in range(1, 11)] + [op(101, 102, "read", output=99)]
    assert check(REGISTER, history).outcome == "violated"
    verdict = check(REGISTER, history, limit=1_000)
    assert verdict.outcome == "undecided"
    assert not verdict.ok
    assert "given up" in str(verdict)
    with pytest.raises(AssertionError, match="not linearizable"):
        assert_linearizable(REGISTER, history)


def test_times_that_cannot_be_are_refused() -> None:
    with pytest.raises(Invalid, match="before it was called"):
        check(REGISTER, [op(2, 1, "write", 1)])


def brute_force(model: Model[int], history: list[Operation]) -> bool:
    """Every order of every choice of the unknown ones, straight from the definition."""
    known = [operation for operation in history if not operation.is_unknown]
    unknown = [operation for operation in history if operation.is_unknown]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                respected = all(
                    not later.returned < earlier.called for earlier, later in itertools.combinations(order, 2)
                )
                if respected and explains(model, order):
                    return True
    return False


def explains(model: Model[int], order: tuple[Operation, ...]) -> bool:
    state = model.initial
    for operation in order:
        following = model.step(state, operation.input, operation.output)
        if following is None:
            return False
        state = following
    return True


small = st.integers(0, 2)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    called = draw(st.integers(0, 8))
    returned = draw(st.one_of(st.integers(called, 9), st.just(INF)))
    kind = draw(st.sampled_from(["write", "read", "swap"]))
    if kind == "write":
        return op(called, returned, "write", draw(small))
    if kind == "read":
        return op(called, returned, "read", output=draw(small))
    return op(called, returned, "swap", (draw(small), draw(small)), draw(st.booleans()))


@given(st.lists(operations(), max_size=5))
@settings(max_examples=400, deadline=None)
def test_the_same_verdict_as_trying_every_order(history: list[Operation]) -> None:
    assert check(REGISTER, history).ok is brute_force(REGISTER, history)


def simulated(seed: int) -> list[Operation]:
    """Four clients, fifty operations each, on a true register: linearizable by construction, with much overlap."""
    generator = random.Random(seed)
    history = []
    state = 0
    free_at = [0.0] * 4
    for moment in range(200):
        client = min(range(4), key=free_at.__getitem__)
        called = max(free_at[client], moment - generator.uniform(0.1, 3.0))
        returned = max(called, float(moment)) + generator.uniform(0.1, 3.0)
        free_at[client] = returned + 0.01
        name = generator.choice(["write", "read", "swap"])
        moment_of_effect = (called, returned)
        history.append((moment_of_effect, client, name, generator.randint(0, 3), generator.randint(0, 3)))
    done = []
    for (called, returned), client, name, first, second in sorted(history, key=lambda entry: sum(entry[0])):
        argument: Any = {"write": first, "read": None, "swap": (first, second)}[name]
        output: Any = {"write": None, "read": state, "swap": state == first}[name]
        state = {"write": first, "read": state, "swap": second if state == first else state}[name]
        done.append(Operation(client=client, input=(name, argument), output=output, called=called, returned=returned))
    return done


def test_four_clients_with_fifty_operations_cost_few_configurations() -> None:
    """Counted instead of timed: at about ten microseconds each, the bound is a fifth of a second for one history."""
    visited = []
    for seed in range(20):
        verdict = check(REGISTER, simulated(seed))
        assert verdict.ok, verdict
        assert verdict.operations == 200
        visited.append(verdict.configurations)
    assert max(visited) < 20_000
