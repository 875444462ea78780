import pytest
from ml_toolbox.testing.state import Fresh, StoreTests
from tests.state.stores import on_sqlite
class TestD(StoreTests):
    examples=300
    shrinks=False
    @pytest.fixture
    def fresh(self, tmp_path) -> Fresh:
        return on_sqlite(tmp_path)
