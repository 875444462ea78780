"""Training by the guide's call: on this machine it runs, elsewhere it refuses before anything happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid, JobFailed, NotFound, Unsupported
from ml_toolbox.cloud_integration import AWSProvider, CloudStorage, CloudTraining, LocalProvider

SCRIPT = Path(__file__).with_name("train_guide.py")


@pytest.fixture
def local(tmp_path: Path, data: tuple[Any, Any]) -> CloudStorage:
    """A place with the data saved in it, as the guide saves it, and the script in a folder of its own."""
    storage = CloudStorage(provider="local", root=str(tmp_path / "bucket"))
    storage.save_dataset(*data, "data/train.pkl")
    (tmp_path / "source").mkdir()
    shutil.copy(SCRIPT, tmp_path / "source" / "train.py")
    return storage


@pytest.fixture
def script(local: CloudStorage, tmp_path: Path) -> Path:
    return tmp_path / "source" / "train.py"


def test_the_script_finds_the_data_and_the_model_comes_to_its_place(
    local: CloudStorage, script: Path, data: Any
) -> None:
    training = CloudTraining(
        local.provider,
        {"sagemaker_role": "arn:aws:iam::1:role/R", "instance_type": "ml.m5.xlarge", "instance_count": 1,
         "hyperparameters": {"penalty": 0.5}, "metrics": {"accuracy": r"accuracy=([\d.]+)"}},
    )  # fmt: skip
    job = training.train_distributed(training_script=script, data_path="data", output_path="models")
    assert job.wait(timeout_s=100).status == "succeeded"

    assert job.metrics["accuracy"] > 0.9
    assert job.model == job.model_data_url
    assert "accuracy=" in "\n".join(line.text for line in job.logs())
    for path in (job.model_data_url, "models/model.tar.gz"):
        assert local.load_model(path).C == 0.5
    np.testing.assert_array_equal(local.load_model("models/model.tar.gz").classes_, [0, 1])


def test_a_registered_result_and_a_job_found_again_by_another_process(local: CloudStorage, script: Path) -> None:
    training = CloudTraining(local.provider, {"model_name": "churn"})
    started = training.train_distributed(script, "data/train.pkl", "models")
    # As another process: nothing but the id is handed on.
    again = CloudTraining(LocalProvider(root=str(local.provider.place("x").parent)), {}).job(started.id)

    assert again.wait(timeout_s=100).model == "churn:1"
    assert local.load_model(again.model_data_url).C == 1.0
    assert Toolbox().registry.get("churn").source == f"job {started.name}"


def test_a_failing_script_says_why_and_leaves_no_model(local: CloudStorage, script: Path) -> None:
    script.write_text("raise ValueError('no such column')\n")
    job = CloudTraining("local").train_distributed(script, local.provider.place("data"), local.provider.place("models"))
    with pytest.raises(JobFailed, match="no such column"):
        job.wait(timeout_s=100)
    assert (job.status, job.model) == ("failed", None)
    with pytest.raises(NotFound):
        local.load_model("models/model.tar.gz")


def test_data_that_is_not_there(local: CloudStorage, script: Path) -> None:
    with pytest.raises(NotFound):
        CloudTraining(local.provider).train_distributed(script, "absent", "models")
    assert Toolbox().training.list() == ()


def test_two_machines_are_refused_where_there_is_one(local: CloudStorage, script: Path) -> None:
    training = CloudTraining(local.provider, {"instance_count": 2})
    with pytest.raises(Unsupported, match="this is one machine"):
        training.train_distributed(script, "data", "models")
    assert Toolbox().training.list() == ()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"instance_count": 0}, "config.instance_count"),
        ({"instance_count": "2"}, "config.instance_count"),
        ({"hyperparameters": [1]}, "config.hyperparameters"),
        ({"requirements": "absent.txt"}, "config.requirements"),
        ({"job_name": "a/b"}, "config.job_name"),
    ],
)
def test_a_wrong_config_is_named(local: CloudStorage, script: Path, config: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        CloudTraining(local.provider, config).train_distributed(script, "data", "models")
    assert caught.value.field == field
    assert Toolbox().training.list() == ()


def test_an_unknown_config_key_is_named_at_once() -> None:
    with pytest.raises(Invalid, match="did you mean instance_count"):
        CloudTraining("local", {"instance_counts": 2})


def test_on_aws_it_refuses_before_anything_is_looked_at() -> None:
    provider = AWSProvider()
    training = CloudTraining(provider, {"sagemaker_role": "arn:aws:iam::123456789012:role/R", "instance_count": 2})
    # No script, no bucket, no credentials: the refusal comes before any of them matters.
    call = {"training_script": "train.py", "data_path": "s3://b/d", "output_path": "s3://b/m"}
    starts: list[Callable[[], object]] = [
        lambda: training.train_distributed("train.py", "s3://my-bucket/data", "s3://my-bucket/models"),
        lambda: provider.create_training_job(call),
    ]
    for start in starts:
        with pytest.raises(Unsupported, match="'aws-sagemaker' is not installed") as caught:
            start()
        assert caught.value.provider == "aws"
        assert "local" in caught.value.hint


def test_metrics_go_to_the_providers_own_place() -> None:
    provider = LocalProvider()
    provider.monitor_metrics({"accuracy": 0.9, "latency_ms": 12})
    installed = Toolbox().providers["local"]
    sink = installed.metric_sink(Toolbox().installed.context(installed))
    assert sink is not None
    assert [point.value for point in sink.query("latency_ms")] == [12.0]
    with pytest.raises(Unsupported, match="keeps no metrics"):
        AWSProvider().monitor_metrics({"accuracy": 0.9})
