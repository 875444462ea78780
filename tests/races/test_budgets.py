"""Many processes, a few budgets: none is ever passed, and no balance drifts from its ledger."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ml_toolbox.engine.ledger import Limit, Line, Posting
from ml_toolbox.state import open_store
from tests.races.checker import Changed, violations
from tests.races.client import LIMITED, most_of

PROCESSES = 16
ROOT = Path(__file__).parents[2]


def raced(place: str, races: int) -> None:
    store = open_store(place)
    chance = random.Random(0)
    changes = []
    for scope, meter, period in LIMITED:
        most = most_of(meter, chance)
        store.set_limit(scope, meter, period, most)
        changes.append(Changed(key=(scope, meter, period), most=most, after=-1, until=0))
    command = [sys.executable, "-m", "tests.races.client", place]
    clients = [
        subprocess.Popen(
            [*command, str(number), str(races // PROCESSES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(PROCESSES)
    ]
    told = []
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        for client in clients:
            answer, _ = client.communicate()
            assert client.returncode == 0
            told.append(json.loads(answer))
    finally:
        for client in clients:
            client.kill()
            client.wait()
    changes += [
        Changed(key=tuple(changed["key"]), most=changed["most"], after=changed["after"], until=changed["until"])
        for answer in told
        for changed in answer["changes"]
    ]
    lines = store.lines(limit=10**9)
    rows = store.find("race", limit=10**9)
    scopes = {row.id: row.scopes for row in rows}
    assert violations(lines, scopes, changes, store.limits()) == []

    granted, refused = (sum(answer[word] for answer in told) for word in ("granted", "refused"))
    assert granted == len(rows) == sum(line.posting.kind == "reserve" for line in lines), "nothing lost, nothing twice"
    assert granted > races // 20, "the limits let enough through to be raced for"
    assert refused > races // 20, "and were met"
    store.close()


Place = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "state.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.lengthy
@pytest.mark.timeout(300)
def test_no_budget_is_passed_by_16_processes(place: str) -> None:
    raced(place, 10_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_budget_is_passed_in_a_long_fight(place: str) -> None:
    raced(place, 100_000)


def line(seq: int, *, held: int = 0, running: int = 0) -> Line:
    posting = Posting(attempt=1, kind="reserve", month="2027-01", held=held, running=running)
    return Line(seq=seq, at=0.0, work_id=f"r{seq}", kind_of_work="race", name="r", place="", posting=posting)


def test_the_checker_sees_a_budget_that_was_passed() -> None:
    lines = [line(1, held=6), line(2, held=6)]
    scopes = {"r1": ("all",), "r2": ("all",)}
    limit = Limit(scope="all", meter="cost", most=10, held=12)
    made = Changed(key=("all", "cost", ""), most=10, after=-1, until=0)
    assert len(violations(lines, scopes, [made], [limit])) == 1
    assert violations(lines, scopes, [replace(made, most=12)], [limit]) == []
    raised = replace(made, most=12, after=2, until=2)
    assert len(violations(lines, scopes, [made, raised], [limit])) == 1, "raised too late"
    assert violations(lines, scopes, [made, replace(raised, after=1)], [limit]) == [], "raised meanwhile"


def test_the_checker_sees_a_balance_that_drifted() -> None:
    limit = Limit(scope="all", meter="running", most=10, held=2)
    assert len(violations([line(1, running=1)], {"r1": ("all",)}, [], [limit])) == 1
    assert violations([line(1, running=1)], {"r1": ("all",)}, [], [replace(limit, held=1)]) == []
