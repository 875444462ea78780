"""pyarrow and polars tables come back equal: types, metadata, nulls; or are refused with the column's name."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from ml_toolbox import datasets
from ml_toolbox.base.errors import Invalid
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.datasets.conftest import RoundTrip

ARROW: dict[str, Any] = {
    "int8": pa.array([1, None, -3], pa.int8()),
    "half": pa.array([1, None, 3], pa.float16()),
    "float": pa.array([float("nan"), None, -0.0]),
    "text": pa.array(["a", None, ""]),
    "large text": pa.array(["a", None, ""], pa.large_string()),
    "text view": pa.array(["a", None, ""], pa.string_view()),
    "bytes": pa.array([b"a", None, b""]),
    "fixed bytes": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([1, None, 1], pa.int8()), ["unused", "b"]),
    "ordered dictionary": pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int8()), ["b", "a"], ordered=True),
    "seconds": pa.array([1, None, 10**12], pa.timestamp("s")),
    "nanoseconds": pa.array([1, None, 3], pa.timestamp("ns", "Europe/Berlin")),
    "date64": pa.array([0, None, 86_400_000], pa.date64()),
    "time32": pa.array([0, None, 5], pa.time32("s")),
    "duration": pa.array([1, None, 3], pa.duration("us")),
    "interval": pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval()),
    "decimal": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.00")], pa.decimal128(5, 2)),
    "decimal256": pa.array([decimal.Decimal(1), None, decimal.Decimal(2)], pa.decimal256(50, 0)),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int16())),
    "fixed list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "list of dictionary": pa.array([["a"], None, ["b", "a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False]),
    "uuid": pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()),
}


@pytest.mark.parametrize("name", ARROW)
def test_an_arrow_column_comes_back(round_trip: RoundTrip, name: str) -> None:
    table = pa.table({"x": ARROW[name]})
    for data in (table, table.slice(1), table.slice(0, 0), pa.concat_tables([table, table.slice(1)])):
        back = round_trip(data)
        assert back.schema.equals(data.schema, check_metadata=True)
        assert back.equals(data) if name != "float" else str(back.to_pylist()) == str(data.to_pylist())
        back.validate(full=True)
    if name == "dictionary":
        assert round_trip(table)["x"].chunk(0).dictionary.to_pylist() == ["unused", "b"]


def test_metadata_nullability_and_odd_names(round_trip: RoundTrip) -> None:
    schema = pa.schema(
        [
            pa.field("a", pa.int64(), nullable=False, metadata={"unit": "m"}),
            pa.field("a", pa.string()),
            pa.field("", pa.bool_()),
        ],
        metadata={b"\xff": b"\x00"},
    )
    table = pa.Table.from_arrays([pa.array([1, 2]), pa.array(["x", None]), pa.array([True, None])], schema=schema)
    back = round_trip(table)
    assert back.equals(table, check_metadata=True)
    assert back.schema.field(0).nullable is False


@pytest.mark.parametrize("table", [pa.table({}), pa.table({"a": pa.array([], pa.int64())})])
def test_tables_without_rows_or_columns(round_trip: RoundTrip, table: Any) -> None:
    assert round_trip(table).equals(table)


def test_selected_columns_and_batches(store: ObjectStore) -> None:
    table = pa.table(
        {"a": list(range(10)), "b": [str(i) for i in range(10)], "c": ARROW["dictionary"].take(pa.array([0] * 10))}
    )
    datasets.save(table, store)
    assert datasets.load(store, columns=["b", "a"]).equals(table.select(["b", "a"]))
    batches = list(datasets.load_batches(store, batch_rows=4, columns=["c", "a"]))
    assert [batch.num_rows for batch in batches] == [4, 4, 2]
    assert pa.concat_tables(batches).equals(table.select(["c", "a"]))


def test_a_stream_of_batches_is_stored_without_being_held(store: ObjectStore) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())], metadata={"k": "v"})
    alive = 0

    def batches() -> Any:
        nonlocal alive
        for start in range(0, 3_000_000, 100_000):
            alive = max(alive, pa.total_allocated_bytes())
            yield pa.record_batch(
                [pa.array(range(start, start + 100_000)), pa.array(["x" * 20] * 100_000)], schema=schema
            )

    before = pa.total_allocated_bytes()
    manifest = datasets.save(pa.RecordBatchReader.from_batches(schema, batches()), store)
    assert manifest.rows == 3_000_000
    assert alive - before < 160 * 2**20, "about 100 MB of text and numbers were held at once, twice over"
    back = datasets.load(store)
    assert back.schema.equals(schema, check_metadata=True)
    assert back["n"].to_pylist() == list(range(3_000_000))


def test_an_empty_stream(store: ObjectStore) -> None:
    schema = pa.schema([("n", pa.int64())])
    datasets.save(pa.RecordBatchReader.from_batches(schema, []), store)
    assert datasets.load(store).equals(schema.empty_table())


POLARS: dict[str, Any] = {
    "ints": pl.Series([1, None, 3], dtype=pl.Int8),
    "floats": pl.Series([float("nan"), None, 1.5], dtype=pl.Float32),
    "text": pl.Series(["a", None, "日本"]),
    "categorical": pl.Series(["b", None, "a"], dtype=pl.Categorical),
    "enum": pl.Series(["b", None, "a"], dtype=pl.Enum(["c", "b", "a"])),
    "times": pl.Series([dt.datetime(2020, 1, 1), None, dt.datetime(1, 1, 1)], dtype=pl.Datetime("ms")),
    "zoned": pl.Series([dt.datetime(2020, 1, 1), None, None], dtype=pl.Datetime("ns")).dt.replace_time_zone(
        "Asia/Tokyo"
    ),
    "date": pl.Series([dt.date(2020, 1, 1), None, None]),
    "time": pl.Series([dt.time(1, 2, 3), None, None]),
    "duration": pl.Series([dt.timedelta(1), None, None], dtype=pl.Duration("us")),
    "decimal": pl.Series([decimal.Decimal("1.50"), None, None], dtype=pl.Decimal(10, 2)),
    "list": pl.Series([[1, None], None, []], dtype=pl.List(pl.Int16)),
    "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int8, 2)),
    "struct": pl.Series([{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 2, "b": "y"}]),
    "binary": pl.Series([b"a", None, b""]),
    "bool": pl.Series([True, None, False]),
    "null": pl.Series([None, None, None]),
}


@pytest.mark.parametrize("name", POLARS)
def test_a_polars_column_comes_back(round_trip: RoundTrip, store: ObjectStore, name: str) -> None:
    frame = pl.DataFrame({"größe": POLARS[name]})
    for data in (frame, frame.clear(), frame.tail(2)):
        back = round_trip(data)
        assert type(back) is pl.DataFrame
        assert back.schema == data.schema
        assert back.equals(data)
    batches = list(datasets.load_batches(store, "d", batch_rows=1))
    assert [batch.height for batch in batches] == [1, 1]
    assert all(batch.schema == frame.schema for batch in batches)


def test_polars_series_columns_and_refusal(store: ObjectStore) -> None:
    series = POLARS["enum"].alias("grade")
    datasets.save(series, store)
    back = datasets.load(store)
    assert type(back) is pl.Series
    assert back.equals(series, check_names=True, check_dtypes=True)
    datasets.save(pl.DataFrame(POLARS), store)
    assert datasets.load(store, columns=["text", "ints"]).columns == ["text", "ints"]
    with pytest.raises(Invalid, match="'nope'"):
        datasets.load(store, columns=["nope"])
    with pytest.raises(Invalid, match="'objects'"):
        datasets.save(pl.DataFrame({"objects": pl.Series([object()], dtype=pl.Object)}), store)
    with pytest.raises(Invalid, match="collect"):
        datasets.save(pl.DataFrame({"a": [1]}).lazy(), store)
