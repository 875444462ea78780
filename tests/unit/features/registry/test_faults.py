"""Lost answers, misread conflicts, refused connections: every write of the registry happens exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Conflict, ToolboxError, Unavailable
from ml_toolbox.features.registry import Registry
from ml_toolbox.features.registry.heads import AUDIT_TAIL, NOTES_TAIL
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import CONDITIONAL, FAULTS, FaultyStore, make_package


class QuickClock:
    """Real time, no waiting: pauses only spread rivals, and here there are none to spread."""

    def __init__(self) -> None:
        self._ticks = 0.0
        self._guard = threading.Lock()

    def now(self) -> float:
        with self._guard:
            self._ticks += 0.001
            return 1_700_000_000.0 + self._ticks

    def monotonic(self) -> float:
        return self.now()

    def sleep(self, seconds: float) -> None:
        with self._guard:
            self._ticks += seconds


def on_call(number: int, fault: Callable[..., Any]) -> Callable[[str, str, Callable[[], Any]], Any]:
    """The fault at the n-th conditional put, once."""
    seen = iter(range(1, 1_000_000))

    def act(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        return fault(proceed) if method in CONDITIONAL and next(seen) == number else proceed()

    return act


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("key", [None, "job-1"])
@pytest.mark.parametrize("place", [1, 2])
def test_registration_survives_every_single_fault(
    store: ObjectStore, package: Path, fault: str, key: str | None, place: int
) -> None:
    Registry(store, actor="ann").register("churn", package)
    faulty = FaultyStore(store, on_call(place, FAULTS[fault]))
    registry = Registry(faulty, actor="bob", clock=QuickClock())
    assert registry.register("churn", package, idempotency_key=key).number == 2
    assert registry.register("churn", package, idempotency_key=key and f"{key}/2").number == 3
    assert [version.created_by for version in registry.versions("churn")] == ["bob", "bob", "ann"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first", [True, False])
def test_a_stage_move_survives_every_single_fault(store: ObjectStore, package: Path, fault: str, first: bool) -> None:
    plain = Registry(store, actor="ann")
    plain.register("churn", package)
    if not first:
        plain.promote("churn:1", "Staging")
    registry = Registry(FaultyStore(store, on_call(1, FAULTS[fault])), actor="bob", clock=QuickClock())
    registry.promote("churn:1", "Production", alias="champion")
    assert plain.get("churn@champion").stage.value == "Production"
    assert [line.actor for line in plain.audit("churn") if line.action == "promote"] == ["ann"] * (not first) + ["bob"]


def test_a_lost_answer_is_recognised_after_others_have_moved_on(store: ObjectStore, package: Path) -> None:
    """Ours is applied, its answer lost, and before we look, others change the head so often that our audit line has left
    it. Applying ours again would undo theirs."""
    others = Registry(store, actor="others")
    others.register("churn", package)
    others.register("churn", package)

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method not in CONDITIONAL:
            return proceed()
        proceed()
        for move in range(AUDIT_TAIL + 10):
            others.promote("churn:2", ("Staging", "Production")[move % 2])
        others.set_alias("churn:2", "champion")
        raise Unavailable("connection reset")

    Registry(FaultyStore(store, fault), actor="us", clock=QuickClock()).set_alias("churn:1", "champion")
    assert others.get("churn@champion").number == 2
    assert [line.actor for line in others.audit("churn") if line.action == "set-alias"] == ["us", "others"]


def test_a_delayed_write_that_lands_later_harms_nothing(store: ObjectStore, package: Path) -> None:
    """The connection breaks, the request still travels, and lands after its repetition."""
    Registry(store, actor="ann").register("churn", package)
    late: list[Callable[[], Any]] = []

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method in CONDITIONAL and not late:
            late.append(proceed)
            raise Unavailable("timed out")
        return proceed()

    registry = Registry(FaultyStore(store, fault), actor="bob", clock=QuickClock())
    assert registry.register("churn", package).number == 2
    with pytest.raises(Conflict):
        late.pop()()
    late.clear()
    registry.promote("churn:1", "Production")
    with pytest.raises(Conflict):
        late.pop()()
    assert sorted(line.action for line in registry.audit("churn")) == ["promote", "register", "register"]


def test_a_delayed_swap_finds_what_it_moved_out_of_the_head(store: ObjectStore, package: Path) -> None:
    """A swap that moves the audit lines to a segment is delayed, and lands just before its repetition."""
    plain = Registry(store, actor="ann")
    plain.register("churn", package)
    for move in range(AUDIT_TAIL):
        plain.promote("churn:1", ("Staging", "Production")[move % 2])
    late: list[Callable[[], Any]] = []
    attempts = iter(range(100))

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method not in CONDITIONAL:
            return proceed()
        if next(attempts) == 0:
            late.append(proceed)
            raise Unavailable("timed out")
        if late:
            late.pop()()
        return proceed()

    Registry(FaultyStore(store, fault), actor="bob", clock=QuickClock()).promote("churn:1", "Archived")
    assert [line.actor for line in plain.audit("churn")].count("bob") == 1
    assert len(plain.audit("churn")) == 1 + AUDIT_TAIL + 1


def test_a_store_that_stays_away_is_reported_and_nothing_is_left_half_done(store: ObjectStore, package: Path) -> None:
    plain = Registry(store, actor="ann")
    plain.register("churn", package)

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method in CONDITIONAL:
            raise Unavailable("no route to host")
        return proceed()

    registry = Registry(FaultyStore(store, fault), actor="bob", clock=QuickClock())
    attempts: tuple[Callable[[], object], ...] = (
        lambda: registry.register("churn", package),
        lambda: registry.register("churn", package, idempotency_key="k"),
        lambda: registry.promote("churn:1", "Production"),
    )
    for attempt in attempts:
        with pytest.raises(Unavailable):
            attempt()
    assert len(plain.versions("churn")) == 1
    assert plain.register("churn", package, idempotency_key="k").number == 2


def test_spills_survive_faults(store: ObjectStore, package: Path) -> None:
    """Audit lines and notes that leave the head are neither lost nor doubled when the swap that moves them is unclear."""
    generator = random.Random(7)

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method in CONDITIONAL and generator.random() < 0.3:
            return FAULTS[generator.choice(sorted(FAULTS))](proceed)
        return proceed()

    registry = Registry(FaultyStore(store, fault), actor="ann", clock=QuickClock())
    count = NOTES_TAIL + 2
    for number in range(1, count + 1):
        assert registry.register("churn", package).number == number
    for round_ in range(2):
        for number in range(1, count + 1):
            registry.set_tags(f"churn:{number}", {f"round-{round_}": str(number)})
    fresh = Registry(store, actor="bob")
    tags = {version.number: version.tags for version in fresh.versions("churn")}
    assert tags == {n: {"round-0": str(n), "round-1": str(n)} for n in range(1, count + 1)}
    lines = [
        (line.version, next(iter(line.detail["tags"]))) for line in fresh.audit("churn") if line.action == "set-tags"
    ]
    assert lines == [(number, f"round-{round_}") for round_ in range(2) for number in range(1, count + 1)]


def test_many_writers_over_a_faulty_store(store: ObjectStore, tmp_path: Path) -> None:
    """Every registration that was acknowledged has its own number; every number was given; nothing has two owners."""
    package = make_package(tmp_path / "p")
    acknowledged: list[tuple[str, int]] = []
    guard = threading.Lock()

    def write(who: int) -> None:
        generator = random.Random(who)

        def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
            if method in CONDITIONAL and generator.random() < 0.2:
                return FAULTS[generator.choice(sorted(FAULTS))](proceed)
            return proceed()

        registry = Registry(FaultyStore(store, fault), actor=f"writer-{who}", clock=QuickClock())
        for turn in range(8):
            key = f"{who}/{turn}" if turn % 2 else None
            number = registry.register("churn", package, description=f"{who}/{turn}", idempotency_key=key).number
            with guard:
                acknowledged.append((f"{who}/{turn}", number))

    errors: list[ToolboxError] = []

    def guarded(who: int) -> None:
        try:
            write(who)
        except ToolboxError as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stored = {(v.description, v.number) for v in Registry(store, actor="x").versions("churn")}
    assert stored == set(acknowledged)
    assert sorted(number for _, number in acknowledged) == list(range(1, 49))


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_the_same_key_after_a_crash_anywhere(store: ObjectStore, package: Path, crash_at: int) -> None:
    """A process dies before its n-th write, others register meanwhile, and it is started again."""

    class Died(BaseException):
        pass

    others = Registry(store, actor="others")
    writes = iter(range(1, 100))

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method.startswith("put"):
            if next(writes) == crash_at:
                raise Died
            if "/keys/" in key:
                # Somebody takes the number that the key has just been given.
                result = proceed()
                others.register("churn", package)
                return result
        return proceed()

    doomed = Registry(FaultyStore(store, fault), actor="us", clock=QuickClock())
    try:
        doomed.register("churn", package, idempotency_key="attempt-1", alias="champion")
    except Died:
        others.register("churn", package)
    again = Registry(store, actor="us")
    number = again.register("churn", package, idempotency_key="attempt-1", alias="champion").number
    assert [v.number for v in again.versions("churn") if v.created_by == "us"] == [number]
    assert again.get("churn@champion").number == number


def test_racing_repetitions_of_one_key_make_one_version(store: ObjectStore, package: Path) -> None:
    numbers: list[int] = []
    barrier = threading.Barrier(8)

    def write(who: int) -> None:
        registry = Registry(store, actor=f"w{who}")
        barrier.wait()
        registry.register("churn", package)
        numbers.append(registry.register("churn", package, idempotency_key="the job").number)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 8
    assert len(set(numbers)) == 1
    assert len(Registry(store, actor="x").versions("churn")) == 9


@pytest.mark.parametrize("place", [1, 2])
def test_a_write_that_arrives_late_undoes_nothing_and_is_told_as_it_was(
    store: ObjectStore, package: Path, place: int
) -> None:
    """Our swap times out, arrives before our n-th next request, and somebody else's change follows it at once."""
    others = Registry(store, actor="others")
    for _ in range(2):
        others.register("churn", package)
    others.set_alias("churn:1", "first")
    late: list[Callable[[], Any]] = []
    requests = iter(range(1, 100))

    def fault(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if method == "put-IfMatch" and not late:
            late.append(proceed)
            raise Unavailable("timed out")
        if late and key.endswith("head.json") and next(requests) == place:
            late[0]()
            others.set_alias("churn:2", "champion")
        return proceed()

    told = Registry(FaultyStore(store, fault), actor="us", clock=QuickClock()).set_alias("churn:1", "champion")
    assert told.aliases == ("champion", "first")
    assert others.get("churn@champion").number == 2
    moves = [(line.actor, line.version) for line in others.audit("churn") if line.action == "set-alias"]
    assert moves == [("others", 1), ("us", 1), ("others", 2)]
