"""kill -9 of what watches a job: nothing of the job goes on running, and the job says what happened."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ml_toolbox.base.processes import ProcessIdentity, kill, marked, start_time
from ml_toolbox.domain.jobs import JobState
from tests.crash.homes import Home, spec, until

WITHIN_S = 1.0

# Everything a training script may do to get out of sight, each process telling its pid.
ESCAPERS = """
import os, signal, subprocess, sys, time

def tell():
    open(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\n')

LOOP = "import os, time; open(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\\\n')\\nwhile True: time.sleep(0.05)"
tell()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, '-c', LOOP])                                          # a worker
subprocess.Popen([sys.executable, '-c', LOOP], start_new_session=True)                  # its own session
subprocess.Popen(['nohup', sys.executable, '-c', LOOP], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if EMPTY_ENVIRONMENT:                                                                   # without the job's mark
    subprocess.Popen([sys.executable, '-c', LOOP], env={'PIDS': os.environ['PIDS']}, start_new_session=True)
if os.fork() == 0:                                                                      # a daemon: forked twice
    os.setsid()
    if os.fork() == 0:
        tell()
        while True:
            time.sleep(0.05)
    os._exit(0)
while True:
    time.sleep(0.05)
"""


class Scene:
    """One job with processes all over the place."""

    def __init__(self, folder: Path, script: str, *, expect: int, lost: int = 0) -> None:
        self.home = Home(folder / "home")
        self.pids_file = folder / "pids"
        self.job = self.home.training.submit(spec(folder / "source", script, lost=lost))
        until(lambda: len(self.pids()) >= expect, f"{expect} processes")
        self.resource = self.job.record.resource
        self.root = self.home.root / "providers" / "local" / "jobs" / self.resource
        self.mark = json.loads((self.root / "job.json").read_text())["runtime"]["mark"]

    def pids(self) -> set[int]:
        return {int(line) for line in self.pids_file.read_text().split()} if self.pids_file.exists() else set()

    def alive(self) -> set[int]:
        return {pid for pid in self.pids() if start_time(pid) is not None}

    def watcher(self, role: str) -> int:
        return ProcessIdentity.parse(json.loads((self.root / "supervisor.json").read_text())[role]).pid

    def assert_all_gone(self) -> None:
        deadline = time.monotonic() + WITHIN_S
        while self.alive() or marked(self.mark):
            assert time.monotonic() < deadline, f"still running: {self.alive() | marked(self.mark)}"
            time.sleep(0.005)


@pytest.fixture(autouse=True)
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))


@pytest.mark.parametrize("role", ["supervisor", "guardian"])
def test_either_watcher_alone_ends_everything(tmp_path: Path, role: str) -> None:
    scene = Scene(tmp_path, ESCAPERS.replace("EMPTY_ENVIRONMENT", "True"), expect=6)
    os.kill(scene.watcher(role), signal.SIGKILL)
    scene.assert_all_gone()
    until(lambda: scene.job.state.is_final, "a final state", within_s=WITHIN_S)
    record = scene.job.record
    assert record.state is JobState.FAILED
    assert record.failure is not None
    assert record.failure.kind == "lost"
    assert "died" in record.failure.cause


def test_with_both_killed_the_script_dies_at_once_and_the_rest_at_the_next_look(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ESCAPERS.replace("EMPTY_ENVIRONMENT", "False"), expect=5)
    kill({scene.watcher("supervisor"), scene.watcher("guardian")})
    until(lambda: scene.job.state.is_final, "a look that finds both dead", within_s=WITHIN_S)
    scene.assert_all_gone()
    record = scene.job.record
    assert record.state is JobState.FAILED
    assert record.failure is not None
    assert record.failure.kind == "lost"


def test_a_lost_job_is_tried_again_when_asked_and_finds_its_checkpoint(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, time\n"
        "from ml_toolbox import runtime\n"
        "open(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\n')\n"
        "found = runtime.latest_checkpoint()\n"
        "if found:\n    print('resumed at', found[1], found[0].read_text())\n    raise SystemExit(0)\n"
        "pathlib.Path('weights').write_text('seven')\n"
        "runtime.checkpoint('weights', step=7)\n"
        "print('saved', flush=True)\n"
        "while True:\n    time.sleep(0.05)\n"
    )
    scene = Scene(tmp_path, script, expect=1, lost=1)
    until(lambda: any(line.text == "saved" for line in scene.job.logs()), "checkpoint")
    os.kill(scene.watcher("supervisor"), signal.SIGKILL)
    scene.assert_all_gone()
    record = scene.home.training.wait(scene.job.id, timeout_s=60)
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 2)
    assert [line.text for line in scene.job.logs() if line.stream == "out"] == ["saved", "resumed at 7 seven"]
    assert len(scene.home.resources()) == 2
    scene.job.delete()
    assert scene.home.resources() == []


def test_what_a_script_leaves_running_ends_with_it(tmp_path: Path) -> None:
    ending = ESCAPERS.replace("EMPTY_ENVIRONMENT", "True").rpartition("while True:\n    time.sleep(0.05)\n")[0]
    wait = "while len(open(os.environ['PIDS']).read().split()) < 6:\n    time.sleep(0.01)\n"
    scene = Scene(tmp_path, ending + wait, expect=6)
    record = scene.home.training.wait(scene.job.id, timeout_s=30)
    assert record.state is JobState.SUCCEEDED
    scene.assert_all_gone()
