"""A checkpoint exists entirely or not at all: in a folder and on object storage, whatever is done to its files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import nonce
from ml_toolbox.objects import open_store
from ml_toolbox.runtime import checkpoint_folder, checkpoint_objects
from ml_toolbox.runtime.checkpoints import Saved


class Place(NamedTuple):
    """Where checkpoints go to, and a back door to what lies there."""

    commit: Callable[[str, int, int], Saved]
    latest: Callable[[], tuple[str, Saved] | None]
    keys: Callable[[], list[str]]
    write: Callable[[str, bytes], None]
    read: Callable[[str], bytes]
    delete: Callable[[str], None]

    def save(self, source: Path, step: int, keep: int = 3) -> Saved:
        return self.commit(str(source), step, keep)

    def steps(self) -> list[int]:
        """Steps that have a manifest."""
        return sorted(int(key.partition("step-")[2][:12]) for key in self.keys() if "manifest" in key)

    def found(self) -> tuple[int, str] | None:
        """Step and content of the newest good one, when what was saved is a file."""
        newest = self.latest()
        return None if newest is None else (newest[1].step, Path(newest[0]).read_text())

    def of(self, step: int, part: str) -> str:
        """The key of the manifest (``part`` = "manifest") or of the data of a step."""
        (manifest,) = [key for key in self.keys() if "manifest" in key and f"step-{step:012d}" in key]
        if part == "manifest":
            return manifest
        values = json.loads(self.read(manifest))
        prefix = values["data"] or f"{os.path.dirname(manifest)}/data"
        return f"{prefix}/{values['files'][0]['path']}"


@pytest.fixture(params=["folder", "files-as-objects", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    root = tmp_path / "place"
    if request.param == "folder":
        root.mkdir()
        return Place(
            lambda source, step, keep: checkpoint_folder.commit(str(root), source, step, keep),
            lambda: checkpoint_folder.latest(str(root)),
            lambda: [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()],
            lambda key, data: _put(root / key, data),
            lambda key: (root / key).read_bytes(),
            lambda key: (root / key).unlink(),
        )
    uri = f"file://{root}" if request.param == "files-as-objects" else f"memory://{nonce()}"
    store = open_store(uri)
    return Place(
        lambda source, step, keep: checkpoint_objects.commit(uri, source, step, keep),
        lambda: checkpoint_objects.latest(uri, str(tmp_path / "scratch")),
        lambda: [meta.key for meta in store.list()],
        lambda key, data: store.put(key, data) and None,
        lambda key: store.get(key).data,
        store.delete,
    )


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_a_folder_comes_back_as_it_was(place: Place, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "a" / "b").mkdir(parents=True)
    (state / "empty").mkdir()
    (state / "a" / "b" / "x").write_bytes(b"\0\1")
    (state / "zero").touch()
    (state / "link").symlink_to(state / "zero")
    place.save(state, 1)
    newest = place.latest()
    assert newest is not None
    back = Path(newest[0])
    assert back.name == "state"
    assert (back / "a" / "b" / "x").read_bytes() == b"\0\1"
    assert sorted(os.listdir(back)) == ["a", "empty", "link", "zero"]


def test_the_newest_stay_and_the_one_just_saved(place: Place, weights: Path) -> None:
    for step in (1, 2, 3, 4):
        weights.write_text(str(step))
        place.save(weights, step, keep=2)
    assert place.steps() == [3, 4]
    place.save(weights, 1, keep=1)
    assert place.steps() == [1, 4], "what a call returned must exist"
    assert place.found() == (4, "4")
    assert len(place.keys()) == 4, "of what went, nothing stays"


def test_a_step_saved_again_counts_and_the_former_stays_to_fall_back_to(place: Place, weights: Path) -> None:
    weights.write_text("first")
    first = place.save(weights, 7)
    weights.write_text("second")
    second = place.save(weights, 7)
    assert first.uri != second.uri
    assert place.found() == (7, "second")


def test_an_altered_manifest_or_file_is_refused_and_the_one_before_taken(
    place: Place, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = "x" * 1000
    for step in (1, 2):
        weights.write_text(content)
        place.save(weights, step)
    data, manifest = place.of(2, "data"), place.of(2, "manifest")
    good, listed = place.read(data), place.read(manifest)
    values = json.loads(listed)
    elsewhere = [{**values["files"][0], "path": "../../weights"}]
    for key, wrong in (
        (data, good[:-1]),  # torn
        (data, good + b"x"),
        (data, b"y" + good[1:]),  # as long, but altered
        (data, b""),
        (manifest, listed[:50]),
        (manifest, b"[]"),
        (manifest, json.dumps({**values, "format": 99}).encode()),
        (manifest, json.dumps({**values, "step": 3}).encode()),
        (manifest, json.dumps({**values, "files": elsewhere}).encode()),
        (manifest, json.dumps({**values, "files": []}).encode() if not values["data"] else b"{}"),
    ):
        place.write(key, wrong)
        assert place.found() == (1, content), (key, wrong[:80])
        told = capfd.readouterr().err
        assert "step-000000000002-0001" in told
        assert "is refused" in told
        place.write(data, good)
        place.write(manifest, listed)
        assert place.found() == (2, content)
        assert capfd.readouterr().err == ""
    place.delete(data)
    assert place.found() == (1, content)
    place.write(place.of(1, "data"), b"bad")
    assert place.found() is None, "rather none than a wrong one"


def test_without_a_manifest_there_is_no_checkpoint(place: Place, weights: Path) -> None:
    weights.write_text("w")
    place.save(weights, 1)
    place.delete(place.of(1, "manifest"))
    assert place.found() is None


def test_eight_writers_of_one_step_all_have_theirs(place: Place, tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def save(number: int) -> str:
        source = tmp_path / f"writer-{number}"
        source.write_text(str(number))
        gate.wait()
        return place.save(source, 5, keep=8).uri

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(save, range(8)))) == 8
    assert place.steps() == [5] * 8
    assert place.found() is not None


def test_the_scripts_own_files_in_the_same_place_are_left_alone(place: Place, weights: Path) -> None:
    place.write("epoch-3.pt", b"mine")
    place.write("step-12/model.pt", b"mine too")
    weights.write_text("w")
    for step in range(5):
        place.save(weights, step, keep=1)
    assert place.read("epoch-3.pt") == b"mine"
    assert place.read("step-12/model.pt") == b"mine too"
    assert place.found() == (4, "w")


def test_what_is_no_file_is_refused(place: Place, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.mkfifo(state / "pipe")
    with pytest.raises(Invalid, match="pipe"):
        place.save(state, 1)
    assert place.keys() == []


def test_what_a_killed_process_left_in_the_making_is_removed_once_it_is_surely_dead(
    tmp_path: Path, weights: Path
) -> None:
    weights.write_text("w")
    left, fresh, removing = (tmp_path / "place" / f".checkpoint-{name}" for name in ("new-1", "new-2", "old-1"))
    for folder in (left, fresh, removing):
        folder.mkdir(parents=True)
        (folder / "part").write_text("half")
    os.utime(left, (1, 1))
    checkpoint_folder.commit(str(tmp_path / "place"), str(weights), 1, 3)
    assert not left.exists()
    assert fresh.exists()
    assert not removing.exists()
