"""Ticks with an executor: rows side by side, results written together, nothing held up, nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from ml_toolbox.base.errors import Unavailable
from ml_toolbox.engine import crash
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.store import Written
from ml_toolbox.engine.workflow import AGAIN, Decision, Effect, Event
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.engine.counter import MakeOne, Platform, new_row


class Died(BaseException):
    """Stands for kill -9 inside one process."""


class WhenTold(Executor):
    """Runs nothing until it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            task()


class Counting(MemoryStore):
    """Notes how many rows each transaction wrote; fails when told."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.sizes: list[int] = []
        self.fails = False

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        if self.fails:
            raise Unavailable("the store is away")
        self.sizes.append(len(writes))
        return super().write(writes, lease_s=lease_s)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Counting:
    return Counting(clock)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    crash.arm(None)


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def put(store: MemoryStore, clock: FakeClock, count: int, name: str = "quick") -> None:
    for number in range(count):
        store.insert(new_row(name, clock.now(), f"{name}-{number:03}"))


def phases(store: MemoryStore) -> set[str]:
    return {row.phase for row in store.find("one")}


def test_rows_side_by_side_all_come_to_their_end(store: Counting, clock: FakeClock, threads: Executor) -> None:
    platform = Platform()
    put(store, clock, 30)
    assert Runner(store, [MakeOne(platform)]).tick(executor=threads, batch=7) == 30
    assert phases(store) == {"over"}
    assert platform.made == 30
    assert all(row.lease_owner == "" for row in store.find("one"))


def test_what_has_ended_together_is_written_together(store: Counting, clock: FakeClock) -> None:
    put(store, clock, 50)
    runner, executor = Runner(store, [MakeOne(Platform())]), WhenTold()
    assert runner.tick(executor=executor, linger_s=0.0) == 50
    assert (runner.under_way, store.sizes) == (50, []), "nothing to say before the first effect"
    executor.run()
    assert runner.tick(executor=executor, linger_s=0.0) == 0, "they are taken up already"
    assert (runner.under_way, store.sizes) == (50, [50]), "fifty ids in one transaction; now they are looked at"
    executor.run()
    runner.tick(executor=executor, linger_s=0.0)
    assert (runner.under_way, store.sizes) == (0, [50, 50])
    assert phases(store) == {"over"}


def test_no_more_than_a_batch_is_taken_up_while_nothing_ends(store: Counting, clock: FakeClock) -> None:
    put(store, clock, 35)
    runner, executor = Runner(store, [MakeOne(Platform())]), WhenTold()
    assert runner.tick(executor=executor, linger_s=0.0, batch=10) == 10
    assert runner.tick(executor=executor, linger_s=0.0, batch=10) == 0, "the rest is there for other workers"
    assert runner.under_way == 10


def test_a_slow_effect_keeps_no_other_row_waiting(store: Counting, clock: FakeClock, threads: Executor) -> None:
    answers = threading.Event()

    class Slow(MakeOne):
        def perform(self, row: Row, effect: Effect) -> Any:
            if row.name == "late":
                assert answers.wait(60)
            return super().perform(row, effect)

    runner = Runner(store, [Slow(Platform())])
    put(store, clock, 1, "late")
    runner.tick(executor=threads, linger_s=0.0)
    put(store, clock, 5)
    deadline = time.monotonic() + 60
    while {row.phase for row in store.find("one", name="quick")} != {"over"}:
        assert time.monotonic() < deadline
        runner.tick(executor=threads, linger_s=0.01)
    assert store.find("one", name="late")[0].phase == "new"
    assert runner.under_way == 1
    answers.set()
    runner.finish(threads)
    assert phases(store) == {"over"}


@pytest.mark.parametrize("number", range(1, 40))
def test_a_death_at_any_point_leaves_rows_that_come_to_their_end(
    store: Counting, clock: FakeClock, threads: Executor, number: int
) -> None:
    platform, passed = Platform(), []
    put(store, clock, 3)

    def hook(label: str) -> None:
        passed.append(label)
        if len(passed) == number:
            raise Died(label)

    crash.arm(hook)
    try:
        Runner(store, [MakeOne(platform)]).tick(executor=threads)
    except Died:
        pass
    else:
        assert len(passed) < number, "it passed a crash point at which it should have died"
    crash.arm(None)
    clock.advance(61.0)
    Runner(store, [MakeOne(platform)]).tick(executor=threads)
    assert phases(store) == {"over"}
    assert platform.made == 3


def test_rows_dropped_by_an_error_come_free_though_their_holder_lives(
    store: Counting, clock: FakeClock, threads: Executor
) -> None:
    platform = Platform()
    runner = Runner(store, [MakeOne(platform)])
    put(store, clock, 3)
    store.fails = True
    with pytest.raises(Unavailable):
        runner.tick(executor=threads)
    store.fails = False
    assert store.renew(runner.owner, lease_s=60.0) == 0, (
        "what was dropped would be held for as long as anything is under way"
    )
    assert runner.tick(executor=threads) == 0
    clock.advance(61.0)
    assert runner.tick(executor=threads) == 3
    assert phases(store) == {"over"}
    assert platform.made == 3


def test_a_row_that_never_rests_is_put_aside_with_an_alarm(
    store: Counting, clock: FakeClock, threads: Executor
) -> None:
    class Restless(MakeOne):
        def decide(self, row: Row, event: Event, now: float) -> Decision:
            if row.name != "restless":
                return super().decide(row, event, now)
            change = Change(phase=row.phase, state=row.state, data={"n": row.data.get("n", 0) + 1}, due_at=row.due_at)
            return Decision(change=change, effect=AGAIN)

    put(store, clock, 1, "restless")
    put(store, clock, 2)
    Runner(store, [Restless(Platform())]).tick(executor=threads)
    last = store.history("restless-000")[-1]
    assert last.level == "alarm"
    assert "did not come to rest" in last.message
    assert {row.phase for row in store.find("one", name="quick")} == {"over"}
