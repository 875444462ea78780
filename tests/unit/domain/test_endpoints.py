from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.domain.endpoints import EndpointSpec, Variant


def spec(**weights: float) -> EndpointSpec:
    variants = tuple(Variant(name=name, package=f"/models/{name}", weight=weight) for name, weight in weights.items())
    return EndpointSpec(name="churn", variants=variants)


def weights(value: EndpointSpec) -> dict[str, float]:
    return {v.name: v.weight for v in value.variants}


def test_a_second_version_beside_the_first_takes_its_share_from_it() -> None:
    new = spec(v1=100).with_variant(Variant(name="v2", package="/models/v2"), weight=10)
    assert weights(new) == {"v1": 90, "v2": 10}


def test_the_first_variant_gets_everything_whatever_was_asked() -> None:
    only = EndpointSpec(name="x", variants=(Variant(name="v1", package="/p"),))
    assert weights(only.with_variant(Variant(name="v1", package="/q"), weight=10)) == {"v1": 100}


def test_unnamed_variants_share_the_rest_in_their_old_proportions() -> None:
    assert weights(spec(a=60, b=30, c=10).with_weights({"c": 55})) == {"a": 30, "b": 15, "c": 55}


def test_all_to_one_and_back() -> None:
    full = spec(v1=90, v2=10).with_weights({"v2": 100})
    assert weights(full) == {"v1": 0, "v2": 100}
    assert weights(full.with_weights({"v2": 25})) == {"v1": 75, "v2": 25}


def test_removing_a_variant_gives_its_share_to_the_others() -> None:
    assert weights(spec(a=50, b=30, c=20).without_variant("a")) == {"b": 60, "c": 40}


def test_the_last_variant_is_not_removed() -> None:
    with pytest.raises(Invalid, match="delete the endpoint"):
        spec(v1=100).without_variant("v1")


def test_an_unknown_variant_is_named_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match="v1"):
        spec(v1=100).with_weights({"v9": 10})


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"a": 50, "b": 40}, "90"), ({"a": 101, "b": -1}, "0 to 100"), ({}, "at least one")],
)
def test_impossible_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        spec(**weights)


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(Invalid, match="120"):
        spec(a=50, b=50).with_weights({"a": 60, "b": 60})


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(lambda shares: sum(shares) > 0),
    st.integers(0, 100),
)
def test_weights_always_add_up_to_a_hundred(shares: list[int], share: int) -> None:
    total = sum(shares)
    exact = [round(100 * s / total, 9) for s in shares]
    exact[-1] = round(100 - sum(exact[:-1]), 9)
    start = EndpointSpec(
        name="x", variants=tuple(Variant(name=f"v{i}", package="/p", weight=max(0.0, w)) for i, w in enumerate(exact))
    )
    after = start.with_variant(Variant(name="new", package="/n"), weight=share)
    assert sum(v.weight for v in after.variants) == pytest.approx(100)
    back = after.without_variant("new")
    assert sum(v.weight for v in back.variants) == pytest.approx(100)
