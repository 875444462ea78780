from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.clock import from_iso, iso


@given(st.integers(0, 4_000_000_000_000))
def test_iso_round_trips_to_the_millisecond(milliseconds: int) -> None:
    assert from_iso(iso(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1.1e-3)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        from_iso("2026-01-01T00:00:00")
