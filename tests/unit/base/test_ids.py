from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import canonical_json, check_name, digest, new_ulid


@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=20))
def test_ulids_sort_by_time_of_creation(moments: list[float]) -> None:
    ordered = sorted(moments, key=lambda moment: int(moment * 1000))
    ulids = [new_ulid(moment)[:10] for moment in ordered]
    assert ulids == sorted(ulids)


def test_ulids_do_not_repeat() -> None:
    assert len({new_ulid(1.0) for _ in range(10_000)}) == 10_000


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_equal_values_have_equal_digests_whatever_the_order(value: dict[str, int | str]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest(value) == digest(backwards)


@pytest.mark.parametrize("name", ["a", "churn", "churn-2.1_x", "A" * 63, "0"])
def test_legal_names(name: str) -> None:
    assert check_name(name) == name


HOSTILE = [
    "",
    ".",
    "..",
    "a..b",
    "-a",
    "a-",
    "a/b",
    "a\\b",
    "a\nb",
    "a\n",
    "a b",
    "ä",
    "A" * 64,
    "a\x00b",
    "%2e",
    "a:b",
    "a@b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_illegal_names_are_refused_naming_the_field(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_name(name, field="endpoint")
    assert caught.value.field == "endpoint"
