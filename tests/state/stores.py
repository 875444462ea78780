"""Empty places of each database, as the suite wants them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ml_toolbox.state.postgres import PostgresStore
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.state import Bound, Fresh
from tests.postgres import Server


def in_memory() -> Bound:
    clock = FakeClock()
    store = MemoryStore(clock)
    return Bound(open=lambda: store, clock=clock)


def on_sqlite(folder: Path) -> Fresh:
    def bound() -> Bound:
        clock = FakeClock()
        path = Path(tempfile.mkdtemp(dir=folder)) / "state.db"
        return Bound(open=lambda: SqliteStore(path, clock=clock), clock=clock)

    return bound


def on_postgres(server: Server) -> Fresh:
    def bound() -> Bound:
        clock = FakeClock()
        url = server.new_schema()
        return Bound(open=lambda: PostgresStore(url, clock=clock), clock=clock)

    return bound
