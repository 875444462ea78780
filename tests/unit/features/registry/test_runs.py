"""Sets of version numbers against Python's own set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.features.registry.runs import Runs

numbers = st.integers(1, 40)
steps = st.lists(st.tuples(st.booleans(), numbers), max_size=60)


@given(steps)
def test_behaves_like_a_set_and_survives_text(changes: list[tuple[bool, int]]) -> None:
    runs, expected = Runs(), set[int]()
    for add, number in changes:
        runs = runs.adding(number) if add else runs.removing(number)
        expected = expected | {number} if add else expected - {number}
    assert list(runs) == sorted(expected)
    assert list(runs.descending()) == sorted(expected, reverse=True)
    assert {number for number in range(42) if number in runs} == expected
    assert bool(runs) == bool(expected)
    assert Runs.parse(str(runs)) == runs


@given(st.sets(numbers))
def test_adjacent_numbers_share_one_span(members: set[int]) -> None:
    runs = Runs()
    for number in members:
        runs = runs.adding(number)
    assert len(runs.spans) == sum(number - 1 not in members for number in members)


@pytest.mark.parametrize("text", ["x", "3-1", "1,2", "5,3", "1-", "2-2", ",", "1-3,4"])
def test_refuses_what_it_would_not_write(text: str) -> None:
    with pytest.raises(ValueError):
        Runs.parse(text)
