"""The dataset as a whole: content-addressed parts, conversions, damage, interruption."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox import datasets
from ml_toolbox.base.errors import Conflict, Invalid, MissingExtra, NotFound, Unsupported
from ml_toolbox.datasets.addresses import ContentHash, address_of
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore


def blobs_of(store: ObjectStore, prefix: str = "") -> dict[str, int]:
    return {meta.key.rpartition("/")[2]: meta.size for meta in store.list(f"{prefix}/blobs".strip("/"))}


def address_by_hand(data: bytes) -> str:
    """The documented rule, written again: sha256, above 8 MiB the composite of the pieces and their number."""
    pieces = [data[start : start + 2**23] for start in range(0, len(data), 2**23)]
    if len(pieces) < 2:
        return hashlib.sha256(data).hexdigest()
    together = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    return f"{hashlib.sha256(together).hexdigest()}-{len(pieces)}"


def frame(**changes: Any) -> pd.DataFrame:
    rows = 1000
    columns = {"id": np.arange(rows), "x": np.sin(np.arange(rows)), "name": [f"n{i}" for i in range(rows)]}
    return pd.DataFrame({**columns, **changes})


def test_a_blob_is_named_by_its_content(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "piece").write_bytes(bytes(2**23))
    (tmp_path / "more").write_bytes(bytes(2**23 + 1))
    data = {
        "table": frame(),
        "array": np.arange(2_000_000),
        "strided": np.arange(4_000_000)[::3],
        "small": np.arange(3),
    }
    datasets.save(data | {name: tmp_path / name for name in ("empty", "piece", "more")}, store)
    names = set()
    for meta in store.list("blobs"):
        name = meta.key.rpartition("/")[2]
        names.add(name)
        assert meta.key == f"blobs/sha256/{name[:2]}/{name}"
        assert address_by_hand(store.get(meta.key).data) == name
    assert sorted(name[64:] for name in names if len(name) > 64) == ["-2", "-2", "-2"]


@settings(max_examples=20, deadline=None)
@given(size=st.integers(0, 5 * 2**22), cuts=st.lists(st.integers(0, 5 * 2**22), max_size=6), held=st.booleans())
def test_the_address_does_not_depend_on_how_the_content_arrives(size: int, cuts: list[int], held: bool) -> None:
    data = np.random.default_rng(size).bytes(size)
    with ContentHash(held=held) as content:
        for start, end in pairwise(sorted({0, size, *(cut for cut in cuts if cut < size)})):
            content.update(data[start:end])
        assert content.address() == address_of(data) == address_by_hand(data)


def test_the_list_of_a_long_blobs_pieces_is_another_blob(store: ObjectStore, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2**24)
    hashes = b"".join(hashlib.sha256(content[start : start + 2**23]).digest() for start in (0, 2**23))
    (tmp_path / "long").write_bytes(content)
    (tmp_path / "hashes").write_bytes(hashes)
    manifest = datasets.save((tmp_path / "long", tmp_path / "hashes"), store)
    assert len(manifest.parts) == 2
    long, short = datasets.load(store)
    assert Path(long).read_bytes() == content
    assert Path(short).read_bytes() == hashes


@pytest.mark.parametrize("damage", ["a byte of the last piece", "pieces in another order"])
def test_damage_in_a_long_blob_is_found(store: ObjectStore, damage: str) -> None:
    manifest = datasets.save(np.arange(3 * 2**20), store)  # three pieces and a rest
    (meta,) = store.list("blobs")
    data = bytearray(store.get(meta.key).data)
    if damage == "pieces in another order":
        data[2**23 : 3 * 2**23] = data[2 * 2**23 : 3 * 2**23] + data[2**23 : 2 * 2**23]
    else:
        data[-1] ^= 1
    store.put(meta.key, bytes(data))
    assert "not what was saved" in datasets.Blobs(store).problem(manifest.parts[0])
    with pytest.raises(Conflict, match="changed after it was saved"):
        datasets.load(store, check=True)


def test_only_the_changed_column_is_stored_again(store: ObjectStore) -> None:
    datasets.save(frame(), store)
    before = set(blobs_of(store))
    datasets.save(frame(x=1.0), store)
    assert len(set(blobs_of(store)) - before) == 1
    datasets.save(frame()[["name", "id"]].rename(columns={"id": "key"}), store)
    assert len(set(blobs_of(store)) - before) == 1, "an unchanged column under another name or place is the same file"
    datasets.save(pl.DataFrame({"numbers": np.arange(1000)}), store, "")
    assert len(set(blobs_of(store)) - before) == 1, "the library does not matter either"


def test_equal_data_gives_equal_manifests(store: ObjectStore, tmp_path: Path) -> None:
    one = datasets.save((np.zeros((5, 2)), frame()), store, "a")
    two = datasets.save((np.zeros((5, 2)), frame()), open_store(tmp_path / "other"), "b")
    assert one.sha256 == two.sha256
    assert datasets.save((np.ones((5, 2)), frame()), store, "c").sha256 != one.sha256
    split = pa.concat_tables([pa.table({"a": [1, 2]}), pa.table({"a": [3]})])
    assert datasets.save(split, store, "d").sha256 == datasets.save(pa.table({"a": [1, 2, 3]}), store, "e").sha256


def test_a_manifest_survives_its_json(store: ObjectStore) -> None:
    manifest = datasets.save({"a": frame(), "b": np.zeros(3)}, store)
    assert datasets.DatasetManifest.from_json(manifest.to_json()) == manifest
    assert datasets.read_manifest(store) == manifest
    assert datasets.read_manifest(store).sha256 == manifest.sha256
    later = json.loads(manifest.to_json()) | {"format_version": 99}
    with pytest.raises(Unsupported, match="upgrade"):
        datasets.DatasetManifest.from_json(json.dumps(later).encode())
    for wrong in (b"", b"[]", b"{}", b'{"format_version": 1}', b"\x80\x04."):
        with pytest.raises(Invalid):
            datasets.DatasetManifest.from_json(wrong)


@pytest.mark.parametrize(
    ("data", "hint"),
    [([1, 2], "asarray"), (5, "NumPy"), (None, "NumPy"), ({1: np.zeros(2)}, "text keys"), (object(), "NumPy"),
     ({"": np.zeros(1)}, "text keys"), ((np.zeros(2), [1, 2]), "asarray"), (np.float64(1), "NumPy"), (pd.Timestamp(0), "NumPy"),
     (pa.array([1]), "Table"), (pa.record_batch({"a": [1]}), "Table")],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_data_is_refused_with_what_to_do(store: ObjectStore, data: Any, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        datasets.save(data, store)
    assert hint in caught.value.hint
    assert not [meta for meta in store.list() if meta.key.endswith("dataset.json")]


CONVERSIONS: dict[str, tuple[Any, str, Any]] = {
    "pandas to numpy": (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), "numpy", np.array([[1, 3], [2, 4]])),
    "pandas to arrow": (pd.DataFrame({"a": [1, 2]}), "arrow", pa.table({"a": [1, 2]})),
    "pandas to polars": (pd.DataFrame({"a": [1, 2]}), "polars", pl.DataFrame({"a": [1, 2]})),
    "polars to pandas": (pl.DataFrame({"a": [1, 2]}), "pandas", pd.DataFrame({"a": [1, 2]})),
    "arrow to pandas": (pa.table({"a": [1, 2]}), "pandas", pd.DataFrame({"a": [1, 2]})),
    "arrow to numpy": (pa.table({"a": [1, 2], "b": [0.5, 1.5]}), "numpy", np.array([[1, 0.5], [2, 1.5]])),
    "numpy to pandas": (np.eye(2), "pandas", pd.DataFrame(np.eye(2))),
    "numpy to arrow": (np.eye(2), "arrow", pa.table({"0": [1.0, 0.0], "1": [0.0, 1.0]})),
    "series to polars": (pd.Series([1, 2], name="y"), "polars", pl.DataFrame({"y": [1, 2]})),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_one_kind_as_another(store: ObjectStore, name: str) -> None:
    data, as_, expected = CONVERSIONS[name]
    datasets.save(data, store)
    found = datasets.load(store, as_=as_)  # type: ignore[arg-type]
    if as_ == "numpy":
        np.testing.assert_array_equal(found, expected)
    elif as_ == "pandas":
        pd.testing.assert_frame_equal(found, expected)
    else:
        assert type(found) is type(expected)
        assert found.equals(expected) if as_ == "polars" else found.cast(expected.schema).equals(expected)


def test_conversions_that_do_not_exist_say_so(store: ObjectStore) -> None:
    datasets.save(np.zeros((2, 2, 2)), store)
    with pytest.raises(Invalid, match="3 dimensions"):
        datasets.load(store, as_="pandas")
    with pytest.raises(Invalid, match="'panda'"):
        datasets.load(store, as_="panda")  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="array"):
        datasets.load(store, columns=["a"])
    datasets.save((np.zeros(2), np.zeros(2)), store)
    with pytest.raises(Invalid, match="2 items"):
        datasets.load(store, columns=["a"])


def test_as_path_writes_plain_files(store: ObjectStore, tmp_path: Path) -> None:
    datasets.save((frame(), np.arange(5)), store)
    table, array = datasets.load(store, as_="path", into=tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_parquet(table), frame())
    np.testing.assert_array_equal(np.load(array), np.arange(5))


def test_a_tuple_in_batches(store: ObjectStore) -> None:
    X, y = np.arange(20).reshape(10, 2), pd.Series(range(10))
    datasets.save((X, y), store)
    batches = list(datasets.load_batches(store, batch_rows=4))
    assert [len(part) for batch in batches for part in batch] == [4, 4, 4, 4, 2, 2]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), X)
    datasets.save({"a": X, "b": y[:3]}, store)
    with pytest.raises(Invalid, match="different numbers of rows"):
        next(datasets.load_batches(store))
    with pytest.raises(Invalid, match="batch_rows"):
        next(datasets.load_batches(store, batch_rows=0))


def damage(store: ObjectStore, change: Any) -> None:
    for meta in list(store.list("blobs")):
        store.put(meta.key, change(store.get(meta.key).data))


@pytest.mark.parametrize("data", [np.arange(50_000), frame(), pl.DataFrame({"a": ["x"] * 99}), pa.table({"a": pa.nulls(5)})],
                         ids=["numpy", "pandas", "polars", "arrow"])  # fmt: skip
def test_damage_is_a_conflict_never_wrong_data(store: ObjectStore, data: Any) -> None:
    datasets.save(data, store)
    flip = lambda content: content[:-1] + bytes([content[-1] ^ 1])  # noqa: E731
    damage(store, flip)
    with pytest.raises(Conflict):
        datasets.load(store, check=True)
    damage(store, flip)
    datasets.load(store, check=True)
    damage(store, lambda content: content[:-1])
    with pytest.raises(Conflict):
        datasets.load(store)
    for meta in list(store.list("blobs")):
        store.delete(meta.key)
    with pytest.raises(NotFound, match="missing"):
        datasets.load(store)


def test_a_part_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    manifest = datasets.save(np.arange(50_000), store)
    path = datasets.Blobs(store).path(manifest.parts[0])
    assert path is not None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="link"):
        datasets.load(store)


def test_saving_again_repairs_a_truncated_or_missing_part(store: ObjectStore) -> None:
    data = {"large": np.arange(400_000), "table": frame()}
    datasets.save(data, store)
    damage(store, lambda content: content[: len(content) // 2])
    datasets.save(data, store)
    np.testing.assert_array_equal(datasets.load(store, check=True)["large"], data["large"])


def test_a_remote_store_is_always_checked(tmp_path: Path) -> None:
    import uuid

    store = open_store(f"memory://{uuid.uuid4()}")
    datasets.save(np.arange(50_000), store)
    damage(store, lambda content: content[:-1] + b"\xff")
    with pytest.raises(Conflict):
        datasets.load(store)


class Changing:
    """A file that another program changes between our two looks at it."""

    def __init__(self, store: ObjectStore, path: Path) -> None:
        self._store, self._path = store, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, body: Any, **options: Any) -> Any:
        with self._path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        return self._store.put(key, body, **options)


def test_a_file_that_changes_while_it_is_sent_is_not_stored_under_a_wrong_name(tmp_path: Path) -> None:
    import uuid

    store = open_store(f"memory://{uuid.uuid4()}")
    path = tmp_path / "growing.bin"
    path.write_bytes(os.urandom(3_000_000))
    with pytest.raises(Conflict, match="changed while"):
        datasets.save(path, Changing(store, path))
    assert blobs_of(store) == {}


def test_progress_reaches_its_total_whatever_is_stored_already(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(5):
        (tmp_path / "files" / str(number)).write_bytes(os.urandom(700_000 * number))
    data = (np.arange(1_000_000), frame(), tmp_path / "files")
    for _ in range(2):
        seen: list[tuple[int, ...]] = []

        def report(*counts: int, seen: list[tuple[int, ...]] = seen) -> None:
            seen.append(counts)

        datasets.save(data, store, progress=report)
        assert all(one[0] <= two[0] and one[2] <= two[2] for one, two in pairwise(seen))
        done, total, files, all_files = seen[-1]
        assert files == all_files
        assert abs(done - total) < 1000  # the header of the array is not in the announced size


def test_a_library_that_is_missing_is_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.save(pl.DataFrame({"a": [1]}), store)
    monkeypatch.delitem(sys.modules, "ml_toolbox.datasets.polars_frames")
    monkeypatch.delattr(datasets, "polars_frames")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match="pip install polars"):
        datasets.load(store)


def test_importing_the_package_loads_no_library_of_data() -> None:
    script = "import sys, ml_toolbox.datasets, ml_toolbox.features.data; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "ml_toolbox.features.data" in out.split()
    assert not {"numpy", "pandas", "polars", "pyarrow", "obstore"} & set(out.split())


def _save_for_ever(folder: str, told: str) -> None:
    store = open_store(folder)
    number = 0
    while True:
        number += 1
        datasets.save({"array": np.full(1_500_000, number), "table": frame(x=float(number))}, store, "d")
        Path(told).write_text(str(number))


def test_kill_9_in_the_middle_leaves_a_whole_dataset(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for turn in range(3):
        told = tmp_path / f"told-{turn}"
        process = context.Process(target=_save_for_ever, args=(str(tmp_path / "store"), str(told)))
        process.start()
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text() > str(turn)):
            assert time.monotonic() < deadline, "the writer never came so far"
            time.sleep(0.003)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store = open_store(tmp_path / "store")
        back = datasets.load(store, "d", check=True)
        assert (back["array"] == back["array"][0]).all()
        assert (back["table"]["x"] == back["array"][0]).all()
        for meta in store.list("d/blobs"):
            assert address_by_hand(store.get(meta.key).data) == meta.key.rpartition("/")[2], "a torn blob"
