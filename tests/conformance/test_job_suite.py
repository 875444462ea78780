"""The job suite is itself tested: every lie is caught by the test that is there for it, and the truth passes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_toolbox.base.processes import descendants, kill, marked
from tests.conformance.lying_jobs import LIES

FILE = Path(__file__).with_name("lying_jobs.py")
_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) \S+::Test(\w+)::(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Test -> outcome of one pytest run over all pairs of liar and the test that must catch it."""
    pairs = [(liar.__name__, test) for liar, test in LIES.items()]
    honest = [("Honest", test) for test in sorted(set(LIES.values()))]
    nodes = [f"{FILE}::Test{name}::{test}" for name, test in (*pairs, *honest)]
    folder = tmp_path_factory.mktemp("liars")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.Popen(
        [*command, f"--basetemp={folder / 'base'}", *nodes],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=FILE.parents[2],
    )
    try:
        output, _ = run.communicate(timeout=110)
    finally:
        kill({run.pid, *descendants(run.pid)})
    _sweep(folder)
    return {(name, test): outcome for outcome, name, test in _OUTCOME.findall(output)}


def _sweep(folder: Path) -> None:
    """End what the liars left running (some lie about exactly that)."""
    for record in folder.glob("base/**/job.json"):
        kill(marked(json.loads(record.read_text())["runtime"]["mark"]))


@pytest.mark.parametrize(("liar", "test"), [(liar.__name__, test) for liar, test in LIES.items()])
def test_a_lie_is_caught(outcomes: dict[tuple[str, str], str], liar: str, test: str) -> None:
    assert outcomes[liar, test] == "FAILED"


@pytest.mark.parametrize("test", sorted(set(LIES.values())))
def test_the_truth_passes(outcomes: dict[tuple[str, str], str], test: str) -> None:
    assert outcomes["Honest", test] == "PASSED"
