"""Registries on the stores that need nothing but this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import make_package


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/store")


@pytest.fixture
def registry(store: ObjectStore) -> Iterator[Registry]:
    with Registry(store, actor="ann") as opened:
        yield opened


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "package")


@pytest.fixture
def packages(tmp_path: Path) -> Callable[..., Path]:
    """Makes as many as are asked for: ``packages(files, metrics=...)``."""
    made = iter(range(1_000_000))
    return lambda files=None, **facts: make_package(tmp_path / f"package-{next(made)}", files, **facts)
