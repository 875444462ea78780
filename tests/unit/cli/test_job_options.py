"""What the options of ``train`` make of a script or a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.cli.train import job_spec, train
from ml_toolbox.domain.jobs import JobSpec, RetryRule

_NOT_OF_THE_SPEC = ("detach", "plan_only", "backend", "as_json")


def spec_of(*arguments: str) -> JobSpec:
    options = dict(train.make_context("train", list(arguments)).params)
    for name in _NOT_OF_THE_SPEC:
        options.pop(name)
    return job_spec(**options)


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text("print(1)")
    return str(tmp_path / "train.py")


def test_attempts_by_cause(script: str) -> None:
    assert spec_of(script).retry == RetryRule()
    retry = spec_of(script, "--retry-preempted", "3", "--retry-no-capacity", "0", "--retry-lost", "2").retry
    assert retry == RetryRule(preempted=3, no_capacity=0, lost=2)


def test_options_are_laid_over_the_file(tmp_path: Path, script: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "script: train.py\nretry: {preempted: 1, no_capacity: 2, lost: 3, user_error: 4}\ncheckpoints: kept\n"
    )
    spec = spec_of(str(path), "--retry-lost", "9")
    assert spec.retry == RetryRule(preempted=1, no_capacity=2, lost=9, user_error=4)
    assert spec.checkpoints == str(tmp_path / "kept"), "beside the file"
    assert spec_of(str(path), "--checkpoints", "s3://bucket/place").checkpoints == "s3://bucket/place"
