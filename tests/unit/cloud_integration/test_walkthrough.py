"""The guides' own lines, executed as they stand: only account, bucket and what one machine cannot be are put in."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Unsupported

STORAGE = """
from ml_toolbox.cloud_integration import CloudStorage, CloudTraining, CloudModelServing
storage = CloudStorage({provider})
storage.save_dataset(X_train, y_train, '{bucket}/data/train.pkl')
X, y = storage.load_dataset('{bucket}/data/train.pkl')
"""
TRAINING = """
training = CloudTraining(provider=storage.provider, config={{'sagemaker_role': 'arn:aws:iam::123456789012:role/SageMakerRole', 'instance_type': 'ml.m5.xlarge', 'instance_count': {instances}}})
job = training.train_distributed(training_script='train.py', data_path='{bucket}/data', output_path='{bucket}/models')
"""  # noqa: E501 - the guide's own line
SERVING = """
serving = CloudModelServing(provider=storage.provider, config={{'serving_image': '…', 'execution_role': '…', 'instance_type': 'ml.m5.large', 'instance_count': 1}})
endpoint = serving.deploy_model(model={{'model_data_url': '{bucket}/models/model.tar.gz'}}, version='v1.0', endpoint_name='my-model-endpoint')
"""  # noqa: E501


@pytest.fixture(autouse=True)
def _nothing_keeps_serving() -> Iterator[None]:
    yield
    if Path(Toolbox().state_place).exists():
        for record in Toolbox().serving.list():
            Toolbox().serving.delete(record.name)


@pytest.fixture
def names(data: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the guide's reader has at hand: the data, and a script beside it."""
    shutil.copy(Path(__file__).with_name("train_guide.py"), tmp_path / "train.py")
    monkeypatch.chdir(tmp_path)
    return {"X_train": data[0], "y_train": data[1]}


def run(text: str, names: dict[str, Any], **words: Any) -> None:
    exec(text.format(**words), names)


def check_data(names: dict[str, Any]) -> None:
    np.testing.assert_array_equal(names["X"], names["X_train"])
    np.testing.assert_array_equal(names["y"], names["y_train"])


def test_on_this_machine_from_data_to_predictions(names: dict[str, Any]) -> None:
    run(STORAGE, names, provider="provider='local'", bucket="my-bucket")
    check_data(names)
    run(TRAINING, names, bucket="my-bucket", instances=1)
    assert names["job"].wait(timeout_s=100).status == "succeeded"
    assert os.path.isfile("my-bucket/models/model.tar.gz")
    run(SERVING, names, bucket="my-bucket")

    answers = names["endpoint"].predict(names["X_train"])
    assert np.mean(np.asarray(answers) == names["y_train"]) > 0.9
    assert names["endpoint"].name == "my-model-endpoint"


def test_on_this_machine_two_instances_are_refused_with_the_reason(names: dict[str, Any]) -> None:
    run(STORAGE, names, provider="provider='local'", bucket="my-bucket")
    with pytest.raises(Unsupported, match="one machine"):
        run(TRAINING, names, bucket="my-bucket", instances=2)
    assert not os.path.exists("my-bucket/models")


def test_the_documentation_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cloud-integration.md").read_text()
    guide, script = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = page.split("It prints", 1)[1].split("```\n", 2)[1]
    (tmp_path / "train.py").write_text(script)
    monkeypatch.chdir(tmp_path)

    exec(guide, {})

    def neutral(text: str) -> str:
        # The toy provider is an example that only this repository's test environment installs.
        return re.sub(r"train-[0-9a-z]{26}", "train-ID", text).replace("local, toy", "local")

    assert neutral(capsys.readouterr().out) == neutral(shown.replace("/tmp/guide", str(tmp_path)))


def test_on_aws_storage_works_and_the_rest_refuses_before_anything_happens(names: dict[str, Any], s3: str) -> None:
    run(STORAGE, names, provider="provider='aws', region='us-east-1'", bucket=s3)
    check_data(names)
    storage = names["storage"]
    before = [meta.key for meta in storage.provider.folder_store(s3).list()]
    with pytest.raises(Unsupported, match="'aws-sagemaker' is not installed"):
        run(TRAINING, names, bucket=s3, instances=2)
    with pytest.raises(Unsupported, match="'aws-sagemaker' is not installed"):
        run(SERVING, names, bucket=s3)
    assert [meta.key for meta in storage.provider.folder_store(s3).list()] == before
    assert not Path(Toolbox().state_place).exists()


def test_on_azure_storage_works(names: dict[str, Any], azure: str) -> None:
    run(STORAGE, names, provider="provider='azure', subscription_id='s', resource_group='g'", bucket=azure)
    check_data(names)
