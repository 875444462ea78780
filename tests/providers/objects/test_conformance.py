"""The suite of the port on all four stores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import obstore
import pytest

from ml_toolbox.base.ids import nonce
from ml_toolbox.objects import connecting, open_store
from ml_toolbox.ports.objects import ObjectStore
from ml_toolbox.testing.objects import Bound, ObjectStoreTests
from tests.providers.objects.conftest import AZURITE_ACCOUNT, AZURITE_KEY, Server, create_container


class TestFile(ObjectStoreTests):
    many = 3_000
    examples = 60

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Bound]:
        numbers = itertools.count()

        def bound() -> Bound:
            root = tmp_path / f"store {next(numbers)}"

            def write(key: str, data: bytes) -> None:
                (root / key).parent.mkdir(parents=True, exist_ok=True)
                (root / key).write_bytes(data)

            def read(key: str) -> bytes | None:
                return (root / key).read_bytes() if (root / key).is_file() else None

            return Bound(store=open_store(root), again=lambda: open_store(root), write=write, read=read)

        return bound


def _through_obstore(uri: str, client: Any, prefix: str, **options: Any) -> Bound:
    """The back door of stores for which there is no second client here: the bare library."""

    def write(key: str, data: bytes) -> None:
        obstore.put(client, prefix + key, data)

    def read(key: str) -> bytes | None:
        try:
            return bytes(obstore.get(client, prefix + key).bytes())
        except FileNotFoundError:
            return None

    return Bound(store=open_store(uri, **options), again=lambda: open_store(uri, **options), write=write, read=read)


class TestMemory(ObjectStoreTests):
    examples = 60

    @pytest.fixture
    def fresh(self) -> Callable[[], Bound]:
        def bound() -> Bound:
            name = nonce()
            return _through_obstore(f"memory://{name}/some/prefix", connecting.memory(name).once, "some/prefix/")

        return bound


class TestS3(ObjectStoreTests):
    @pytest.fixture
    def fresh(self, moto: Server) -> Callable[[], Bound]:
        client = boto3.client(
            "s3", "us-east-1", endpoint_url=moto.endpoint, aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket="bucket")

        def bound() -> Bound:
            prefix = nonce()

            def write(key: str, data: bytes) -> None:
                client.put_object(Bucket="bucket", Key=f"{prefix}/{key}", Body=data)

            def read(key: str) -> bytes | None:
                try:
                    data: bytes = client.get_object(Bucket="bucket", Key=f"{prefix}/{key}")["Body"].read()
                except botocore.exceptions.ClientError:
                    return None
                return data

            uri = f"s3://bucket/{prefix}"

            def again() -> ObjectStore:
                return open_store(uri, settings=moto.settings)

            return Bound(store=again(), again=again, write=write, read=read)

        return bound


class TestAzure(ObjectStoreTests):
    @pytest.fixture
    def fresh(self, azurite: Server) -> Callable[[], Bound]:
        from obstore.store import AzureStore

        create_container(azurite.endpoint, "container")
        client = AzureStore(
            "container",
            config={"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY, "endpoint": azurite.endpoint},
            client_options={"allow_http": True},
        )

        def bound() -> Bound:
            prefix = nonce()
            return _through_obstore(f"az://container/{prefix}", client, f"{prefix}/", settings=azurite.settings)

        return bound
