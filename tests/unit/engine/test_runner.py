"""The runner: exactly one resource whatever dies or pauses, fenced writes, no wish slept through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import Bug
from ml_toolbox.engine import crash
from ml_toolbox.engine.rows import Change, Row
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.workflow import Decision, Effect, Event
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.engine.counter import MakeOne, Platform, new_row


class Died(BaseException):
    """Stands for kill -9 inside one process: nothing catches it, and the lease stays held."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    crash.arm(None)


def die_at(number: int) -> list[str]:
    """Die at the ``number``-th crash point from now; returns the labels passed."""
    passed: list[str] = []

    def hook(label: str) -> None:
        passed.append(label)
        if len(passed) == number:
            raise Died(label)

    crash.arm(hook)
    return passed


class Scene:
    def __init__(self, store: MemoryStore, lease_s: float = 60.0) -> None:
        assert isinstance(store.clock, FakeClock)
        self.store = store
        self.clock = store.clock
        self.platform = Platform()
        self.lease_s = lease_s

    def runner(self) -> Runner:
        return Runner(self.store, [MakeOne(self.platform)], lease_s=self.lease_s)

    def row(self, name: str = "quick") -> Row:
        return new_row(name, self.clock.now(), "row-1")


def test_a_row_is_driven_until_it_rests(store: MemoryStore) -> None:
    scene = Scene(store)
    row = scene.runner().insert(scene.row())
    assert (row.phase, row.data["resource"], row.lease_owner) == ("over", "r1", "")
    assert row.ended_at is not None
    assert [step.phase for step in store.history("row-1")] == ["new", "made", "over"]


@pytest.mark.parametrize("fault", ["before", "after"])
def test_an_unknown_outcome_is_tried_again_later_with_the_same_token(store: MemoryStore, fault: str) -> None:
    scene = Scene(store)
    scene.platform.faults = [fault, fault]
    row = scene.runner().insert(scene.row())
    assert (row.phase, row.data["problem"]) == ("new", row.data["problem"])
    assert scene.clock.now() < row.due_at <= scene.clock.now() + 0.5  # type: ignore[operator]
    assert scene.runner().tick() == 0, "it is not due yet"
    scene.clock.advance(0.5)
    assert scene.runner().tick() == 1
    scene.clock.advance(1.0)
    assert scene.runner().tick() == 1
    assert store.get("row-1").phase == "over"
    assert scene.platform.made == 1


def test_a_defect_in_an_adapter_ends_its_row_and_no_other(store: MemoryStore) -> None:
    scene = Scene(store)
    scene.platform.faults = ["defect"]
    assert scene.runner().insert(scene.row()).phase == "broken"
    assert "ZeroDivisionError" in store.get("row-1").data["problem"]
    assert scene.runner().insert(new_row("quick", scene.clock.now(), "row-2")).phase == "over"


@given(
    deaths=st.lists(st.integers(1, 8), max_size=5),
    faults=st.lists(st.sampled_from(["", "before", "after"]), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_any_deaths_and_faults_leave_one_resource(deaths: list[int], faults: list[str]) -> None:
    store = MemoryStore(FakeClock())
    scene = Scene(store)
    scene.platform.faults = list(faults)
    for number in [*deaths, 0]:
        die_at(number)
        try:
            scene.runner().insert(scene.row()) if not store.find("one") else scene.runner().tick()
        except Died:
            pass
        # The dead runner's lease has to run out: it was this very process.
        scene.clock.advance(61.0)
    crash.arm(None)
    for _ in range(8):
        if not store.find("one"):
            scene.runner().insert(scene.row())
        scene.runner().tick()
        scene.clock.advance(61.0)
    assert store.get("row-1").phase == "over"
    assert scene.platform.made == 1
    phases = [step.phase for step in store.history("row-1") if step.message == ""]
    assert phases.count("made") == 1, "the result was recorded once"
    assert phases.count("over") == 1
    store.close()


def test_a_paused_holder_cannot_write_over_its_successor(store: MemoryStore) -> None:
    scene = Scene(store, lease_s=10.0)
    successor = scene.runner()

    def pause(label: str) -> None:
        if label == "after:create:before:record":
            crash.arm(None)
            scene.clock.advance(11.0)  # longer than the lease
            assert successor.drive("row-1").phase == "over"

    crash.arm(pause)
    row = scene.runner().insert(scene.row())
    assert row.phase == "over", "the paused one is told the truth"
    tokens = [step.lease_token for step in store.history("row-1")]
    assert tokens == [1, 2, 2], "nothing was written with the old token after the new one"
    assert scene.platform.made == 1


def test_a_held_row_is_left_alone(store: MemoryStore) -> None:
    scene = Scene(store)
    die_at(2)
    with pytest.raises(Died):
        scene.runner().insert(scene.row())
    crash.arm(None)
    assert scene.runner().tick() == 0, "its holder lives (it is this process), and has time left"
    assert scene.runner().drive("row-1").phase == "new"


def test_a_wish_made_during_the_last_step_is_not_slept_through(store: MemoryStore) -> None:
    scene = Scene(store)

    def wish(label: str) -> None:
        if label == "after:observe:before:record":
            crash.arm(None)
            store.wish("row-1", "delete")

    crash.arm(wish)
    row = scene.runner().insert(scene.row())
    assert row.phase == "gone"
    assert scene.platform.resources == {}


def test_a_workflow_that_never_rests_is_a_bug(store: MemoryStore) -> None:
    class Restless(MakeOne):
        def decide(self, row: Row, event: Event, now: float) -> Decision:
            again = Change(phase="new", state="new", data={"count": row.data.get("count", 0) + 1}, due_at=now)
            return Decision(change=again, effect=Effect("create"))

        def perform(self, row: Row, effect: object) -> None:
            return None

    runner = Runner(store, [Restless(Platform())])
    with pytest.raises(Bug, match="did not come to rest"):
        runner.insert(new_row("x", store.now(), "row-1"))


def test_labels_name_what_they_lie_between(store: MemoryStore) -> None:
    passed: list[str] = []
    crash.arm(passed.append)
    Scene(store).runner().insert(Scene(store).row())
    assert passed == [
        "before:insert",
        "after:insert:before:act",
        "after:insert:before:record",
        "after:record:insert",
        "before:create",
        "after:create:before:record",
        "after:record:create",
        "before:observe",
        "after:observe:before:record",
        "after:record:observe",
    ]
