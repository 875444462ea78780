"""Every crash point is died at, once and twice, in a story in which it matters; the points come from the code.

The runner's, the comparison's and the store's points are died at here, by an exception that nothing catches. Those inside
the local backend need a real process, and are in ``tests/crash``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import NoReturn

import pytest

from ml_toolbox.base.clock import Clock
from ml_toolbox.engine.collection import StoreWithBooks
from ml_toolbox.state.postgres import PostgresStore
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.crash_points import enumerated
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.simulator.invariants import check
from ml_toolbox.testing.simulator.scripted import Script, Stage
from tests.crash.test_command_death import POINTS as KILLED_AT
from tests.postgres import Server
from tests.simulation.binding import Toolbox
from tests.simulation.scripts import SCRIPTS

IN_TRANSACTIONS = ("registers", "in line behind another", "preempted", "another model")
"""Stories whose deaths inside transactions are died on real databases, too."""
IN_STORES = {"store:rows:before:ledger", "store:written:before:commit", "store:committed:before:answer"}
MOST = 120
"""A story with more passes than this, hundreds of looks at one endpoint, is died in at each label's first and last pass."""
NEXT = 12
"""How many passes after the first death the second one is tried at: until the recovery is through."""


def play(script: Script, deaths: Sequence[int] = (), store: Callable[[Clock], StoreWithBooks] = MemoryStore) -> Stage:
    """The story with these deaths, and its promises checked."""
    stage = Stage(script, Toolbox(), deaths, store=store)
    evidence = stage.play()
    broken = check(evidence)
    assert not broken, f"{script.kind} {script.name}, died at {stage.died_at} ({list(deaths)}): {broken}"
    return stage


def first_passes(passed: Sequence[str]) -> list[int]:
    """Number of the first pass of each label, and of the last."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(passed, start=1):
        numbers[label].append(number)
    return sorted({number for found in numbers.values() for number in (found[0], found[-1])})


ALL = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.kind}: {script.name}")


@ALL
def test_one_death_anywhere(script: Script) -> None:
    passed = play(script).passed
    numbers = range(1, len(passed) + 1) if len(passed) <= MOST else first_passes(passed)
    for number in numbers:
        assert play(script, [number]).died_at


@ALL
def test_a_second_death_while_recovering(script: Script) -> None:
    for number in first_passes(play(script).passed):
        for then in range(1, NEXT + 1):
            play(script, [number, then])


@pytest.mark.slow
@ALL
def test_two_deaths_anywhere(script: Script) -> None:
    passes = len(play(script).passed)
    for number in range(1, min(passes, 120) + 1):
        for then in range(1, min(passes - number, 60) + 1):
            play(script, [number, then])


def test_every_point_of_the_code_is_died_at() -> None:
    once: set[tuple[str, str]] = set()
    twice: set[tuple[str, str]] = set()
    for script in SCRIPTS:
        for number in first_passes(play(script).passed):
            once.update((script.kind, label) for label in play(script, [number]).died_at)
        recovery = play(script, [1]).passed[1:]
        for number in first_passes(recovery):
            twice.update((script.kind, label) for label in play(script, [1, number]).died_at[1:])
    workflows = Toolbox().workflows(_none, _none, _NoRegistry(), "here")
    points = {point for point in enumerated(workflows) if point.kind in ("job", "endpoint")}
    assert points - once == set(), "never died at"
    assert points - twice == set(), "never died at during a recovery"
    elsewhere = set(enumerated(workflows)) - points
    assert {point.label for point in elsewhere if point.kind.startswith("state.")} == IN_STORES
    killed = {label for labels in KILLED_AT.values() for label in labels}
    backends = {point.label for point in elsewhere if not point.kind.startswith("state.")}
    assert backends <= killed, "points of backends that no process is killed at"


@pytest.mark.parametrize("name", IN_TRANSACTIONS)
def test_deaths_inside_transactions_of_sqlite(name: str, tmp_path: Path) -> None:
    def store(clock: Clock) -> SqliteStore:
        return SqliteStore(Path(mkdtemp(dir=tmp_path)) / "state.db", clock=clock)

    die_in_transactions(name, store)


@pytest.mark.parametrize("name", IN_TRANSACTIONS[:2])
def test_deaths_inside_transactions_of_postgres(name: str, postgres_server: Server) -> None:
    stores: list[PostgresStore] = []

    def store(clock: Clock) -> PostgresStore:
        stores.append(PostgresStore(postgres_server.new_schema(), clock=clock))
        return stores[-1]

    try:
        die_in_transactions(name, store)
    finally:
        for one in stores:
            one.close()


def die_in_transactions(name: str, store: Callable[[Clock], StoreWithBooks]) -> None:
    """The story, with a death at each pass of each of the store's own points."""
    script = next(one for one in SCRIPTS if one.name == name)
    passed = play(script, store=store).passed
    inside = [number for number, label in enumerate(passed, start=1) if label.startswith("store:")]
    assert {passed[number - 1] for number in inside} == IN_STORES
    for number in inside:
        assert play(script, [number], store=store).died_at[0].startswith("store:")


def _none(name: str) -> NoReturn:
    raise AssertionError(f"nothing is asked of {name}")


class _NoRegistry:
    def register(self, job_id: str, name: str) -> str:
        raise AssertionError("nothing is registered")
