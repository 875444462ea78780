"""Limits say no before the money is gone, with the arithmetic; what was spent is always written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.engine import charges
from ml_toolbox.engine.charges import Charge
from ml_toolbox.engine.ledger import Limit, Meter, Posting, month_of, posted

NOW = 1_795_000_000.0
MONTH = month_of(NOW)


def limit(meter: Meter = "cost", most: int = 10_000_000, **fields: object) -> Limit:
    return Limit(scope="project:churn", meter=meter, most=most, **fields)  # type: ignore[arg-type]


def asks(held: int, month: str = MONTH) -> Posting:
    return Posting(attempt=1, kind="reserve", held=held, month=month)


def test_a_reservation_within_the_limit_is_held() -> None:
    after = posted([limit(held=2_000_000, spent=1_000_000)], [asks(3_000_000)])
    assert [(one.held, one.spent) for one in after.limits] == [(5_000_000, 1_000_000)]
    assert after.warnings == ()


def test_the_refusal_shows_the_arithmetic() -> None:
    with pytest.raises(BudgetExceeded) as caught:
        posted([limit(held=4_000_000, spent=3_000_000)], [asks(3_500_000)])
    for part in ("project:churn", "$3.50 asked", "$3.00 free", "$10.00 limit", "$3.00 spent", "$4.00 held"):
        assert part in caught.value.message
    assert not caught.value.waits


def test_exactly_the_limit_fits() -> None:
    posted([limit()], [asks(10_000_000)])
    with pytest.raises(BudgetExceeded):
        posted([limit()], [asks(10_000_001)])


def test_a_warning_once_at_four_fifths() -> None:
    first = posted([limit()], [asks(8_000_000)])
    assert "80%" in first.warnings[0]
    assert posted(first.limits, [asks(1_000_000)]).warnings == ()


def test_what_was_spent_is_written_down_whatever_the_limit() -> None:
    over = posted([limit(most=1)], [Posting(attempt=1, kind="collect", spent=5_000_000, month=MONTH)])
    assert over.limits[0].spent == 5_000_000


@pytest.mark.parametrize(("most", "waits"), [(3, True), (0, False)])
def test_a_limit_on_what_exists_lets_wait_unless_there_can_never_be_room(most: int, waits: bool) -> None:
    full = limit("running", most=most, held=most)
    with pytest.raises(BudgetExceeded) as caught:
        posted([full], [Posting(attempt=1, kind="reserve", running=1)])
    assert caught.value.waits is waits


def test_a_price_per_hour_above_the_limit_never_fits() -> None:
    with pytest.raises(BudgetExceeded) as caught:
        posted([limit("cost-per-hour", most=1_000_000)], [Posting(attempt=1, kind="reserve", hourly=1_500_000)])
    assert not caught.value.waits


def test_a_new_month_begins_empty_and_the_old_one_is_closed() -> None:
    monthly = limit(period="month", month="2026-10", held=9_000_000, spent=500_000)
    fresh = posted([monthly], [asks(2_000_000, "2026-11")]).limits[0]
    assert (fresh.month, fresh.held, fresh.spent) == ("2026-11", 2_000_000, 0)
    late = Posting(attempt=1, kind="settle", held=-9_000_000, spent=9_000_000, month="2026-10")
    assert posted([fresh], [late]).limits == (), "an attempt of last month settles against last month"


def test_lowering_a_limit_refuses_nothing_that_ends() -> None:
    lowered = limit(most=1, held=5_000_000)
    ends = Posting(attempt=1, kind="settle", held=-5_000_000, spent=4_000_000, month=MONTH)
    assert posted([lowered], [ends]).limits[0].held == 0


@given(
    hourly=st.integers(0, 50_000_000),
    limit_s=st.floats(1, 1e6),
    looks=st.lists(st.floats(0, 1e6), max_size=8),
    end=st.floats(0, 1e6),
)
def test_postings_add_up_to_what_the_charge_says(hourly: int, limit_s: float, looks: list[float], end: float) -> None:
    charge, first = charges.reserve(1, hourly=hourly, seconds=limit_s, now=NOW)
    lines = [first]
    for billed_s in sorted(min(look, limit_s) for look in looks):
        charge, more = charges.accrue(1, charge, billed_s=billed_s)
        lines += more
        assert charge.held + charge.spent == first.held, "what runs is always covered by what was reserved"
    charge, more = charges.settle(1, charge, billed_s=min(end, limit_s), reason="over")
    lines += more
    assert (sum(line.held for line in lines), sum(line.hourly for line in lines)) == (0, 0)
    assert sum(line.running for line in lines) == 0
    assert sum(line.spent for line in lines) == charge.spent <= first.held
    assert charges.settle(1, charge, billed_s=limit_s, reason="again") == (charge, ()), "settled once"


def test_costs_are_rounded_up() -> None:
    assert charges.cost_of(3_600_000, 1) == 1000
    assert charges.cost_of(1, 100) == 1
    assert charges.cost_of(3_600_000, 1 + 2.4e-7) == 1000, "times of day are no more exact than that"
    assert charges.cost_of(3_600_000, 1.0001) == 1001
    assert charges.cost_of(0, 1e9) == 0
    assert charges.seconds_for(3_600_000, 1000) == pytest.approx(1.0)
    assert Charge().reserved == 0
