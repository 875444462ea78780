"""One fitted model, the data it was fitted on, and a bucket on the S3 test server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_toolbox.base.ids import new_ulid
from ml_toolbox.cloud_integration import CloudStorage
from tests.providers.objects.conftest import AZURITE_ACCOUNT, AZURITE_KEY, Server, azurite, create_container, moto

__all__ = ["azurite", "moto"]


@pytest.fixture(scope="session")
def data() -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return X, y


@pytest.fixture(scope="session")
def model(data: tuple[Any, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    X, y = data
    return LogisticRegression(max_iter=50, solver="liblinear").fit(X, y)


@pytest.fixture(scope="session")
def other_model(data: tuple[Any, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    X, y = data
    return LogisticRegression(max_iter=50, solver="liblinear", C=0.01).fit(X, np.roll(y, 7))


@pytest.fixture
def s3(moto: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket; the guide's plain ``CloudStorage(provider='aws')`` finds the server by the environment, as the AWS
    tools do."""
    import boto3

    for name, value in (
        ("AWS_ENDPOINT_URL", moto.endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{new_ulid()}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def azure(azurite: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh container, found by the connection string, as the Azure tools do."""
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={azurite.endpoint};",
    )
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    container = f"container-{new_ulid()}"
    create_container(azurite.endpoint, container)
    return f"azure://{container}"


@pytest.fixture(params=["local", "aws", "azure"])
def storage(request: pytest.FixtureRequest) -> CloudStorage:
    """The same calls on this machine's files, on S3 and on Azure."""
    if request.param == "local":
        return CloudStorage(provider="local", root=str(request.getfixturevalue("tmp_path") / "root"))
    if request.param == "azure":
        container = request.getfixturevalue("azure")
        return CloudStorage(provider="azure", container=f"{container.removeprefix('azure://')}/team")
    bucket = request.getfixturevalue("s3")
    return CloudStorage(provider="aws", region="us-east-1", bucket=f"{bucket.removeprefix('s3://')}/team")
