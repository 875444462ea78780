from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.runtime.serve.traffic import Splitter

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1, max_size=6)


@given(WEIGHTS, st.integers(1, 400))
def test_every_prefix_is_within_one_request_of_its_share(weights: dict[str, float], requests: int) -> None:
    splitter, counts, total = Splitter(weights), Counter[str | None](), sum(weights.values())
    allowed = 1 - 1 / (2 * len(weights) - 2) if len(weights) > 1 else 0.0
    for n in range(1, requests + 1):
        counts[splitter.next()] += 1
        for name, weight in weights.items():
            assert abs(counts[name] - n * weight / total) <= allowed + 1e-6


@given(st.floats(0.001, 99.999), st.integers(0, 300), st.integers(1, 300))
def test_two_variants_are_exact_to_one_request_in_any_window(weight: float, start: int, length: int) -> None:
    splitter = Splitter({"new": weight, "old": 100 - weight})
    names = [splitter.next() for _ in range(start + length)][start:]
    assert abs(names.count("new") - length * weight / 100) <= 1 + 1e-6


def test_a_tenth_of_a_hundred_thousand_is_ten_thousand() -> None:
    splitter = Splitter({"v1": 90, "v2": 10})
    assert Counter(splitter.next() for _ in range(100_000)) == {"v1": 90_000, "v2": 10_000}


def test_weight_zero_gets_nothing_and_nothing_at_all_gives_none() -> None:
    splitter = Splitter({"v1": 100, "dark": 0})
    assert {splitter.next() for _ in range(1000)} == {"v1"}
    assert Splitter({"dark": 0}).next() is None
    assert Splitter({}).next() is None
