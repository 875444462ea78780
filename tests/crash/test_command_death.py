"""kill -9 of a command at every labelled crash point: the next look finds exactly one resource, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml_toolbox.domain.jobs import JobState
from ml_toolbox.engine import crash
from tests.crash import driver
from tests.crash.homes import COUNTING, Home, spec

# What kind of model it is does not matter here: the script delivers a package that was made once.
TRAINS = (
    COUNTING + "import shutil\nshutil.copytree(os.environ['PACKAGE'], os.environ['SM_MODEL_DIR'], dirs_exist_ok=True)\n"
)
SLEEPS = COUNTING + "import time\nwhile True:\n    time.sleep(0.05)\n"

POINTS = {
    "train": (
        "before:insert",
        "after:insert:before:act",
        "after:insert:before:record",
        "after:record:insert",
        "before:submit",
        "local:made:before:publish",
        "local:published:before:start",
        "local:started:before:answer",
        "after:submit:before:record",
        "after:record:submit",
        "after:claim:before:record",
        "after:record:claim",
        "before:observe",
        "after:observe:before:record",
        "after:record:observe",
        "before:register",
        "after:register:before:record",
        "after:record:register",
        "store:written:before:commit",
        "store:rows:before:ledger",
        "store:committed:before:answer",
    ),
    "stop": ("before:stop", "after:stop:before:record", "after:record:stop"),
    "delete": (
        "before:delete",
        "after:delete:before:record",
        "after:record:delete",
        "after:failed-observe:before:record",
        "after:record:failed-observe",
    ),
}
ALL = [(action, label) for action, labels in POINTS.items() for label in labels]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from ml_toolbox.packages import save_model

    folder = tmp_path_factory.mktemp("made") / "package"
    rows = np.arange(8.0).reshape(4, 2)
    save_model(LinearRegression().fit(rows, rows.sum(axis=1)), folder, sample_input=rows)
    return folder


@pytest.fixture
def runs(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGE", str(package))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def script_of(action: str) -> str:
    return TRAINS if action in ("train", "tick") else SLEEPS


def die(root: Path, source: Path, action: str, label: str) -> None:
    """Run the command and let it be killed at the label."""
    command = [sys.executable, "-m", "tests.crash.driver", str(root), str(source), action, label]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, f"{label} was never passed: {done.stderr}"


def times_run(runs: Path) -> int:
    return len(runs.read_text()) if runs.exists() else 0


def assert_recovered(home: Home, action: str, label: str, runs: Path) -> None:
    home.training.tick()
    rows = home.rows()
    if label in ("before:insert", "store:written:before:commit"):  # the first transaction is the one that inserts
        assert (rows, home.resources(), times_run(runs)) == ((), [], 0)
        return
    assert len(rows) == 1
    job = rows[0].id
    if action == "delete":
        assert rows[0].phase == "deleted"
        assert home.resources() == []
        return
    record = home.training.wait(job, timeout_s=60)
    assert len(home.resources()) == 1
    if action == "stop":
        assert record.state is JobState.STOPPED
        return
    assert (record.state, record.model) == (JobState.SUCCEEDED, "model:1"), record
    assert home.registered() == [job]
    assert times_run(runs) == 1
    steps = [(step.phase, step.state) for step in home.training.history(job)]
    assert len(steps) == len(set(steps)), "a step was recorded twice"


@pytest.mark.parametrize(("action", "label"), ALL)
def test_nothing_is_lost_or_doubled(tmp_path: Path, source: Path, runs: Path, action: str, label: str) -> None:
    spec(source, script_of(action))
    die(tmp_path / "home", source, action, label)
    assert_recovered(Home(tmp_path / "home"), action, label, runs)


@pytest.mark.parametrize("label", ["before:submit", "local:published:before:start", "after:submit:before:record"])
@pytest.mark.parametrize("again", ["before:submit", "local:started:before:answer", "after:submit:before:record"])
def test_dying_again_while_recovering(tmp_path: Path, source: Path, runs: Path, label: str, again: str) -> None:
    spec(source, TRAINS)
    die(tmp_path / "home", source, "train", label)
    die(tmp_path / "home", source, "tick", again)
    assert_recovered(Home(tmp_path / "home"), "train", label, runs)


@pytest.mark.parametrize("action", sorted(POINTS))
def test_every_point_passed_is_tested(tmp_path: Path, source: Path, runs: Path, action: str) -> None:
    """A new crash point in the loop or the backend has to be added above."""
    spec(source, script_of(action))
    home = Home(tmp_path / "home")
    passed: set[str] = set()
    crash.arm(passed.add)
    try:
        driver.act(home, source, action)
    finally:
        crash.arm(None)
    assert passed <= {label for labels in POINTS.values() for label in labels}
    assert set(POINTS[action]) <= passed


def test_a_detached_job_outlives_its_command(tmp_path: Path, source: Path, runs: Path) -> None:
    spec(source, TRAINS + "import time\ntime.sleep(0.5)\nprint('finished')\n")
    die(tmp_path / "home", source, "train", "after:record:submit")
    home = Home(tmp_path / "home")
    record = home.training.wait("crashing", timeout_s=60)
    assert record.state is JobState.SUCCEEDED
    assert [line.text for line in home.training.logs("crashing") if line.stream == "out"] == ["finished"]


def test_two_commands_at_once_on_one_home(tmp_path: Path, source: Path, runs: Path) -> None:
    (source / "train.py").write_text(COUNTING)
    root = tmp_path / "home"
    command = [sys.executable, "-m", "tests.crash.driver", str(root), str(source), "many"]
    both = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for one in both:
        _, errors = one.communicate(timeout=100)
        assert one.returncode == 0, errors
    home = Home(root)
    records = home.training.list()
    assert [record.state for record in records] == [JobState.SUCCEEDED] * 6
    assert times_run(runs) == 8, "each of the eight jobs ran once"
    assert len(home.resources()) == 6


def test_many_commands_adopt_one_job_once(tmp_path: Path, source: Path, runs: Path) -> None:
    spec(source, TRAINS)
    root = tmp_path / "home"
    die(root, source, "train", "after:insert:before:act")
    command = [sys.executable, "-m", "tests.crash.driver", str(root), str(source), "tick"]
    adopters = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(4)]
    assert [one.wait(timeout=60) for one in adopters] == [0, 0, 0, 0]
    assert_recovered(Home(root), "train", "after:insert:before:act", runs)
