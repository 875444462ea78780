"""NumPy arrays come back bit for bit: dtype, shape, order; or are refused by name."""

from __future__ import annotations

import decimal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml_toolbox import datasets
from ml_toolbox.base.errors import Conflict, Invalid
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.datasets.conftest import RoundTrip

STRUCT = np.dtype([("id", "<i4"), ("größe", ">f8", (2,)), ("日本", "S3")], align=False)

ARRAYS: dict[str, Any] = {
    "ints": np.arange(10),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "strided": np.arange(60).reshape(6, 10)[::2, ::3],
    "reversed": np.arange(9)[::-1],
    "scalar": np.array(2.5),
    "no rows": np.empty((0, 7), "f4"),
    "no columns": np.empty((7, 0)),
    "nothing in the middle": np.empty((3, 0, 2)),
    "big-endian": np.arange(4, dtype=">i8"),
    "float16": np.array([1, np.nan, -0.0], "f2"),
    "long double": np.array([1, 2], np.longdouble),
    "complex": np.array([1 + 2j, np.nan], "c8"),
    "bool": np.array([[True], [False]]),
    "text": np.array(["a", "", "日本語"]),
    "bytes": np.array([b"a", b"", b"\xff\x00x"]),
    "empty text": np.array([""], dtype="U0"),
    "void": np.array([b"ab", b"cd"], "V2"),
    "times": np.array(["2020-01-01", "NaT", "1600-01-01"], "M8[s]"),
    "spans": np.array([1, "NaT"], "m8[ns]"),
    "structured": np.array([(1, (2.0, 3.0), b"abc"), (4, (5.0, np.nan), b"")], STRUCT),
    "aligned": np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "many fields": np.zeros(2, [(f"field_{i}", "f4") for i in range(3000)]),
}


def same(left: Any, right: Any) -> None:
    assert type(right) is np.ndarray
    assert right.dtype == left.dtype
    assert right.shape == left.shape
    if left.dtype.kind == "g" or left.dtype.isalignedstruct:  # padding bytes mean nothing
        np.testing.assert_array_equal(left, right)
    else:
        assert right.tobytes("A") == left.tobytes("A")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("options", [{}, {"mmap": False}, {"check": True}], ids=str)
def test_an_array_comes_back_exactly(round_trip: RoundTrip, name: str, options: dict[str, bool]) -> None:
    array = ARRAYS[name]
    back = round_trip(array, **options)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        same(array, back)
        assert back.flags.f_contiguous == array.flags.f_contiguous
    else:
        same(np.ascontiguousarray(array), back)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_plain_array_comes_back_exactly(round_trip: RoundTrip, data: st.DataObject) -> None:
    dtype = data.draw(hnp.scalar_dtypes())
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    same(array, round_trip(array))


def test_objects_come_back_with_their_types(round_trip: RoundTrip) -> None:
    array = np.empty((2, 4), dtype=object)
    array[0] = [None, 1, "1", b"1"]
    array[1] = [(1, [2.5]), decimal.Decimal("1.50"), True, {"a": np.float32(1)}]
    back = round_trip(array)
    assert back.dtype == object
    assert back.shape == (2, 4)
    for left, right in zip(array.flat, back.flat, strict=True):
        assert (type(left), left) == (type(right), right)
    assert type(back[1, 3]["a"]) is np.float32


class Custom:
    """Something that only pickle could keep."""


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.array([1, Custom()], dtype=object), "row 1"),
        (np.zeros(2, [("a", "i4"), ("b", object)]), "'b'"),
        (np.ma.masked_array([1, 2], [False, True]), "MaskedArray"),
        (np.zeros(2, [("a", "i4")]).view(np.recarray), "recarray"),
        (np.array(["a", "b"], np.dtypes.StringDType()), "StringDType"),
        (np.zeros(2, np.dtype("f4", metadata={"unit": "m"})), "metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_not_come_back_is_refused(local: ObjectStore, array: Any, named: str) -> None:
    with pytest.raises(Invalid, match=named) as caught:
        datasets.save({"inputs": array}, local)
    assert "inputs" in str(caught.value)
    assert caught.value.hint
    assert list(local.list()) == [] or all("dataset.json" not in meta.key for meta in local.list())


def test_a_mapped_array_can_be_changed_and_the_stored_one_cannot(local: ObjectStore) -> None:
    array = np.zeros(100_000)
    datasets.save(array, local, "d")
    mapped = datasets.load(local, "d")
    assert not mapped.flags.owndata, "the array was read, not mapped"
    mapped[:] = 1
    assert datasets.load(local, "d").sum() == 0
    assert datasets.load(local, "d", mmap=False).flags.owndata


def test_a_large_array_is_read_whole_in_threads(local: ObjectStore) -> None:
    array = np.random.default_rng(0).random((5_000_000,)).reshape(-1, 50)  # several chunks of 8 MiB, and a rest
    datasets.save(array, local, "d")
    np.testing.assert_array_equal(datasets.load(local, "d", mmap=False), array)


def test_ten_million_rows(local: ObjectStore) -> None:
    array = np.arange(10_000_000, dtype=np.int32)
    manifest = datasets.save(array, local, "d")
    assert manifest.rows == 10_000_000
    np.testing.assert_array_equal(datasets.load(local, "d"), array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [0, 1, 6, 7])
def test_batches_add_up_to_the_array(store: ObjectStore, order: Any, rows: int) -> None:
    array = np.asarray(np.arange(rows * 6, dtype=">f4").reshape(rows, 2, 3), order=order)
    datasets.save(array, store, "d")
    batches = list(datasets.load_batches(store, "d", batch_rows=3))
    assert [len(batch) for batch in batches] == [n for n in (3, 3, 3) if n][: rows // 3] + (
        [rows % 3] if rows % 3 else []
    )
    assert all(batch.dtype == array.dtype for batch in batches)
    if rows:
        np.testing.assert_array_equal(np.concatenate(batches), array)


def test_a_stream_over_many_chunks(store: ObjectStore) -> None:
    array = np.arange(3_000_000).reshape(-1, 3)
    datasets.save(array, store, "d")
    total = 0
    for batch in datasets.load_batches(store, "d", batch_rows=70_000):
        np.testing.assert_array_equal(batch, array[total : total + len(batch)])
        total += len(batch)
    assert total == len(array)


def _hostile(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not npy at all",
        _hostile(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n")
        + b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
        _hostile(b"__import__('os').system('touch /tmp/owned')\n"),
        _hostile(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"),
        _hostile(b"{'descr': '<f8', 'fortran_order': False}\n"),
        _hostile(b"(" * 60_000),
        b"\x93NUMPY\x03\x00\xff\xff\xff\x7f" + b"x" * 100,
        b"\x93NUMPY\x09\x09" + b"x" * 100,
    ],
)
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # the parser's own remarks on what it refuses
def test_a_hostile_npy_runs_nothing_and_is_a_conflict(local: ObjectStore, content: bytes, mmap: bool) -> None:
    datasets.save(np.zeros(100_000), local, "d")
    manifest = datasets.read_manifest(local, "d")
    part = manifest.items[0].parts[0]
    path = datasets.Blobs(local, "d/blobs").path(part)
    assert path is not None
    path.write_bytes(content.ljust(part.size, b"\x00"))
    owned = Path("/tmp/owned")
    before = owned.exists()
    with pytest.raises(Conflict):
        datasets.load(local, "d", mmap=mmap)
    assert owned.exists() == before


def test_opening_a_map_does_not_read_the_data(local: ObjectStore) -> None:
    """Not a clock: a sparse 4 GiB file opens and answers its last value although nothing of it was ever written."""
    datasets.save(np.zeros(1000, "u1"), local, "d")
    blobs = datasets.Blobs(local, "d/blobs")
    manifest = datasets.read_manifest(local, "d")
    item = manifest.items[0]
    path = blobs.path(item.parts[0])
    assert path is not None
    size = 4 * 2**30
    header = np.lib.format.magic(1, 0)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}".ljust(117) + "\n"
    with path.open("wb") as file:
        file.write(header + len(text).to_bytes(2, "little") + text.encode())
        offset = file.tell()
        file.truncate(offset + size)
    part = datasets.Part(sha256=item.parts[0].sha256, size=offset + size, format="npy", rows=size)
    grown = datasets.Item(name="", kind="numpy", rows=size, parts=(part,), spec={**item.spec, "data_offset": offset})
    started = time.process_time()
    array = datasets.read(datasets.DatasetManifest(layout="single", items=(grown,)), blobs)
    assert array.shape == (size,)
    assert array[-1] == 0
    assert time.process_time() - started < 60  # reading it would take the memory of the machine, not the time
