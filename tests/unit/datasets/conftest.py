"""A store of every kind that matters here: one whose blobs can be mapped, and one that only answers requests."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox import datasets
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore

RoundTrip = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files loaded without a target go to a folder that is the caller's to remove: here the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


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
