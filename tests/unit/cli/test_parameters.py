from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.cli.parameters import key_values, typed_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n=200", 200),
        ("n=0.1", 0.1),
        ("n=1e-3", 1e-3),
        ("n=true", True),
        ("n=null", None),
        ("n=[1, 2]", [1, 2]),
        ('n={"a": 1}', {"a": 1}),
        ("n=abc", "abc"),
        ("n=00123", "00123"),
        ("n=NaN", "NaN"),
        ("n=1e999", "1e999"),
        ("n=", ""),
        ("n=a=b", "a=b"),
        ('n="7"', "7"),
        ("n=123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_hyper_parameters_keep_their_type(text: str, value: Any) -> None:
    parsed = typed_values((text,), option="--hp")["n"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("pairs", [("novalue",), ("=x",), ("a=1", "a=2")])
def test_malformed_pairs_name_the_option(pairs: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        key_values(pairs, option="--input")
    assert caught.value.field == "--input"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_lossless(value: float) -> None:
    assert typed_values((f"x={value!r}",), option="--hp")["x"] == value
