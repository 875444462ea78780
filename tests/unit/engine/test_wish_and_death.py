"""A wish made while its row was being worked on, and the worker's death before it saw the wish."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.engine.rows import Change, Write
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.engine.counter import new_row


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_row_stays_due_for_whoever_comes_after(kind: str, tmp_path: Path) -> None:
    store = MemoryStore(FakeClock()) if kind == "memory" else SqliteStore(tmp_path / "state.db", clock=FakeClock())
    row = store.insert(new_row("quick", store.now(), "row-1"), owner="one", lease_s=10.0)
    store.wish("row-1", "delete")
    over = Change(phase="over", state="over", data={}, ended=True)
    [written] = store.write([Write(row=row, change=over, cause="create")], lease_s=10.0)
    # Its writer would go on now, since it sees the wish. It dies instead.
    assert written is not None
    assert store.get("row-1").due_at == store.now()
    assert store.get("row-1").lease_owner == "one"
    store.close()
