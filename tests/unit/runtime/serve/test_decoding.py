"""The fast way and the careful way agree, and nothing wrong comes through either."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.packages.manifest import ColumnSpec, Signature
from ml_toolbox.runtime.serve.decoding import JsonReader, careful_rows, csv_rows, json_lines
from ml_toolbox.runtime.serve.open_inference import read_infer
from ml_toolbox.runtime.serve.problems import Refused
from ml_toolbox.runtime.serve.schema import Schema, brackets
from tests.unit.runtime.serve.running import matrix, mixed

READER = JsonReader()
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.integers(-(2**53), 2**53)


def rows_of(width: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=12)


@given(st.integers(1, 5).flatmap(lambda width: st.tuples(st.just(width), rows_of(width))))
def test_both_ways_give_the_rows_that_were_sent(sent: tuple[int, list[list[float]]]) -> None:
    width, rows = sent
    schema = Schema(matrix(width))
    body = json.dumps({"instances": rows}).encode()
    fast = READER.rows(schema, body)
    careful = careful_rows(schema, json.loads(body))
    assert isinstance(fast.batch, np.ndarray)
    np.testing.assert_array_equal(fast.batch, np.array(rows, np.float64))
    np.testing.assert_array_equal(fast.batch, careful.batch)
    tensor = {
        "name": "x",
        "shape": [len(rows), width],
        "datatype": "FP64",
        "data": [value for row in rows for value in row],
    }
    infer, _ = read_infer(READER, schema, json.dumps({"inputs": [tensor]}).encode())
    np.testing.assert_array_equal(infer.batch, fast.batch)


JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["f0", "f1", "x", "data"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["instances", "features", "inputs", "data", "other"]), JSON)
def test_whatever_json_comes_it_is_rows_or_a_refusal(key: str, value: Any) -> None:
    for signature in (matrix(2), matrix(1), matrix(2, dtype="int32"), mixed(), tensor(2)):
        schema = Schema(signature)
        body = json.dumps({key: value}).encode()
        try:
            decoded = READER.rows(schema, body)
        except Refused:
            continue
        expected = careful_rows(schema, json.loads(body))  # the careful way must accept whatever the fast one accepts
        assert decoded.rows == expected.rows
        assert decoded.single == expected.single
        if isinstance(decoded.batch, np.ndarray):
            np.testing.assert_array_equal(decoded.batch, expected.batch)


@given(JSON, JSON)
def test_whatever_tensor_comes_it_is_rows_or_a_refusal(data: Any, shape: Any) -> None:
    schema = Schema(matrix(2))
    tensor = {"name": "x", "shape": shape, "datatype": "FP64", "data": data}
    try:
        decoded, _ = read_infer(READER, schema, json.dumps({"inputs": [tensor]}).encode())
    except Refused:
        return
    assert decoded.rows == shape[0]


def tensor(*shape: int | None) -> Signature:
    return Signature(
        layout="tensor",
        inputs=(ColumnSpec(name="image", dtype="float32", shape=shape),),
        outputs=(ColumnSpec(name="prediction", dtype="float64"),),
    )


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [3]],  # ragged, although the values add up to whole rows
        [[1, 2, 3], [4]],
        [[[], [1, 2]]],  # nested deeper, although lengths and total agree
        [[[1], 2]],
        [[1, 2], [[], [3, 4]]],
        [[1, "2"]],
        [[1, True]],
        [[1, None]],
        [1, [2, 3]],
        [],
        [[]],
        {},
        "rows",
    ],
)
def test_wrong_rows_are_refused(rows: Any) -> None:
    for key in ("instances", "data"):
        with pytest.raises(Refused) as caught:
            READER.rows(Schema(matrix(2)), json.dumps({key: rows}).encode())
        assert caught.value.status == 400
        assert caught.value.field


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"city": "Bern", "rooms": 2, "area": 1.5}, "new"),
        ({"city": "Bern", "rooms": 2, "area": 1.5, "new": True, "extra": 1}, "extra"),
        ({"city": 3, "rooms": 2, "area": 1.5, "new": True}, "city"),
        ({"city": None, "rooms": 2, "area": 1.5, "new": True}, "city"),
        ({"city": "Bern", "rooms": 2.5, "area": 1.5, "new": True}, "rooms"),
        ({"city": "Bern", "rooms": None, "area": 1.5, "new": True}, "rooms"),
        ({"city": "Bern", "rooms": 2**70, "area": 1.5, "new": True}, "rooms"),
        ({"city": "Bern", "rooms": 2, "area": "big", "new": True}, "area"),
        ({"city": "Bern", "rooms": 2, "area": 1.5, "new": 1}, "new"),
    ],
)
def test_the_wrong_feature_is_named(row: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        READER.rows(Schema(mixed()), json.dumps({"instances": [row]}).encode())
    assert caught.value.field == field


def test_columns_keep_their_kinds_and_null_becomes_nan_where_it_may() -> None:
    batch = READER.rows(Schema(mixed()), b'{"instances":[{"city":"Bern","rooms":2.0,"area":null,"new":false}]}').batch
    assert isinstance(batch, dict)
    assert batch["city"].tolist() == ["Bern"]
    assert batch["rooms"].dtype == np.int64
    assert np.isnan(batch["area"][0])
    assert batch["new"].tolist() == [False]


def test_float32_overflow_is_refused_by_name_when_the_batch_is_settled() -> None:
    schema = Schema(matrix(2, dtype="float32"))
    decoded = READER.rows(schema, b'{"instances":[[1, 2],[3, 1e300]]}')
    with pytest.raises(Refused) as caught:
        schema.settle(decoded.batch)
    assert caught.value.field == "f1"


def test_integers_are_exact() -> None:
    schema = Schema(matrix(2, dtype="int64"))
    batch = READER.rows(schema, json.dumps({"instances": [[2**62 + 1, -5]]}).encode()).batch
    assert isinstance(batch, np.ndarray)
    assert batch.tolist() == [[2**62 + 1, -5]]
    with pytest.raises(Refused):
        READER.rows(Schema(matrix(1, dtype="int8")), b'{"instances":[[200]]}')


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"1,2\n3,4\n", [[1, 2], [3, 4]]),
        (b"f1,f0\n2,1\n", [[1, 2]]),
        (b"\xef\xbb\xbff0,f1\r\n1,2\r\n", [[1, 2]]),
        (b'"1","2"', [[1, 2]]),
    ],
)
def test_csv_with_and_without_header(body: bytes, rows: list[list[float]]) -> None:
    batch = csv_rows(Schema(matrix(2)), body).batch
    assert isinstance(batch, np.ndarray)
    assert batch.tolist() == rows


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\xff\xfe1,2", "body"),
        (b"1,2,3\n", "row 0"),
        (b"1,2\n1\n", "row 1"),
        (b"1,x\n", "f1"),
        (b"1,\n", "f1"),
        (b"f0,f2\n1,2\n", "f1"),
        (b"f0,f0\n1,2\n", "body"),
        (b"f0,f1\n", "body"),
        (b"1,nan\n", "f1"),
    ],
)
def test_wrong_csv_names_the_place(body: bytes, field: str) -> None:
    with pytest.raises(Refused) as caught:
        csv_rows(Schema(matrix(2)), body)
    assert caught.value.field == field


def test_json_lines() -> None:
    decoded = json_lines(Schema(matrix(2)), b'[1,2]\n\n{"features":[3,4]}\n')
    assert isinstance(decoded.batch, np.ndarray)
    assert decoded.batch.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(Refused, match="line 2"):
        json_lines(Schema(matrix(2)), b"[1,2]\n[3,")


def test_tensors_of_any_rank() -> None:
    schema = Schema(tensor(2, None))
    decoded = READER.rows(schema, b'{"instances":[[[1,2,3],[4,5,6]]]}')
    assert isinstance(decoded.batch, np.ndarray)
    assert decoded.batch.shape == (1, 2, 3)
    with pytest.raises(Refused):
        READER.rows(schema, b'{"instances":[[[1,2,3],[4,5]]]}')
    with pytest.raises(Refused):
        READER.rows(schema, b'{"instances":[[[1,2,3]]]}')


def test_a_deep_document_is_refused_not_followed() -> None:
    with pytest.raises(Refused):
        READER.rows(Schema(matrix(2)), b"[" * 100_000)
    with pytest.raises(Refused):
        READER.rows(Schema(matrix(2)), b'{"instances":' * 5000)
    assert READER.rows(Schema(matrix(2)), b"[[1,2]]").rows == 1  # and the reader still works


@given(st.binary(max_size=6000))
def test_brackets_are_counted_alike_short_and_long(body: bytes) -> None:
    assert brackets(body) == body.count(b"[")
    assert brackets(body + b" " * 5000) == body.count(b"[")
