"""The suite on every store there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.testing.state import Fresh, StoreTests
from tests.postgres import Server
from tests.state.stores import in_memory, on_postgres, on_sqlite


class TestMemory(StoreTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return in_memory


class TestSqlite(StoreTests):
    many = 2_000

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Fresh:
        return on_sqlite(tmp_path)


class TestPostgres(StoreTests):
    examples = 15
    many = 2_000

    @pytest.fixture
    def fresh(self, postgres_server: Server) -> Fresh:
        return on_postgres(postgres_server)
