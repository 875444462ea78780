"""Capacity that is taken away from local jobs at awkward moments, and what the next attempt finds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.processes import ProcessIdentity
from ml_toolbox.domain.jobs import Environment, JobSpec, JobState, Limits
from ml_toolbox.ports.jobs import JobObservation, Owner, Preempts
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.jobs import LocalJobBackend
from ml_toolbox.providers.local.machine import Machine

WAIT_S = 60.0
SLEEPER = "import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
LISTENER = (
    "import time\nfrom ml_toolbox import runtime\nruntime.should_stop()\nprint('started', flush=True)\n"
    "while not runtime.should_stop():\n    time.sleep(0.01)\n"
)
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER


class Bench:
    """Attempts of one job after another on a backend of its own."""

    def __init__(self, folder: Path) -> None:
        context = ProviderContext(home=folder / "home", install="suite", settings={"max_concurrent_jobs": 1})
        self.backend = LocalJobBackend(context, machine=Machine(cpus=2, memory_gib=4.0))
        self.folder = folder
        self.started: list[str] = []

    def start(self, script: str, *, row: str = "row", attempt: int = 1, **fields: Any) -> str:
        source = self.folder / f"source-{len(self.started)}"
        source.mkdir()
        (source / "train.py").write_text(script)
        fields = {
            "script": None if "command" in fields else "train.py",
            "limits": Limits(max_duration_s=WAIT_S, stop_grace_s=0.5),
            **fields,
        }
        spec = JobSpec(name="job", source=str(source), **fields)
        request = self.backend.build(spec, Owner(install="suite", row=row, attempt=attempt))
        self.started.append(self.backend.submit(request, request.name))
        return self.started[-1]

    def until(self, job: str, reached: Callable[[JobObservation], bool]) -> JobObservation:
        deadline = time.monotonic() + WAIT_S
        while not reached(seen := self.backend.observe(job)):
            assert time.monotonic() < deadline, f"{seen}\n{self.printed(job)}"
            time.sleep(0.01)
        return seen

    def end(self, job: str) -> JobObservation:
        return self.until(job, lambda seen: seen.state.is_final)

    def running(self, script: str, **fields: Any) -> str:
        """Started, and past its first line."""
        job = self.start(script, **fields)
        self.until(job, lambda _: "started" in self.printed(job))
        return job

    def preempted(self, job: str) -> JobObservation:
        seen = self.end(job)
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        assert seen.failure.kind == "preempted", seen.failure
        assert seen.failure.next_step
        return seen

    def printed(self, job: str) -> list[str]:
        return [line.text for line in self.backend.logs(job).lines if line.stream != "system"]

    def watcher(self, job: str, role: str) -> int:
        known = json.loads((self.folder / "home/providers/local/jobs" / job / "supervisor.json").read_text())
        return ProcessIdentity.parse(known[role]).pid


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for job in bench.started:
        bench.backend.delete(job)


def test_it_says_that_it_can(bench: Bench) -> None:
    assert isinstance(bench.backend, Preempts)


def test_a_script_that_knows_nothing_of_it_is_preempted_at_the_notice(bench: Bench) -> None:
    job = bench.running(SLEEPER)
    bench.backend.preempt(job, notice_s=WAIT_S)
    assert bench.preempted(job).exit_code == -signal.SIGTERM


def test_while_the_notice_runs_the_job_runs_and_says_so(bench: Bench) -> None:
    job = bench.running(DEAF)
    bench.backend.preempt(job, notice_s=WAIT_S)
    seen = bench.backend.observe(job)
    assert (seen.state, seen.message) == (JobState.RUNNING, "the capacity is being taken away")


def test_a_script_that_was_told_and_left_has_not_finished(bench: Bench) -> None:
    model = "open(str(runtime.model_dir() / 'half.bin'), 'w').write('x')\nprint('left')\n"
    job = bench.running(LISTENER + model)
    bench.backend.preempt(job, notice_s=WAIT_S)
    assert bench.preempted(job).model_uri is None
    assert bench.printed(job)[-1] == "left"


def test_a_command_that_traps_and_leaves_has_not_finished(bench: Bench) -> None:
    trap = "trap 'exit 0' TERM; echo started; while true; do sleep 0.05; done"
    job = bench.running("", command=("sh", "-c", trap))
    bench.backend.preempt(job, notice_s=WAIT_S)
    assert bench.preempted(job).exit_code == 0


@pytest.mark.parametrize("ending", ["raise SystemExit(7)", "raise ValueError('x')", "import os; os._exit(0)"])
def test_however_it_ends_after_the_notice_it_is_not_the_users_error(bench: Bench, ending: str) -> None:
    job = bench.running(LISTENER + ending)
    bench.backend.preempt(job, notice_s=WAIT_S)
    bench.preempted(job)


def test_a_job_in_the_queue_is_preempted_without_having_run(bench: Bench, tmp_path: Path) -> None:
    first = bench.running(SLEEPER)
    queued = bench.start(f"open({str(tmp_path / 'ran')!r}, 'w')", row="other")
    bench.until(queued, lambda seen: "places" in seen.message)
    bench.backend.preempt(queued, notice_s=WAIT_S)
    bench.preempted(queued)
    assert bench.backend.observe(first).state is JobState.RUNNING
    assert not (tmp_path / "ran").exists()


def test_a_job_whose_environment_is_being_made_is_preempted(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never-1.0-py3-none-any.whl")  # the installer waits for ever
    job = bench.start("", environment=Environment(requirements=(str(tmp_path / "never-1.0-py3-none-any.whl"),)))
    bench.until(job, lambda seen: seen.state is JobState.PROVISIONING)
    bench.backend.preempt(job, notice_s=0.2)
    bench.preempted(job)


@pytest.mark.parametrize("role", ["supervisor", "guardian"])
def test_a_watcher_killed_within_the_notice_changes_nothing(bench: Bench, role: str) -> None:
    job = bench.running(DEAF)
    bench.backend.preempt(job, notice_s=WAIT_S)
    os.kill(bench.watcher(job, role), signal.SIGKILL)
    bench.preempted(job)


def test_of_many_notices_at_once_the_first_stands(bench: Bench) -> None:
    job = bench.running(DEAF)
    bench.backend.preempt(job, notice_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bench.backend.preempt(job, notice_s=3600), range(32)))
    bench.preempted(job)
    lines = [line.text for line in bench.backend.logs(job).lines if line.stream == "system"]
    assert lines[0] == "preempted: the capacity is taken away in 0.5 s"
    assert len(lines) == 2


def test_preempted_and_stopped_by_many_at_once(bench: Bench) -> None:
    job = bench.running(DEAF)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(bench.backend.preempt, job, notice_s=WAIT_S) for _ in range(16)] + [
            pool.submit(bench.backend.stop, job, grace_s=0.1) for _ in range(16)
        ]:
            done.result()
    assert bench.end(job).state is JobState.STOPPED


def test_a_stop_within_the_notice_is_a_stop(bench: Bench) -> None:
    job = bench.running(DEAF)
    bench.backend.preempt(job, notice_s=WAIT_S)
    bench.backend.stop(job, grace_s=0.2)
    assert bench.end(job).state is JobState.STOPPED


def test_preemption_of_a_job_that_is_being_stopped_leaves_it_stopped(bench: Bench) -> None:
    job = bench.running(DEAF)
    bench.backend.stop(job, grace_s=0.5)
    bench.backend.preempt(job, notice_s=0)
    assert bench.end(job).state is JobState.STOPPED


def test_a_long_notice_does_not_lengthen_the_attempt(bench: Bench) -> None:
    job = bench.running(DEAF, limits=Limits(max_duration_s=1.0, stop_grace_s=0.2))
    bench.backend.preempt(job, notice_s=3600)
    seen = bench.preempted(job)
    assert seen.started_at is not None
    assert seen.ended_at is not None


SLOW_TO_PACKAGE = """
import os, pickle
class Model:
    def __reduce__(self):
        wait = "import os, time\\nprint('packaging', flush=True)\\nwhile not os.path.exists(GO): time.sleep(0.01)"
        return exec, (wait.replace("GO", repr(os.environ["GO"])),)
with open(os.path.join(os.environ["SM_MODEL_DIR"], "model.pkl"), "wb") as file:
    pickle.dump(Model(), file)
"""


def test_what_is_killed_while_its_model_is_packaged_is_preempted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    job = bench.start(SLOW_TO_PACKAGE, command=(sys.executable, "train.py"))
    bench.until(job, lambda _: "packaging" in bench.printed(job))
    bench.backend.preempt(job, notice_s=0.1)
    bench.preempted(job)


def test_a_script_that_had_ended_gets_its_model_packaged_within_the_notice(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    job = bench.start(SLOW_TO_PACKAGE)
    bench.until(job, lambda _: "packaging" in bench.printed(job))
    bench.backend.preempt(job, notice_s=WAIT_S)
    bench.until(job, lambda _: any("taken away" in line.text for line in bench.backend.logs(job).lines))
    (tmp_path / "go").touch()
    assert bench.end(job).state is JobState.SUCCEEDED


def test_the_next_attempt_finds_the_checkpoint_and_the_scripts_own_files(bench: Bench) -> None:
    script = (
        "import os, pathlib, time\nfrom ml_toolbox import runtime\n"
        "mine = pathlib.Path(os.environ['AIP_CHECKPOINT_DIR']) / 'mine.txt'\n"
        "found = runtime.latest_checkpoint()\n"
        "if found:\n    print(found[1], found[0].read_text(), mine.read_text())\n    raise SystemExit(0)\n"
        "mine.write_text('my own')\npathlib.Path('state').write_text('seven')\nruntime.checkpoint('state', 7)\n"
        + SLEEPER
    )
    first = bench.running(script)
    shown = bench.backend.observe(first).checkpoint
    assert shown is not None
    assert shown.step == 7
    bench.backend.preempt(first, notice_s=0)
    assert bench.preempted(first).checkpoint == shown, "also after its end"
    second = bench.start(script, attempt=2)
    assert bench.end(second).state is JobState.SUCCEEDED, bench.printed(second)
    assert bench.printed(second) == ["7 seven my own"]
    assert bench.backend.observe(second).checkpoint == shown
    for job in (first, second):
        bench.backend.delete(job)
    assert not Path(shown.uri).exists(), "a place of the toolbox's own goes with the job"


def test_a_place_that_the_user_named_stays(bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / "mine" / "checkpoints"
    script = "import pathlib\nfrom ml_toolbox import runtime\npathlib.Path('s').write_text('x')\nruntime.checkpoint('s', 1)\n"
    job = bench.start(script, checkpoints=f"file://{place}")
    shown = bench.end(job).checkpoint
    assert shown is not None
    assert Path(shown.uri).parent == place
    bench.backend.delete(job)
    assert Path(shown.uri, "data", "s").read_text() == "x"
