"""A place is looked at until it is forgotten, and cannot be forgotten while a row lives there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.testing.clock import FakeClock
from tests.unit.features.costs.books import begin, end, stores


@pytest.mark.parametrize("which", [0, 1], ids=["memory", "sqlite"])
def test_forgetting_a_place(which: int, tmp_path: Path) -> None:
    store = stores(tmp_path, FakeClock())[which]
    charge = begin(store, "a", place="far@eu")
    begin(store, "b", place="local")
    assert not store.forget_place("far@eu")
    assert store.places() == ("far@eu", "local")
    end(store, "a", charge, hours=1)
    assert store.forget_place("far@eu")
    assert store.forget_place("never-known")
    assert store.places() == ("local",)
    begin(store, "c", place="far@eu")
    assert set(store.places()) == {"local", "far@eu"}
