from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.domain.money import Money


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_sums_are_exact(amounts: list[int]) -> None:
    total = Money(0)
    for amount in amounts:
        total = total + Money(amount)
    assert total == Money(sum(amounts))


@given(st.decimals(0, 10_000, allow_nan=False, allow_infinity=False, places=9))
def test_an_estimate_is_never_below_the_price(price: object) -> None:
    from decimal import Decimal

    assert isinstance(price, Decimal)
    assert Decimal(Money.usd(price).micros) / 1_000_000 >= price


def test_small_amounts_keep_their_digits() -> None:
    assert str(Money.usd("0.0004")) == "$0.0004"
    assert str(Money.usd("12.5")) == "$12.50"
    assert str(Money(0)) == "$0.00"
    assert str(Money(1)) == "<$0.0001"
