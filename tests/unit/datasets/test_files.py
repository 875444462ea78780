"""The user's own files: byte for byte, with schema and rows read from them, and never a file outside its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_toolbox import datasets
from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.ports.objects import ObjectStore

CSV = b'id,name,score\r\n1,"a, ""quoted""\nline",1.5\r\n2,\xc3\xa9,\r\n3,c,-2\r\n'


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_bytes(CSV)
    return path


def test_a_csv_is_kept_byte_for_byte_with_its_schema(store: ObjectStore, csv: Path, tmp_path: Path) -> None:
    manifest = datasets.save(csv, store)
    assert manifest.rows == 3
    assert manifest.files == 1
    columns: dict[str, Any] = {c.name: (c.dtype, c.nulls, c.minimum, c.maximum) for c in manifest.items[0].columns}
    assert columns["id"] == ("int64", 0, 1, 3)
    assert columns["score"] == ("double", 1, -2.0, 1.5)
    path = datasets.load(store, into=tmp_path / "out")
    assert path == tmp_path / "out" / "data.csv"
    assert path.read_bytes() == CSV
    assert datasets.load(store).read_bytes() == CSV  # into a folder of its own


def test_a_csv_as_every_kind_of_table(store: ObjectStore, csv: Path) -> None:
    datasets.save(str(csv), store)
    frame = datasets.load(store, as_="pandas")
    assert list(frame["name"]) == ['a, "quoted"\nline', "é", "c"]
    assert datasets.load(store, as_="polars").equals(pl.from_pandas(frame))
    assert datasets.load(store, as_="arrow", columns=["score", "id"]).column_names == ["score", "id"]
    assert datasets.load(store, as_="numpy").shape == (3, 3)
    with pytest.raises(Invalid, match="'nope'"):
        datasets.load(store, as_="arrow", columns=["nope"])
    with pytest.raises(Invalid, match="as it is"):
        datasets.load(store, columns=["id"])


def test_a_table_file_in_batches(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    pd.DataFrame({"n": range(10_000)}).to_csv(path, index=False)
    datasets.save(path, store)
    batches = list(datasets.load_batches(store, batch_rows=3_000))
    assert [row for batch in batches for row in batch["n"].to_pylist()] == list(range(10_000))
    assert all(batch.num_rows <= 3_000 for batch in batches)


def test_a_csv_whose_types_change_late_is_text(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("a,b\n" + "1,12345678\n" * 2_000_000 + "x,1\n")
    manifest = datasets.save(path, store)
    assert manifest.rows == 2_000_001
    assert [c.dtype for c in manifest.items[0].columns] == ["string", "string"]
    assert datasets.load(store, as_="arrow")["a"][-1].as_py() == "x"


def test_other_table_files(store: ObjectStore, tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    manifest = datasets.save(tmp_path / "t.parquet", store, "p")
    assert (manifest.rows, [c.name for c in manifest.items[0].columns]) == (2, ["a", "b"])
    assert datasets.load(store, "p", as_="arrow").equals(table)
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": {"c": [1]}}\n{"a": null}\n')
    manifest = datasets.save(tmp_path / "t.jsonl", store, "j")
    assert (manifest.rows, manifest.items[0].columns[0].nulls) == (2, 1)
    assert datasets.load(store, "j", as_="arrow").to_pylist() == [{"a": 1, "b": {"c": [1]}}, {"a": None, "b": None}]
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n")
    assert datasets.save(tmp_path / "t.tsv", store, "t").items[0].columns[1].name == "b"
    np.save(tmp_path / "t.npy", np.eye(3))
    assert datasets.save(tmp_path / "t.npy", store, "n").rows == 3
    np.testing.assert_array_equal(datasets.load(store, "n", as_="numpy"), np.eye(3))


@pytest.mark.parametrize("content", [b"", b"a,b\n", b"\n"])
def test_files_without_rows(store: ObjectStore, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.csv"
    path.write_bytes(content)
    if content == b"\n":
        with pytest.raises(Invalid, match=r"empty\.csv"):
            datasets.save(path, store)
        return
    assert datasets.save(path, store).rows == 0
    assert datasets.load(store, as_="arrow").num_rows == 0
    assert datasets.load(store).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n"),
        ("a.parquet", b"PAR1 no"),
        ("a.parquet", b""),
        ("a.jsonl", b"{"),
        ("a.npy", b"\x93NUMPY"),
    ],
)
def test_a_broken_file_is_refused_and_kept_as_bytes_under_another_name(
    store: ObjectStore, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Invalid, match=name):
        datasets.save(path, store)
    path = path.rename(tmp_path / "a.txt")
    assert datasets.save(path, store).rows is None
    assert datasets.load(store).read_bytes() == content


def test_a_pickled_npy_file_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(Invalid, match="pickle"):
        datasets.save(tmp_path / "o.npy", store)


def test_the_names_of_things_decide_nothing(store: ObjectStore) -> None:
    """A dataset called train.pkl has no pickle in it."""
    datasets.save((np.zeros((3, 2)), np.ones(3)), store, "data/train.pkl")
    for meta in store.list("data/train.pkl"):
        assert store.get(meta.key).data[:1] in (b"{", b"\x93")
    X, y = datasets.load(store, "data/train.pkl")
    assert X.shape == (3, 2)
    assert y.sum() == 3


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number in range(12):
        (folder / f"class {number % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"class {number % 3}" / f"{number}.png").write_bytes(b"\x89PNG" + bytes([number]) * 1000)
    (folder / "same.png").write_bytes(b"\x89PNG" + bytes([0]) * 1000)
    (folder / ".hidden").write_bytes(b"")
    (folder / "leer").mkdir()
    (folder / "日本\n.txt").write_bytes(b"odd")
    (folder / "inside.png").symlink_to("same.png")
    return folder


def test_a_folder_comes_back_file_for_file(store: ObjectStore, images: Path, tmp_path: Path) -> None:
    manifest = datasets.save(images, store)
    assert (manifest.rows, manifest.files) == (None, 16)
    back = datasets.load(store, into=tmp_path / "back")
    assert tree(back) == tree(images)
    blobs = list(store.list("blobs"))
    assert len(blobs) == 14, "equal files are stored once"


def test_an_unchanged_image_is_not_sent_again(store: ObjectStore, images: Path) -> None:
    datasets.save(images, store)
    before = {meta.key: meta.last_modified for meta in store.list("blobs")}
    (images / "class 0" / "0.png").write_bytes(b"changed")
    datasets.save(images, store)
    after = {meta.key: meta.last_modified for meta in store.list("blobs")}
    assert len(after) == len(before) + 1
    assert all(after[key] == time for key, time in before.items())


def test_links_out_and_special_files_are_refused(store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(Invalid, match="link"):
        datasets.save(folder, store)
    (folder / "link").unlink()
    (folder / "loop").symlink_to(folder)
    with pytest.raises(Invalid, match="loop"):
        datasets.save(folder, store)
    (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(Invalid, match="pipe"):
        datasets.save(folder, store)
    (folder / "pipe").unlink()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_text("x")
    with pytest.raises(Invalid, match="UTF-8"):
        datasets.save(folder, store)


def test_what_is_not_there_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.csv"):
        datasets.save(tmp_path / "nothing.csv", store)
    with pytest.raises(NotFound, match="no dataset"):
        datasets.load(store, "nowhere")


@pytest.mark.parametrize("name", ["../out", "/etc/cron.d/x", "a/../../out", "..", "a\x00b", ""])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_manifest_cannot_write_outside_its_folder(local: ObjectStore, tmp_path: Path, name: str, kind: Any) -> None:
    (tmp_path / "x").write_text("content")
    part = datasets.save(tmp_path / "x", local, "d").items[0].parts[0]
    spec = {"file": name, "format": None} if kind == "file" else {"paths": [name], "empty_folders": []}
    item = datasets.Item(name="", kind=kind, rows=None, parts=(part,), spec=spec)
    manifest = datasets.DatasetManifest(layout="single", items=(item,))
    target = tmp_path / "deep" / "target"
    with pytest.raises((Conflict, Invalid)):
        datasets.read(manifest, datasets.Blobs(local, "d/blobs"), into=target)
    assert not (tmp_path / "deep" / "out").exists()
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_target_is_not_followed(local: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/sub/a").write_text("content")
    datasets.save(tmp_path / "src", local)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="link"):
        datasets.load(local, into=tmp_path / "target")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("key", ["../../up", "..", ".", "/abs", "a/b", ".hidden"])
def test_the_keys_of_a_dict_are_no_paths(local: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    datasets.save({key: tmp_path / "x.csv", "array": np.zeros(2)}, local)
    back = datasets.load(local, into=tmp_path / "deep" / "out")
    assert back[key].is_relative_to(tmp_path / "deep" / "out")
    assert back[key].read_text() == "a\n1\n"
