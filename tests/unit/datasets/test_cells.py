"""Python objects as bytes: exactly, from a closed set of types, and never by running anything."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import pickle
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.datasets.cells import NotExact, label_from_json, label_to_json, pack, unpack

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(BERLIN))
    | st.times()
    | st.timedeltas()
    | st.uuids()
)
keys = st.text(st.characters(codec="utf-8")) | st.integers() | st.tuples(st.booleans(), st.dates())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """The value with the types of all its parts, so that 1, 1.0 and True differ."""
    if isinstance(value, list | tuple):
        return type(value), [shape(part) for part in value]
    if isinstance(value, dict):
        return dict, [(shape(key), shape(part)) for key, part in value.items()]
    if isinstance(value, float):
        return float, value.hex()
    return type(value), value


@settings(max_examples=200, deadline=None)
@given(values)
def test_any_value_comes_back_with_its_types(value: Any) -> None:
    assert shape(unpack(pack(value))) == shape(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        pd.NaT,
        pd.NA,
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.datetime64("2020-01-01T00:00", "m"),
        np.datetime64("NaT"),
        np.str_("text"),
        np.str_(""),
        np.bytes_(b""),
        np.complex64(1j),
        pd.Timestamp("2024-01-01 12:00:00.123456789"),
        pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert(BERLIN),
        pd.Timestamp("2024-01-01", tz=dt.timezone(dt.timedelta(hours=5, minutes=30))),
        pd.Timedelta(5, "s"),
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        dt.UTC.utcoffset(None),
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3), "home")),
        2**200,
        -(2**63),
        2**64 - 1,
        decimal.Decimal("1.500"),
        uuid.UUID(int=5),
    ],
    ids=repr,
)
def test_special_values_come_back_as_themselves(value: Any) -> None:
    back = unpack(pack(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert getattr(back, "fold", 0) == getattr(value, "fold", 0)


def test_an_array_in_a_cell() -> None:
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    back = unpack(pack({"image": array}))["image"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [object(), Colour.RED, Text("a"), {1, 2}, lambda: 1, np.array([object()]), "\ud800", type, range(3), Ellipsis,
     dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1)))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_exact_form_is_refused(value: Any) -> None:
    with pytest.raises(NotExact):
        pack([value])


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotExact, match="nested"):
        pack(value)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x93", pickle.dumps(Bomb()), b"\x91\xa1?", b"\x92\xa1n\xa2|O", b"\x91" * 100_000 + b"\x90",
     b"\x93\xa1n\xa2|O\xc4\x08AAAAAAAA", b"\x94\xa1a\xa2|O\x91\x01\xc4\x08AAAAAAAA", b"\x92\xa1D\xa1x"],
    ids=range(10),
)  # fmt: skip
def test_bytes_that_are_no_cell_are_refused_and_run_nothing(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Invalid):
        unpack(data)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("label", ["a", "", 1, None, (1, "b"), 2.5, pd.Timestamp("2020"), True])
def test_a_label_comes_back_as_itself(label: Any) -> None:
    assert shape(label_from_json(label_to_json(label))) == shape(label)
