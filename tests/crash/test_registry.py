"""Writers in processes of their own: killed with SIGKILL at any moment, and racing each other for real.

Run as a module with arguments, this file is one such writer.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from tests.unit.features.registry.support import make_package

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 60.0


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.test_registry", *map(str, arguments)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(writer: subprocess.Popen[str]) -> list[str]:
    """What it said before it ended and nobody has read. (``communicate`` would skip what ``readline`` has buffered.)"""
    assert writer.stdout is not None
    assert writer.stdin is not None
    with writer.stdin, writer.stdout:
        rest = writer.stdout.read()
    writer.wait(timeout=_DEADLINE_S)
    return rest.splitlines()


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def write_for_ever(store: str, package: str, actor: str, first_key: str) -> None:
    """Register, promote and tag, telling before each step what is begun and after it what is done."""
    registry = Registry(open_store(store), actor=actor)
    key, turn = int(first_key), 0
    while True:
        say(begin="register", key=key)
        number = registry.register("m", Path(package), idempotency_key=f"{actor}/{key}").number
        say(done="register", key=key, number=number)
        for stage in ("Staging", "Production"):
            turn += 1
            mark = f"{actor}/{key}/{turn}"
            registry.promote(f"m:{number}", stage, archive_existing=True, alias="newest")
            registry.set_tags(f"m:{number}", {"mark": mark})
            say(done="tag", number=number, mark=mark)
        key += 1


def run_until_killed(
    store: str, package: Path, actor: str, first_key: int, acknowledgements: int
) -> list[dict[str, Any]]:
    """What a writer said before it was killed, right after its n-th acknowledgement: in the middle of what follows."""
    writer = start(store, package, actor, first_key)
    assert writer.stdout is not None
    lines: list[str] = []
    try:
        while acknowledgements:
            lines.append(writer.stdout.readline())
            acknowledgements -= "done" in lines[-1]
        # Not waiting for luck: whatever the moment, the same must hold. This only spreads the moments.
        time.sleep(random.Random(first_key).uniform(0.0, 0.01))
    finally:
        writer.send_signal(signal.SIGKILL)
        lines += finish(writer)
    assert writer.returncode == -signal.SIGKILL
    return [json.loads(line) for line in lines if line.strip().endswith("}")]


def test_a_writer_killed_at_any_moment_leaves_everything_or_nothing(tmp_path: Path) -> None:
    store, package = f"file://{tmp_path}/store", make_package(tmp_path / "package")
    said: list[dict[str, Any]] = []
    next_key = 0
    for kill in range(9):
        said += run_until_killed(store, package, "ann", next_key, acknowledgements=1 + kill % 5)
        # The next process repeats the key that was under way, or, when it was acknowledged, goes on.
        done = {line["key"] for line in said if line.get("done") == "register"}
        begun = {line["key"] for line in said if "begin" in line}
        next_key = min(begun - done, default=max(done, default=-1) + 1)

        registry = Registry(open_store(store), actor="check")
        versions = {version.number: version for version in registry.versions("m")}
        assert sorted(versions) == list(range(1, len(versions) + 1))
        acknowledged = {line["key"]: line["number"] for line in said if line.get("done") == "register"}
        assert set(acknowledged.values()) <= set(versions)
        assert len(versions) - len(acknowledged) in (0, 1)
        tagged = {line["number"]: line["mark"] for line in said if line.get("done") == "tag"}
        for number, mark in tagged.items():
            stored = versions[number].tags["mark"]
            assert int(stored.rpartition("/")[2]) >= int(mark.rpartition("/")[2])
        moves = [line for line in registry.audit("m") if line.action == "promote"]
        assert len(moves) >= sum(line.get("done") == "tag" for line in said)
        if moves:
            # Stage and alias moved together, or not at all.
            assert registry.get("m@newest").number == moves[-1].version
            assert registry.get(f"m:{moves[-1].version}").stage.value == moves[-1].detail["to"]
        assert registry.verify(f"m:{len(versions)}").ok
    assert len(acknowledged) > 4


def test_racing_processes_lose_nothing_and_give_no_number_twice(tmp_path: Path) -> None:
    store, package = f"file://{tmp_path}/store", make_package(tmp_path / "package")
    writers = {actor: start(store, package, actor, 0) for actor in ("a", "b", "c")}
    said: dict[str, list[dict[str, Any]]] = {}
    try:
        for actor, writer in writers.items():
            assert writer.stdout is not None
            said[actor] = []
            while sum(line.get("done") == "register" for line in said[actor]) < 8:
                said[actor].append(json.loads(writer.stdout.readline()))
    finally:
        for writer in writers.values():
            writer.send_signal(signal.SIGKILL)
    for actor, writer in writers.items():
        said[actor] += [json.loads(line) for line in finish(writer) if line.endswith("}")]

    registry = Registry(open_store(store), actor="check")
    versions = {version.number: version.created_by for version in registry.versions("m")}
    assert sorted(versions) == list(range(1, len(versions) + 1))
    numbers = [
        (line["number"], actor) for actor, lines in said.items() for line in lines if line.get("done") == "register"
    ]
    assert len({number for number, _ in numbers}) == len(numbers)
    assert set(numbers) <= set(versions.items())
    assert len(versions) - len(numbers) <= len(writers)
    marks = {line.detail["tags"]["mark"] for line in registry.audit("m") if line.action == "set-tags"}
    assert {line["mark"] for lines in said.values() for line in lines if line.get("done") == "tag"} <= marks


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_a_registry_that_is_interrupted_keeps_no_process_alive(tmp_path: Path, signal_: signal.Signals) -> None:
    writer = start(f"file://{tmp_path}/store", make_package(tmp_path / "package"), "ann", 0)
    assert writer.stdout is not None
    assert "begin" in writer.stdout.readline()
    writer.send_signal(signal_)
    finish(writer)
    assert writer.returncode == -signal_


if __name__ == "__main__":
    write_for_ever(*sys.argv[1:])
