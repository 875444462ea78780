"""A store with rows that hold and spend, for tests of what is said about them."""

from __future__ import annotations

from pathlib import Path

from ml_toolbox.engine import charges
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore

HOUR = 1_000_000  # a dollar an hour


def stores(folder: Path, clock: FakeClock) -> tuple[MemoryStore | SqliteStore, ...]:
    return MemoryStore(clock), SqliteStore(folder / "state.db", clock=clock)


def begin(
    store: MemoryStore | SqliteStore,
    row_id: str,
    scopes: tuple[str, ...] = ("all",),
    *,
    hours: float = 1.0,
    hourly: int = HOUR,
    place: str = "local",
    kind: str = "job",
) -> charges.Charge:
    """A row that holds the price of so many hours. Raises ``BudgetExceeded`` like any other."""
    charge, posting = charges.reserve(1, hourly=hourly, seconds=hours * 3600, now=store.now())
    row = Row(id=row_id, kind=kind, name=row_id, phase="active", state="running", scopes=scopes, place=place)
    store.insert(row, postings=[posting])
    return charge


def end(store: MemoryStore | SqliteStore, row_id: str, charge: charges.Charge, *, hours: float) -> None:
    """It ran for so long and is gone."""
    _, postings = charges.settle(1, charge, billed_s=hours * 3600, reason="done")
    post(store, row_id, *postings, ended=True)


def post(store: MemoryStore | SqliteStore, row_id: str, *postings: Posting, ended: bool = False) -> None:
    row = store.claim(row_id, owner="test", lease_s=60, is_dead=lambda _: False)
    assert row is not None
    change = Change(phase="ended" if ended else row.phase, state=row.state, data={}, ended=ended, postings=postings)
    (written,) = store.write([Write(row=row, change=change)], lease_s=60)
    assert isinstance(written, Row)
