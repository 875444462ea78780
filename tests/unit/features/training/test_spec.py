"""Specs: what is read, and that every error names its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.domain.jobs import Environment, JobSpec, Limits, Resources, RetryRule
from ml_toolbox.features.training import load_spec

FULL = """
script: train.py
arguments: [--data, "${{inputs.train}}"]
inputs: {train: data.csv, remote: "s3://bucket/data", named: "data:churn:2"}
hyperparameters: {lr: 0.1, layers: [64, 32], big: 12345678901234567890, flag: true}
resources: {cpus: 2, memory_gib: 1.5, accelerators: "T4:1"}
environment: {requirements: [scikit-learn], variables: {STAGE: test}}
limits: {max_duration_s: 600}
retry: {lost: 2, preempted: 5, no_capacity: 0}
checkpoints: "s3://bucket/kept"
metrics: {loss: "loss=([0-9.]+)"}
register: churn
tags: {team: blue}
"""


def test_a_whole_spec(tmp_path: Path) -> None:
    path = tmp_path / "churn.yaml"
    path.write_text(FULL)
    assert load_spec(path) == JobSpec(
        name="churn",
        script="train.py",
        arguments=("--data", "${{inputs.train}}"),
        source=str(tmp_path),
        inputs={"train": str(tmp_path / "data.csv"), "remote": "s3://bucket/data", "named": "data:churn:2"},
        hyperparameters={"lr": 0.1, "layers": [64, 32], "big": 12345678901234567890, "flag": True},
        resources=Resources(cpus=2, memory_gib=1.5, accelerators="T4:1"),
        environment=Environment(requirements=("scikit-learn",), variables={"STAGE": "test"}),
        limits=Limits(max_duration_s=600),
        retry=RetryRule(lost=2, preempted=5, no_capacity=0),
        checkpoints="s3://bucket/kept",
        metrics={"loss": "loss=([0-9.]+)"},
        register="churn",
        tags={"team": "blue"},
    )


def test_json_says_the_same_and_source_is_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"name": "x", "command": ["make", "train"], "source": "src"}')
    spec = load_spec(path)
    assert (spec.name, spec.command, spec.source) == ("x", ("make", "train"), str(tmp_path / "src"))


@pytest.mark.parametrize(
    ("values", "field", "told"),
    [
        ({"script": "a", "resource": {}}, "resource", "did you mean resources"),
        ({"script": "a", "resources": {"memory": 1}}, "resources.memory", "no such field"),
        ({"script": "a", "resources": {"nodes": "two"}}, "resources.nodes", "Expected `int`"),
        ({"script": "a", "arguments": [1]}, "arguments[0]", "Expected `str`"),
        ({"script": "a", "retry": {"lost": -1}}, "retry.lost", "at least 0"),
        ({"script": "a", "limits": {"max_duration_s": 0}}, "limits.max_duration_s", "more than 0"),
        ({"script": "a", "limits": {"max_duration_s": float("inf")}}, "limits.max_duration_s", "more than 0"),
        ({"script": "a", "metrics": {"loss": "("}}, "metrics.loss", "not a regular expression"),
        ({"script": "a", "metrics": {"loss": "loss"}}, "metrics.loss", "no group"),
        ({"script": "a", "hyperparameters": {"lr": float("nan")}}, "hyperparameters.lr", "not a JSON number"),
        ({"script": "a", "hyperparameters": {"x": {"y": [object()]}}}, "hyperparameters.x.y[0]", "object"),
        ({"script": "a", "hyperparameters": {"x": {1: 2}}}, "hyperparameters.x", "not text"),
        ({"script": "a", "inputs": {"../up": "x"}}, "inputs.../up", "legal name"),
        ({"script": "a", "command": ["b"]}, "script", "either a script or a command"),
        ({}, "script", "either a script or a command"),
        ({"name": "a b", "script": "a"}, "name", "legal name"),
        ({"name": 7, "script": "a"}, "name", "Expected `str`"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(Invalid) as refused:
        load_spec({"name": "job", **values})
    assert refused.value.field == field
    assert told in str(refused.value)


def test_a_missing_name_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        load_spec({"script": "train.py"})
    assert refused.value.field == "name"


@pytest.mark.parametrize("text", ["- a list", "a: b: c", "", "text"])
def test_a_file_that_is_no_spec(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(Invalid, match=r"spec\.yaml"):
        load_spec(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nosuch\.yaml"):
        load_spec(tmp_path / "nosuch.yaml")
    with pytest.raises(Invalid, match="folder"):
        load_spec(tmp_path)
