"""pandas frames come back exactly - values, dtypes, labels, index - or are refused with the column's name."""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import zoneinfo
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml_toolbox import datasets
from ml_toolbox.base.errors import Invalid
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.datasets.conftest import RoundTrip

pd: Any = pandas
"""The stubs know no odd data, and odd data is what these tests are about."""

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NAN = float("nan")

COLUMNS: dict[str, Any] = {
    "int": [1, -2, 3],
    "uint64": np.array([0, 1, 2**64 - 1], "u8"),
    "int8": np.array([-128, 0, 127], "i1"),
    "float with nan": [1.5, NAN, -0.0],
    "float32": np.array([1e-40, np.inf, np.nan], "f4"),
    "float16": np.array([1, np.nan, 65504], "f2"),
    "complex": np.array([1 + 2j, np.nan, 0]),
    "bool": [True, False, True],
    "str": ["a", None, "日本語"],
    "str without na": ["", "b", " "],
    "string (NA)": pd.array(["a", None, "c"], dtype="string"),
    "object text": pd.Series(["a", None, "b"], dtype=object),
    "object none and nan": pd.Series([None, NAN, pd.NaT], dtype=object),
    "object mixed": pd.Series(["a", 1, decimal.Decimal("1.10")], dtype=object),
    "object numbers": pd.Series([1, 1.0, True], dtype=object),
    "object lists": pd.Series([[1, 2], (3,), {"a": None}], dtype=object),
    "object bytes": pd.Series([b"", b"\xff", None], dtype=object),
    "object dates": pd.Series([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.time(1)], dtype=object),
    "object arrays": pd.Series([np.zeros(2), np.ones(3, "f4"), None], dtype=object),
    "category": pd.Categorical(["b", None, "a"], categories=["c", "b", "a"]),
    "category ordered": pd.Categorical(["low", "high", "low"], ["low", "mid", "high"], ordered=True),
    "category of numbers": pd.Categorical([3, 1, 3]),
    "category of intervals": pd.cut([1, 5, 9], 3),
    "category of mixed": pd.Categorical(pd.Series([1, "a", None], dtype=object)),
    "category empty": pd.Categorical([None, None, None], categories=[]),
    "times": pd.to_datetime(["2020-01-01", None, "1700-01-01"]),
    "times s": np.array(["2020", "NaT", "0001"], "M8[s]"),
    "times ns": np.array(["2020", "NaT", "1970"], "M8[ns]"),
    "zoned": pd.date_range("2024-10-27 00:00", periods=3, freq="h", tz=BERLIN),
    "zoned utc": pd.date_range("2024", periods=3, tz="UTC"),
    "zoned offset": pd.date_range("2024", periods=3, tz=dt.timezone(dt.timedelta(hours=5, minutes=45))),
    "zoned nat": pd.DatetimeIndex(["2024-01-01", None, "2025-01-01"], tz="America/New_York").as_unit("s"),
    "spans": pd.to_timedelta([1, None, -5], unit="s"),
    "period": pd.PeriodIndex(["2024-01", None, "2024-03"], freq="M"),
    "quarter": pd.period_range("2024Q1", periods=3, freq="Q-NOV"),
    "interval": pd.interval_range(0, 3, closed="both"),
    "interval of times": pd.interval_range(pd.Timestamp("2024"), periods=3, freq="D"),
    "Int64": pd.array([1, None, 2**62], dtype="Int64"),
    "UInt8": pd.array([1, None, 255], dtype="UInt8"),
    "Float64": pd.array([1.5, None, 2.5], dtype="Float64"),
    "boolean": pd.array([True, None, False], dtype="boolean"),
    "arrow decimal": pd.array([1, None, 3], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    "arrow list": pd.array([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
    "arrow seconds": pd.array([1, None, 2], dtype=pd.ArrowDtype(pa.timestamp("s", "UTC"))),
}


def frame_of(values: Any) -> Any:
    return pd.DataFrame({"x": values})


def same(left: Any, right: Any) -> None:
    assert type(right) is pd.DataFrame
    pd.testing.assert_frame_equal(left, right, check_exact=True, check_freq=True, check_column_type=True)
    assert list(left.dtypes) == list(right.dtypes)
    for position in range(left.shape[1]):
        one, two = left.iloc[:, position], right.iloc[:, position]
        if one.dtype == object:
            assert [(type(a), repr(a)) for a in one] == [(type(b), repr(b)) for b in two]
        if isinstance(one.dtype, pd.CategoricalDtype):
            assert list(one.cat.categories) == list(two.cat.categories)
            assert one.cat.categories.dtype == two.cat.categories.dtype


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_exactly(round_trip: RoundTrip, name: str) -> None:
    frame = frame_of(COLUMNS[name])
    same(frame, round_trip(frame))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_without_rows_keeps_its_type(round_trip: RoundTrip, name: str) -> None:
    frame = frame_of(COLUMNS[name]).iloc[:0]
    same(frame, round_trip(frame))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_can_be_an_index(round_trip: RoundTrip, name: str) -> None:
    if "arrays" in name or "lists" in name or name == "float16":
        pytest.skip("pandas itself has no such index")
    frame = pd.DataFrame({"x": [1, 2, 3]}, index=pd.Index(COLUMNS[name], name=("a", 1)))
    same(frame, round_trip(frame))


def test_all_columns_at_once_in_batches(store: ObjectStore) -> None:
    frame = pd.concat([pd.DataFrame(COLUMNS)] * 3, ignore_index=True)
    datasets.save(frame, store)
    batches = list(datasets.load_batches(store, batch_rows=4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    for start, batch in zip((0, 4, 8), batches, strict=True):
        same(frame.iloc[start : start + 4], batch)


LABELS: dict[str, Any] = {
    "duplicates": pd.Index(["a", "a", "b"]),
    "empty and odd text": pd.Index(["", " ", "../../etc\n\x00"]),
    "numbers": pd.Index([2, 0, 1]),
    "range": pd.RangeIndex(3),
    "none and mixed": pd.Index([None, 1.5, "x"], dtype=object),
    "tuples": pd.Index([("a", 1), ("b",), "c"], dtype=object, tupleize_cols=False),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", None)], names=["outer", None]),
    "times": pd.date_range("2024", periods=3, name="day"),
    "categories": pd.CategoricalIndex(["b", "a", "b"]),
    "object text": pd.Index(["a", "b", "c"], dtype=object, name="columns"),
    "string (NA)": pd.Index(["a", "b", "c"], dtype="string"),
    "zero and minus": pd.Index(["rows", "whole", "packed"]),
}


@pytest.mark.parametrize("name", LABELS)
def test_column_labels_of_any_kind(round_trip: RoundTrip, name: str) -> None:
    frame = pd.DataFrame([[1, 2.5, "a"], [2, 3.5, "b"]])
    frame.columns = LABELS[name]
    same(frame, round_trip(frame))


INDEXES: dict[str, Any] = {
    "range with a step": pd.RangeIndex(10, 4, -2, name="down"),
    "multi": pd.MultiIndex.from_product([["a"], [1.5, None, 2.5]], names=["k", None]),
    "multi with unused levels": pd.MultiIndex.from_product([["a", "b"], [1, 2, 3]])[1:4],
    "regular times": pd.date_range("2024", periods=3, freq="2h", tz="Asia/Tokyo"),
    "business days": pd.date_range("2024", periods=3, freq="B"),
    "duplicate": pd.Index([1, 1, 1]),
}


@pytest.mark.parametrize("name", INDEXES)
def test_row_indexes_of_any_kind(round_trip: RoundTrip, store: ObjectStore, name: str) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]}, index=INDEXES[name])
    same(frame, round_trip(frame))
    for start, batch in enumerate(datasets.load_batches(store, "d", batch_rows=1)):
        pd.testing.assert_frame_equal(batch, frame.iloc[start : start + 1], check_freq=False)


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame(index=[1, 2]), pd.DataFrame(columns=["a", "b"])])
def test_frames_without_columns_or_rows(round_trip: RoundTrip, frame: Any) -> None:
    same(frame, round_trip(frame))


def test_every_bit_of_a_float_is_kept(round_trip: RoundTrip) -> None:
    payloads = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001, 0x8000000000000000, 0x1]
    values = np.array(payloads, "u8").view("f8")
    back = round_trip(pd.DataFrame({"x": np.tile(values, 50)}))
    assert back["x"].to_numpy().view("u8").tolist() == payloads * 50


def test_attributes_and_flags(round_trip: RoundTrip) -> None:
    frame = pd.DataFrame({"x": [1]}).set_flags(allows_duplicate_labels=False)
    frame.attrs = {"source": ("a", 1), 5: None}
    back = round_trip(frame)
    assert back.attrs == frame.attrs
    assert type(back.attrs["source"]) is tuple
    assert back.flags.allows_duplicate_labels is False


def test_the_frame_that_comes_back_can_be_changed(round_trip: RoundTrip) -> None:
    frame = pd.DataFrame(
        {name: values for name, values in COLUMNS.items() if "object" not in name and "list" not in name}
    )
    back = round_trip(frame)
    for position in range(frame.shape[1]):
        back.iloc[0, position] = back.iloc[2, position]
    assert back.iloc[0].astype(str).tolist() == back.iloc[2].astype(str).tolist()
    same(frame, round_trip(frame))


class Custom:
    pass


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pd.Series([1, Custom()], dtype=object), r"Custom \(row 1\)"),
        (pd.Series([{1, 2}], dtype=object), "set"),
        (pd.Series(["ok", "\ud800"], dtype=object), "Unicode"),
        (pd.arrays.SparseArray([0, 0, 1]), "to_dense"),
        (pd.Series([lambda: 1], dtype=object), "function"),
    ],
    ids=["class", "set", "surrogate", "sparse", "function"],
)
def test_a_column_that_would_not_come_back_is_refused_by_name(store: ObjectStore, values: Any, reason: str) -> None:
    frame = pd.DataFrame({"fine": [1] * len(values), "odd one": values})
    with pytest.raises(Invalid, match=reason) as caught:
        datasets.save(frame, store, "d")
    assert "'odd one'" in str(caught.value)
    assert not [meta for meta in store.list("d") if meta.key.endswith("dataset.json")]


def test_a_subclass_is_refused(store: ObjectStore) -> None:
    special = type("Special", (pd.DataFrame,), {})

    with pytest.raises(Invalid, match="Special"):
        datasets.save(special({"a": [1]}), store)


def test_only_the_wanted_columns_in_the_wanted_order(store: ObjectStore) -> None:
    frame = pd.DataFrame([[1, 2.5, "a", True]], columns=pd.Index(["x", 5, "x", "5"], dtype=object))
    datasets.save(frame, store)
    same(frame.iloc[:, [3, 0, 2]], datasets.load(store, columns=["5", "x"]))
    same(frame.iloc[:, [1]], datasets.load(store, columns=[5]))
    same(frame.iloc[:, []], datasets.load(store, columns=[]))
    with pytest.raises(Invalid, match="'y'"):
        datasets.load(store, columns=["y"])


@pytest.mark.parametrize("name", ["int", "str", "category", "zoned", "object mixed"])
def test_a_series_comes_back(round_trip: RoundTrip, store: ObjectStore, name: str) -> None:
    series = pd.Series(COLUMNS[name], index=list("abc"), name=("target", 1))
    back = round_trip(series)
    pd.testing.assert_series_equal(series, back)
    assert [len(batch) for batch in datasets.load_batches(store, "d", batch_rows=2)] == [2, 1]


def test_text_of_a_million_rows_and_a_wide_table(local: ObjectStore) -> None:
    long = pd.DataFrame({"text": pd.Series(np.arange(1_200_000)).astype(str), "n": np.arange(1_200_000)})
    same(long, _there_and_back(local, long))
    wide = pd.DataFrame(np.arange(2_000.0).reshape(2, 1000)).astype({7: "int8"})
    manifest = datasets.save(wide, local, "wide")
    assert len(manifest.items[0].parts) <= 260, "a wide table must not become thousands of files"
    same(wide, datasets.load(local, "wide"))


def _there_and_back(store: ObjectStore, data: Any) -> Any:
    datasets.save(data, store, "d")
    return datasets.load(store, "d")


def test_summaries_tell_nulls_and_extremes(local: ObjectStore) -> None:
    frame = pd.DataFrame({"n": [3, 1, 2], "x": [NAN, -1.5, 2.5], "s": ["b", None, "a"], "big": [2**60, 0, 1],
                          "t": pd.to_datetime(["2024-01-02", "2024-01-01", None])})  # fmt: skip
    found: dict[str, Any] = {
        c.name: (c.dtype, c.nulls, c.minimum, c.maximum) for c in datasets.save(frame, local).items[0].columns
    }
    assert found["n"] == ("int64", 0, 1, 3)
    assert found["x"] == ("float64", 1, -1.5, 2.5)
    assert found["s"] == ("str", 1, "a", "b")
    assert found["big"] == ("int64", 0, 0, str(2**60))
    assert found["t"][1] == 1
    assert str(found["t"][2]).startswith("2024-01-01")


cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")) | st.dates()
labels = st.text(st.characters(codec="utf-8")) | st.integers() | st.none() | st.tuples(st.integers())


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_frame_comes_back_or_is_refused(local: ObjectStore, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 6))
    columns = []
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            columns.append(pd.Series(data.draw(st.lists(cells, min_size=rows, max_size=rows)), dtype=object))
        else:
            dtype = data.draw(st.sampled_from(["i1", "u4", "i8", "f2", "f4", "f8", "c16", "M8[us]", "m8[ms]", "?"]))
            columns.append(pd.Series(data.draw(hnp.arrays(dtype, rows))))
    frame = pd.DataFrame(dict(enumerate(columns)), index=pd.RangeIndex(rows))
    frame.columns = pd.Index(data.draw(st.lists(labels, min_size=len(columns), max_size=len(columns))), dtype=object,
                             tupleize_cols=False)  # fmt: skip
    datasets.save(frame, local, "d")
    back = datasets.load(local, "d")
    assert list(back.dtypes) == list(frame.dtypes)
    assert repr(list(back.columns)) == repr(list(frame.columns))
    for position in range(frame.shape[1]):
        left, right = frame.iloc[:, position].to_numpy(), back.iloc[:, position].to_numpy()
        if left.dtype == object:
            assert [_bits(a) for a in left] == [_bits(b) for b in right]
        else:
            assert left.tobytes() == right.tobytes()


def _bits(value: Any) -> Any:
    return (float, struct.pack("d", value)) if type(value) is float else (type(value), value)
