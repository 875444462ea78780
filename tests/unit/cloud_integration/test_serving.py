"""Serving by the guide's call: every way to name a model ends at an endpoint that answers as the model does."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.cloud_integration import AWSProvider, CloudModelRegistry, CloudModelServing, CloudStorage
from ml_toolbox.packages import save_model

CONFIG = {"serving_image": "…", "execution_role": "…", "instance_type": "ml.m5.large", "instance_count": 1}


@pytest.fixture
def local(tmp_path: Path) -> CloudStorage:
    return CloudStorage(provider="local", root=str(tmp_path / "bucket"))


@pytest.fixture
def serving(local: CloudStorage) -> Iterator[CloudModelServing]:
    yield CloudModelServing(local.provider, CONFIG)
    for record in Toolbox().serving.list():
        Toolbox().serving.delete(record.name)


@pytest.mark.parametrize("kind", ["url", "path", "object", "folder", "reference", "other registry"])
def test_every_way_to_name_a_model(
    kind: str, serving: CloudModelServing, local: CloudStorage, model: Any, data: tuple[Any, Any], tmp_path: Path
) -> None:
    if kind in ("url", "path"):
        url = local.save_model(model, "models/model.tar.gz")
        named: Any = {"model_data_url": url} if kind == "url" else "models/model.tar.gz"
    elif kind == "object":
        named = model
    else:
        save_model(model, tmp_path / "package")
        named = tmp_path / "package"
    if kind == "reference":
        named = Toolbox().registry.register("churn", named).ref
    if kind == "other registry":
        registry = CloudModelRegistry(local)
        named = registry.register_model(model, "v1.0", {})
        serving.config["registry"] = registry

    endpoint = serving.deploy_model(model=named, version="v1.0", endpoint_name="my-model-endpoint")

    rows = data[0][:5]
    assert endpoint.predict(rows) == model.predict(rows).tolist()
    assert endpoint.status == "ready"
    request = urllib.request.Request(
        f"{endpoint.url}/invocations",
        json.dumps({"instances": rows.tolist()}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["X-MLT-Variant"] == "v1.0"
        assert json.load(answer)["predictions"] == model.predict(rows).tolist()


def test_a_second_deployment_replaces_the_first_under_the_same_name(
    serving: CloudModelServing, model: Any, other_model: Any, data: tuple[Any, Any]
) -> None:
    rows = data[0]
    assert not np.array_equal(model.predict(rows), other_model.predict(rows))
    serving.deploy_model(model, "v1.0", "churn")
    serving.deploy_model(other_model, "v1.1", "churn")

    endpoint = serving.endpoint("churn")
    assert endpoint.predict(rows) == other_model.predict(rows).tolist()
    endpoint.delete()
    with pytest.raises(NotFound):
        serving.endpoint("churn")


def test_what_is_not_there_starts_nothing(serving: CloudModelServing) -> None:
    for absent in ("churn:1", "models/absent", {"model_data_url": "models/absent.tar.gz"}):
        with pytest.raises(NotFound):
            serving.deploy_model(absent, "v1.0", "churn")
    assert Toolbox().serving.list() == ()


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"instance_count": 0}, Invalid, "instance_count"),
        ({"min_replicas": "1"}, Invalid, "min_replicas"),
        ({"min_replicas": 1, "max_replicas": 3}, Unsupported, "by load"),
    ],
)
def test_a_wrong_config_starts_nothing(
    local: CloudStorage, model: Any, config: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        CloudModelServing(local.provider, config).deploy_model(model, "v1.0", "churn")
    assert Toolbox().serving.list() == ()


def test_names_are_checked(serving: CloudModelServing, model: Any) -> None:
    with pytest.raises(Invalid, match="did you mean instance_count"):
        CloudModelServing("local", {"instance_counts": 1})
    with pytest.raises(Invalid, match="endpoint_name"):
        serving.deploy_model(model, "v1.0", "a/b")
    with pytest.raises(Invalid, match="model_data_url"):
        serving.deploy_model({"url": "x"}, "v1.0", "churn")


def test_on_aws_it_refuses_before_anything_is_looked_at() -> None:
    serving = CloudModelServing(AWSProvider(), CONFIG)
    starts: list[Callable[[], object]] = [
        lambda: serving.deploy_model({"model_data_url": "s3://my-bucket/models/model.tar.gz"}, "v1.0", "churn"),
        lambda: serving.endpoint("churn"),
        lambda: AWSProvider().deploy_model(object(), {"version": "v1.0", "endpoint_name": "churn"}),
    ]
    for start in starts:
        with pytest.raises(Unsupported, match="'aws-sagemaker' is not installed"):
            start()


def test_a_providers_own_call_says_what_is_missing() -> None:
    with pytest.raises(Invalid, match="endpoint_name missing"):
        AWSProvider().deploy_model(object(), {"version": "v1.0"})
