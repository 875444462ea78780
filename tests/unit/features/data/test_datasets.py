"""Named datasets: gap-free immutable versions, whoever writes and whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.features.data import Datasets
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from ml_toolbox.testing.clock import FakeClock


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(tmp_path / "store" if request.param == "file" else f"memory://{uuid.uuid4()}")


@pytest.fixture
def datasets(store: ObjectStore) -> Datasets:
    return Datasets(store, clock=FakeClock())


FRAME = pd.DataFrame({"id": [1, 2, 3], "name": ["a", None, "c"]})


def blobs(store: ObjectStore) -> set[str]:
    return {meta.key for meta in store.list("blobs")}


def test_versions_are_numbered_and_stay(datasets: Datasets) -> None:
    for number in range(1, 12):
        version = datasets.put("numbers", np.full(3, number), description=f"the {number}th", tags={"n": str(number)})
        assert (version.version, version.ref) == (number, f"numbers:{number}")
    assert datasets.get("numbers").tolist() == [11] * 3
    assert datasets.get("numbers:latest").tolist() == [11] * 3
    assert [datasets.get(f"numbers:{n}")[0] for n in range(1, 12)] == list(range(1, 12))
    assert [v.version for v in datasets.versions("numbers")] == list(range(1, 12))
    first = datasets.version("numbers:1")
    assert (first.description, first.tags, first.kind, first.rows, first.created_at) == (
        "the 1th", {"n": "1"}, "numpy", 3, FakeClock().now(),
    )  # fmt: skip
    assert first.created.endswith("Z")


def test_the_same_content_again_costs_no_blob(datasets: Datasets, store: ObjectStore, tmp_path: Path) -> None:
    first = datasets.put("a", (FRAME, np.arange(5)))
    before = blobs(store)
    again = datasets.put("a", (FRAME, np.arange(5)))
    elsewhere = datasets.put("b", (FRAME, np.arange(5)))
    assert blobs(store) == before
    assert first.manifest == again.manifest == elsewhere.manifest
    assert (first.version, again.version, elsewhere.version) == (1, 2, 1)
    datasets.put("a", (FRAME.assign(id=0), np.arange(5)))
    assert len(blobs(store) - before) == 2  # one column, one manifest


def test_what_is_not_there(datasets: Datasets) -> None:
    assert datasets.list() == ()
    for action in (datasets.get, datasets.show, datasets.verify, datasets.versions):
        with pytest.raises(NotFound, match="nothing"):
            action("nothing")
    datasets.put("there", FRAME)
    with pytest.raises(NotFound, match="newest version is 1"):
        datasets.get("there:2")


@pytest.mark.parametrize(
    "ref", ["", "..", "a/b", "a:", "a:0", "a:-1", "a:1.0", "a:x", "a:1:2", "../a:1", "a:١", "a:" + "9" * 30]
)
def test_an_illegal_reference_is_refused(datasets: Datasets, ref: str) -> None:
    with pytest.raises(Invalid) as caught:
        datasets.get(ref)
    assert caught.value.field == "dataset"


def test_illegal_names_and_tags_store_nothing(datasets: Datasets, store: ObjectStore) -> None:
    with pytest.raises(Invalid):
        datasets.put("a/../b", FRAME)
    with pytest.raises(Invalid, match="tags"):
        datasets.put("a", FRAME, tags={"n": 1})  # type: ignore[dict-item]
    with pytest.raises(Invalid, match="'odd'"):
        datasets.put("a", pd.DataFrame({"odd": pd.Series([{1}], dtype=object)}))
    assert datasets.list() == ()
    assert blobs(store) == set()


def test_the_list_shows_the_newest_of_each(datasets: Datasets, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(b"1")
    datasets.put("b", FRAME)
    datasets.put("a.b", tmp_path / "images")
    datasets.put("b", FRAME)
    datasets.put("a", {"x": np.zeros(3), "y": FRAME})
    assert [(d.name, d.version, d.kind, d.rows, d.files) for d in datasets.list()] == [
        ("a", 1, "dict", 3, None),
        ("a.b", 1, "folder", None, 1),
        ("b", 2, "pandas", 3, None),
    ]


def test_show_tells_columns_without_reading_data(datasets: Datasets, store: ObjectStore) -> None:
    datasets.put("table", FRAME)
    for key in blobs(store):
        if key.rpartition("/")[2] != datasets.version("table").manifest:
            store.delete(key)
    assert datasets.show("table").manifest.sha256 == datasets.version("table").manifest
    columns = datasets.show("table").columns
    assert [(c.name, c.dtype, c.nulls, c.minimum, c.maximum) for c in columns] == [
        ("id", "int64", 0, 1, 3),
        ("name", "str", 1, "a", "c"),
    ]
    datasets.put("pair", (np.zeros((5, 4), "f4"), FRAME["id"]))
    assert [(c.name, c.dtype) for c in datasets.show("pair").columns] == [("X.5 x 4", "float32"), ("y.id", "int64")]


def test_verify_names_every_damaged_part(datasets: Datasets, store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/cat.png").write_bytes(b"meow" * 100)
    version = datasets.put("all", {"table": FRAME, "array": np.arange(5), "images": tmp_path / "f"})
    report = datasets.verify("all")
    assert report.ok
    # id, name and the labels of the table, the array, the image
    assert (report.ref, report.checked, report.bytes) == ("all:1", 4, version.size)
    parts = {key: store.get(key).data for key in blobs(store) if not key.endswith(version.manifest)}
    for key, data in parts.items():
        if data == b"meow" * 100:
            store.put(key, b"woof" * 100)
        elif data[1:6] == b"NUMPY":
            store.delete(key)
    report = datasets.verify("all")
    assert not report.ok
    assert sorted(str(problem).split(":")[0] for problem in report.problems) == ["array", "images"]
    assert any("cat.png" in str(problem) for problem in report.problems)
    assert any("missing" in str(problem) for problem in report.problems)
    store.put(f"blobs/sha256/{version.manifest[:2]}/{version.manifest}", b"{}")
    [problem] = datasets.verify("all").problems
    assert "manifest" in str(problem)


def test_batches_and_columns(datasets: Datasets) -> None:
    datasets.put("table", FRAME)
    assert [len(batch) for batch in datasets.batches("table", batch_rows=2)] == [2, 1]
    assert list(datasets.get("table", columns=["name"], as_="arrow").column_names) == ["name"]


def test_a_job_gets_the_users_own_file(datasets: Datasets, tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_bytes(b"a,b\r\n1,\xc3\xa9\r\n")
    datasets.put("csv", source)
    assert datasets.materialise("csv", tmp_path / "in") == (tmp_path / "in" / "data.csv",)
    assert (tmp_path / "in" / "data.csv").read_bytes() == source.read_bytes()
    assert sorted(os.listdir(tmp_path / "in")) == ["data.csv"]
    datasets.materialise("csv", tmp_path / "in")  # again, over what is there


def test_a_job_gets_plain_files_of_data_from_memory(datasets: Datasets, tmp_path: Path) -> None:
    datasets.put("churn", FRAME)
    [path] = datasets.materialise("churn", tmp_path / "one")
    assert path.name == "churn.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    datasets.put("pair", (np.eye(2), FRAME))
    assert sorted(p.name for p in datasets.materialise("pair", tmp_path / "two")) == ["X.npy", "y.parquet"]
    np.testing.assert_array_equal(np.load(tmp_path / "two/X.npy"), np.eye(2))


def test_a_job_gets_the_folder_as_it_was(datasets: Datasets, tmp_path: Path) -> None:
    (tmp_path / "images/cat").mkdir(parents=True)
    (tmp_path / "images/cat/1.png").write_bytes(b"1")
    datasets.put("images", tmp_path / "images")
    datasets.materialise("images", tmp_path / "in")
    assert (tmp_path / "in/cat/1.png").read_bytes() == b"1"


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "npy"])
def test_export_by_name_or_ending(datasets: Datasets, tmp_path: Path, form: Any) -> None:
    datasets.put("numbers", pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}))
    for path, given in ((tmp_path / f"by-ending.{form}", None), (tmp_path / "by-name", form)):
        assert datasets.export("numbers", path, given) == path
        read: Any = {
            "csv": lambda p: pd.read_csv(p).to_numpy(),
            "parquet": lambda p: pd.read_parquet(p).to_numpy(),
            "jsonl": lambda p: pd.read_json(p, lines=True).to_numpy(),
            "npy": np.load,
        }[form]
        np.testing.assert_array_equal(read(path), [[1, 3], [2, 4]])


def test_exports_that_cannot_be_say_why(datasets: Datasets, tmp_path: Path) -> None:
    datasets.put("pair", (np.eye(2), FRAME))
    with pytest.raises(Invalid, match="2 items"):
        datasets.export("pair", tmp_path / "x.csv")
    datasets.export("pair", tmp_path / "folder")
    assert sorted(os.listdir(tmp_path / "folder")) == ["X.npy", "y.parquet"]
    datasets.put("twice", pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(Invalid, match=r"'a'|uplicate"):
        datasets.export("twice", tmp_path / "x.parquet")
    datasets.put("nested", pd.DataFrame({"a": pd.Series([[1], [2]], dtype=object)}))
    with pytest.raises(Invalid, match="parquet"):
        datasets.export("nested", tmp_path / "x.csv")
    with pytest.raises(Invalid, match="'xlsx'"):
        datasets.export("nested", tmp_path / "x.xlsx")
    assert sorted(os.listdir(tmp_path)) in (["folder"], ["folder", "store"]), "half a file was left"


def test_racing_puts_give_each_its_own_number(store: ObjectStore) -> None:
    gate = threading.Barrier(16)

    def put(number: int) -> tuple[int, int]:
        gate.wait()
        return Datasets(store).put("raced", np.full(2, number)).version, number

    with ThreadPoolExecutor(16) as pool:
        given = dict(pool.map(put, range(16)))
    assert sorted(given) == list(range(1, 17))
    datasets = Datasets(store)
    assert all(datasets.get(f"raced:{version}")[0] == number for version, number in given.items())


def _put_for_ever(folder: str, told: str) -> None:
    datasets = Datasets(open_store(folder))
    number = 0
    while True:
        number += 1
        version = datasets.put("killed", {"array": np.full(300_000, number), "table": FRAME.assign(id=number)})
        with open(told, "a") as file:
            file.write(f"{version.version} {number}\n")


def test_kill_9_leaves_no_half_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    promised: dict[int, int] = {}
    for turn in range(3):
        told = tmp_path / f"told-{turn}"
        process = context.Process(target=_put_for_ever, args=(str(tmp_path / "store"), str(told)))
        process.start()
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text().count("\n") > turn):
            assert time.monotonic() < deadline, "the writer never came so far"
            time.sleep(0.003)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        promised.update({int(v): int(n) for v, n in (line.split() for line in told.read_text().splitlines())})
    datasets = Datasets(open_store(tmp_path / "store"))
    versions = datasets.versions("killed")
    assert [v.version for v in versions] == list(range(1, len(versions) + 1))
    for version in versions:
        assert datasets.verify(version.ref).ok
        data = datasets.get(version.ref)
        assert (data["array"] == data["table"]["id"][0]).all()
        assert promised.get(version.version, data["array"][0]) == data["array"][0]
    assert set(promised) <= {v.version for v in versions}


def test_it_behaves_like_a_dictionary_of_lists() -> None:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = open_store(f"memory://{uuid.uuid4()}")
            self.model: dict[str, list[int]] = {}

        @rule(name=st.sampled_from("abc"), value=st.integers(0, 3))
        def put(self, name: str, value: int) -> None:
            self.model.setdefault(name, []).append(value)
            assert Datasets(self.store).put(name, np.full(2, value)).version == len(self.model[name])

        @invariant()
        def agrees(self) -> None:
            datasets = Datasets(self.store)
            assert [(d.name, d.version) for d in datasets.list()] == [
                (n, len(v)) for n, v in sorted(self.model.items())
            ]
            for name, values in self.model.items():
                assert [datasets.get(v.ref)[0] for v in datasets.versions(name)] == values

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=10,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
