"""The helpers inside a job and outside of one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ml_toolbox import runtime
from ml_toolbox.base.errors import Invalid
from ml_toolbox.ports.jobs import Checkpoint
from ml_toolbox.runtime import helpers
from ml_toolbox.runtime.folder import observation
from ml_toolbox.runtime.job import Layout


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    values = {
        "hyperparameters": {"lr": 0.1, "layers": [64, 32]},
        "inputs": {"train": str(tmp_path / "data.csv")},
        "model": str(tmp_path / "model"),
        "output": str(tmp_path / "output"),
        "checkpoints": str(tmp_path / "checkpoints"),
        "progress": str(tmp_path / "progress.jsonl"),
        "checkpoint": str(tmp_path / "checkpoint.json"),
        "stop": str(tmp_path / "stop"),
        "preempt": str(tmp_path / "preempt"),
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    monkeypatch.setenv("MLTOOLBOX_CONFIG", str(tmp_path / "config.json"))
    return tmp_path


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLTOOLBOX_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_inside_a_job(config: Path) -> None:
    assert runtime.hyperparameters() == {"lr": 0.1, "layers": [64, 32]}
    assert runtime.inputs() == {"train": config / "data.csv"}
    assert runtime.model_dir() == config / "model"
    assert runtime.output_dir().is_dir()


def test_report_appends_one_line_with_numbers_of_any_kind(config: Path) -> None:
    import numpy as np

    runtime.report(epoch=1, epochs=3, loss=np.float32(0.5), accuracy=1)
    runtime.report(step=np.int64(7), steps=9)
    first, second = [json.loads(line) for line in (config / "progress.jsonl").read_text().splitlines()]
    assert (first["epoch"], first["epochs"], first["metrics"]) == (1, 3, {"loss": 0.5, "accuracy": 1.0})
    assert (second["step"], second["metrics"]) == (7, {})


def test_a_metric_that_is_no_number_is_refused_by_name(config: Path) -> None:
    with pytest.raises(Invalid, match="loss") as refused:
        runtime.report(loss="low")  # type: ignore[arg-type]
    assert refused.value.field == "loss"


def test_a_checkpoint_appears_whole_under_its_step_and_the_newest_is_found(config: Path) -> None:
    assert runtime.latest_checkpoint() is None
    weights = config / "weights.bin"
    for step in (9, 10, 2):
        weights.write_text(f"step {step}")
        assert runtime.checkpoint(weights, step).step == step
    weights.write_text("step 10 again")
    runtime.checkpoint(weights, 10)
    found = runtime.latest_checkpoint()
    assert found is not None
    assert (found[1], found[0].read_text()) == (10, "step 10 again")
    folder = config / "many"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    (folder / "empty").mkdir()
    runtime.checkpoint(folder, 11)
    found = runtime.latest_checkpoint()
    assert found is not None
    assert (found[0] / "deep" / "file").read_text() == "x"
    assert (found[0] / "empty").is_dir()
    left = [path.name for path in runtime.checkpoint_dir().iterdir() if path.name.startswith(".")]
    assert left == [], "nothing temporary stays"


def test_whoever_looks_at_the_job_finds_the_last_checkpoint(config: Path) -> None:
    layout = Layout(str(config))
    assert observation(layout).checkpoint is None
    (config / "weights").write_text("w")
    saved = runtime.checkpoint(config / "weights", 5)
    assert observation(layout).checkpoint == Checkpoint(step=5, sha256=saved.sha256, uri=saved.uri)
    assert hashlib.sha256((Path(saved.uri) / "manifest.json").read_bytes()).hexdigest() == saved.sha256
    os.unlink(layout.checkpoint)
    assert runtime.latest_checkpoint() is not None
    resumed = observation(layout).checkpoint
    assert resumed is not None
    assert resumed.step == 5, "also the one that an attempt goes on from"


def test_a_checkpoint_of_nothing_is_refused(config: Path) -> None:
    with pytest.raises(Invalid, match="nosuch"):
        runtime.checkpoint(config / "nosuch", 1)
    (config / "file").touch()
    with pytest.raises(Invalid, match="step"):
        runtime.checkpoint(config / "file", -1)
    with pytest.raises(Invalid, match="keep"):
        runtime.checkpoint(config / "file", 1, keep=0)
    with pytest.raises(Invalid, match="contains"):
        runtime.checkpoint(config, 1)


def test_a_stop_file_is_seen(config: Path) -> None:
    assert not runtime.should_stop()
    (config / "stop").touch()
    assert runtime.should_stop()


def test_a_preemption_is_seen_alike_and_remembered(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "_told", threading.Event())
    assert not runtime.should_stop()
    (config / "preempt").touch()
    assert not helpers.was_told(), "nobody asked"
    assert runtime.should_stop()
    assert helpers.was_told()


def test_outside_a_job_everything_works_beside_the_script(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.hyperparameters() == {}
    assert runtime.inputs() == {}
    assert runtime.model_dir() == outside / "model"
    assert (outside / "model").is_dir()
    runtime.report(epoch=1, loss=0.5)
    assert capsys.readouterr().out == "epoch=1 loss=0.5\n"
    assert not runtime.should_stop()


def test_a_script_that_asks_survives_the_first_sigterm(outside: Path) -> None:
    script = (
        "import time\nfrom ml_toolbox import runtime\nruntime.should_stop()\nprint('ready', flush=True)\n"
        "while not runtime.should_stop():\n    time.sleep(0.01)\nprint('saved')\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    os.kill(running.pid, signal.SIGTERM)
    assert running.communicate(timeout=30)[0] == "saved\n"
    assert running.returncode == 0


def test_the_public_helpers_are_the_ones_named() -> None:
    assert all(callable(getattr(runtime, name)) for name in runtime.__all__)
    assert all(getattr(helpers, name) for name in runtime.__all__)
    with pytest.raises(AttributeError):
        runtime.nosuch  # noqa: B018
