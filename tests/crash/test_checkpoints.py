"""kill -9 while a checkpoint is saved: what a next attempt finds is whole, and never older than what was acknowledged."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.crash.checkpoint_driver import Place

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1 << 20
ROUNDS = 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "objects"])
def test_death_before_every_single_operation(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.checkpoint_driver", "every", kind, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert report["operations"] > 50, "the kills must reach every part of it"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "objects"])
def test_death_at_any_moment(kind: str, tmp_path: Path) -> None:
    """Attempts one after the other, each killed at a random moment while it writes 2 MiB again and again."""
    chance = random.Random(f"checkpoint {kind}")
    place, saved = Place(kind, tmp_path), 0
    for number in range(ROUNDS):
        command = [sys.executable, "-m", "tests.crash.checkpoint_driver", "forever", kind, str(tmp_path)]
        with subprocess.Popen(
            [*command, str(saved + 1), str(SIZE)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            saved = int(running.stdout.readline() or saved)  # past its start, so that the kill falls into a save
            killer = threading.Timer(chance.uniform(0, 0.2), running.kill)
            killer.start()
            for line in running.stdout:
                saved = int(line)
            killer.join()
        assert place.problems(saved, SIZE) == [], f"round {number}"
    assert saved >= ROUNDS
