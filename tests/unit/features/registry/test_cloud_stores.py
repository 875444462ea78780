"""The same promises on S3 and Azure, each through a server that honours their conditional writes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import boto3
import pytest

from ml_toolbox.base.ids import nonce
from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from tests.providers.objects.conftest import (
    Server,
    azurite,
    create_container,
    moto,
)
from tests.unit.features.registry.support import FAULTS, FaultyStore, make_package
from tests.unit.features.registry.test_faults import QuickClock, on_call

__all__ = ["azurite", "moto"]  # fixtures


class Open(Protocol):
    """Opens the same empty store again and again, as separate processes would; or a folder of it."""

    def __call__(self, folder: str = "") -> ObjectStore: ...


@pytest.fixture(params=["s3", "azure"])
def open_(request: pytest.FixtureRequest) -> Open:
    prefix = nonce()
    server: Server
    if request.param == "s3":
        server = request.getfixturevalue("moto")
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket="registry")
        client.close()
        return lambda folder="": open_store(f"s3://registry/{prefix}{folder}", settings=server.settings)
    server = request.getfixturevalue("azurite")
    create_container(server.endpoint, "registry")
    uri = f"az://registry/{prefix}"
    return lambda folder="": open_store(uri + folder, settings=server.settings)


def test_a_model_lives_its_life(open_: Open, tmp_path: Path) -> None:
    registry = Registry(open_(), actor="ann")
    package = make_package(tmp_path / "p", {"model.bin": b"weights", "code/train.py": b"x"})
    for number in range(1, 4):
        assert registry.register("churn", package, tags={"n": str(number)}).number == number
    registry.promote("churn:2", "Production", archive_existing=True, alias="champion")
    registry.promote("churn:3", "Production", archive_existing=True)
    registry.set_tags("churn:1", {"n": None, "team": "x"})
    registry.delete("churn:1")

    other = Registry(open_(), actor="bob")
    assert [(v.number, v.stage.value) for v in other.versions("churn")] == [(3, "Production"), (2, "Archived")]
    assert other.get("churn@champion").number == 2
    assert [model.name for model in other.models()] == ["churn"]
    found = other.search("tags.team = 'x'", include_deleted=True)
    assert [item.number for item in found.items] == [1]
    target = other.download("churn@Production", tmp_path / "out")
    assert (target / "model.bin").read_bytes() == b"weights"
    assert other.verify("churn:3").ok
    assert [line.action for line in other.audit("churn")][-2:] == ["set-tags", "delete"]
    other.restore("churn:1")
    assert registry.get("churn:1").tags == {"team": "x"}


def test_many_writers_lose_nothing_and_give_no_number_twice(open_: Open, tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    numbers: list[int] = []

    def write(who: int) -> None:
        registry = Registry(open_(), actor=str(who))
        for turn in range(4):
            key = f"{who}/{turn}" if turn % 2 else None
            numbers.append(registry.register("churn", package, idempotency_key=key).number)
            registry.set_tags("churn:1", {f"{who}-{turn}": "x"})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 25))
    registry = Registry(open_(), actor="check")
    assert len(registry.get("churn:1").tags) == 24
    assert sum(line.action == "set-tags" for line in registry.audit("churn")) == 24


@pytest.mark.parametrize("fault", FAULTS)
def test_unclear_answers(open_: Open, tmp_path: Path, fault: str) -> None:
    package = make_package(tmp_path / "p")
    for place in (1, 2):
        registry = Registry(FaultyStore(open_(), on_call(place, FAULTS[fault])), actor="ann", clock=QuickClock())
        number = registry.register("churn", package, idempotency_key=f"{place}").number
        assert number == place
        registry.promote(f"churn:{place}", "Staging")
    registry = Registry(open_(), actor="check")
    assert [line.action for line in registry.audit("churn")].count("promote") == 2
    assert list(registry.versions("churn", stage="Staging").numbers) == [2, 1]
