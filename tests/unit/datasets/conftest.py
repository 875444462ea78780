"""A store of every kind that matters here: one whose blobs can be mapped, and one that only answers requests."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox import datasets
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore

RoundTrip = Callable[[Any], Any]


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_store(tmp_path / "store")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(tmp_path / "store" if request.param == "file" else f"memory://{uuid.uuid4()}")


@pytest.fixture
def round_trip(store: ObjectStore) -> RoundTrip:
    def there_and_back(data: Any, **options: Any) -> Any:
        datasets.save(data, store, "d")
        return datasets.load(store, "d", **options)

    return there_and_back
