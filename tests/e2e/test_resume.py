"""Both examples of resuming, run unbroken and broken off in every way: the same model and metrics, bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.processes import ProcessIdentity
from ml_toolbox.domain.jobs import JobSpec, JobState, RetryRule
from ml_toolbox.features.training import Job, JobRecord

EXAMPLES = Path(__file__).parents[2] / "examples" / "resume"
EPOCHS = 12
WAIT_S = 100.0
# Each way of breaking off, and after which epoch at the earliest.
Interrupt = Callable[["Broken"], None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def sgd_weights(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    import joblib

    model = joblib.load(file)
    return {"coef": model.coef_, "intercept": model.intercept_, "steps": np.array(model.t_)}


def torch_weights(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    import torch

    return {name: value.numpy() for name, value in torch.load(file, weights_only=False).state_dict().items()}


class Example(NamedTuple):
    script: str
    model: str
    weights: Callable[[Path], Mapping[str, np.ndarray[Any, Any]]]


EXAMPLE = {
    "without-torch": Example("digits_sgd.py", "model.joblib", sgd_weights),
    "torch": Example("digits_torch.py", "model.pt", torch_weights),
}


class Result(NamedTuple):
    weights: Mapping[str, np.ndarray[Any, Any]]
    history: list[dict[str, float]]
    metrics: Mapping[str, float]
    log: list[str]
    record: JobRecord


class Broken:
    """A running job, and the ways to break it off."""

    def __init__(self, example: Example, home: Path, *, pause_s: float) -> None:
        self.example = example
        self.home = home
        self.training = Toolbox(home=home).training
        spec = JobSpec(
            name="digits",
            script=example.script,
            source=str(EXAMPLES),
            hyperparameters={"epochs": EPOCHS, "pause_s": pause_s},
            retry=RetryRule(preempted=2, lost=1),
        )
        self.job: Job = self.training.submit(spec)

    def until(self, reached: Callable[[JobRecord], bool]) -> JobRecord:
        deadline = time.monotonic() + WAIT_S
        while not reached(record := self.job.record):
            assert not record.ended_at, f"{record.failure}\n{self.log()}"
            assert time.monotonic() < deadline, f"{record}\n{self.log()}"
            time.sleep(0.02)
        return record

    def after(self, epoch: int) -> JobRecord:
        return self.until(lambda record: (record.epoch or 0) >= epoch)

    def next_attempt(self, number: int) -> None:
        self.until(lambda record: record.attempt == number)

    def log(self) -> list[str]:
        return [line.text for line in self.job.logs() if line.stream != "system"]

    def result(self) -> Result:
        record = self.training.wait(self.job.id, timeout_s=WAIT_S)
        assert record.state is JobState.SUCCEEDED, f"{record.failure}\n{self.log()}"
        output = Path(str(record.output_uri))
        history = json.loads((output / "history.json").read_text())
        model = output.parents[1] / "model" / self.example.model
        return Result(self.example.weights(model), history, dict(record.metrics), self.log(), record)

    def kill_supervisor(self) -> None:
        folder = self.home / "providers" / "local" / "jobs" / self.job.record.resource
        known = json.loads((folder / "supervisor.json").read_text())
        os.kill(ProcessIdentity.parse(known["supervisor"]).pid, signal.SIGKILL)


def preempt_twice(broken: Broken) -> None:
    """Once by the command and with time to save, once from Python and without any."""
    broken.after(2)
    command = [sys.executable, "-m", "ml_toolbox.cli.main", "jobs", "preempt", "digits", "--notice", "60", "--json"]
    environment = {**os.environ, "MLTOOLBOX_HOME": str(broken.home)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["attempt"] == 1
    broken.next_attempt(2)
    reached = broken.after(6).epoch
    broken.job.preempt(notice_s=0)
    broken.next_attempt(3)
    assert (broken.after(7).epoch or 0) >= (reached or 0), "more than one interval was lost"


def kill_the_supervisor(broken: Broken) -> None:
    broken.after(4)
    broken.kill_supervisor()
    broken.next_attempt(2)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    results: dict[str, Result] = {}

    def run(name: str) -> Result:
        if name not in results:
            results[name] = Broken(EXAMPLE[name], tmp_path_factory.mktemp(name), pause_s=0).result()
        return results[name]

    return run


@pytest.mark.parametrize(
    ("interrupt", "attempts"),
    [(preempt_twice, 3), (kill_the_supervisor, 2)],
    ids=["preempted-twice", "supervisor-killed"],
)
@pytest.mark.parametrize("name", EXAMPLE)
def test_an_interrupted_run_ends_as_an_unbroken_one(
    name: str, interrupt: Interrupt, attempts: int, unbroken: Callable[[str], Result], tmp_path: Path
) -> None:
    whole = unbroken(name)
    assert whole.record.attempt == 1
    assert whole.metrics["accuracy"] > 0.85
    broken = Broken(EXAMPLE[name], tmp_path / "home", pause_s=0.3)
    interrupt(broken)
    pieces = broken.result()
    assert pieces.record.attempt == attempts
    resumed = [int(found[1]) for line in pieces.log if (found := re.match(r"resumed after epoch (\d+)", line))]
    assert len(resumed) == attempts - 1
    assert all(step > 0 for step in resumed)
    assert resumed == sorted(set(resumed))
    assert pieces.weights.keys() == whole.weights.keys()
    for part, values in whole.weights.items():
        assert pieces.weights[part].tobytes() == values.tobytes(), f"{part} differs"
    assert pieces.history == whole.history, "every epoch's metrics to the last bit"
    assert len(whole.history) == EPOCHS
    assert pieces.metrics == whole.metrics
