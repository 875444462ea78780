"""What travels with a job, under which name, and what stays at home."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.features.training import snapshot


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_same_content_same_place(tmp_path: Path) -> None:
    source = write(tmp_path / "a", {"train.py": "1", "part/x.py": "2"})
    first = snapshot.take(source, tmp_path / "store")
    os.utime(source / "train.py", (1, 1))
    assert snapshot.take(source, tmp_path / "store") == first
    assert names(first.folder) == {"train.py", "part/x.py"}
    assert os.listdir(tmp_path / "store") == [first.sha256]


@pytest.mark.parametrize("change", ["content", "name", "executable", "moved"])
def test_any_change_gives_another_name(tmp_path: Path, change: str) -> None:
    source = write(tmp_path / "a", {"train.py": "1", "b.py": "2"})
    before = snapshot.take(source, tmp_path / "store")
    match change:
        case "content":
            (source / "b.py").write_text("3")
        case "name":
            (source / "b.py").rename(source / "c.py")
        case "executable":
            (source / "b.py").chmod(0o755)
        case _:
            write(source, {"sub/b.py": "2"})
            (source / "b.py").unlink()
    assert snapshot.take(source, tmp_path / "store").sha256 != before.sha256


def test_what_is_ignored_stays_at_home(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a",
        {
            "train.py": "",
            ".gitignore": "*.csv\n/data/\n!keep.csv\n",
            ".mltignore": "notes.md\n",
            "big.csv": "",
            "keep.csv": "",
            "notes.md": "",
            "data/x": "",
            "sub/data/x": "",
            "sub/.gitignore": "*\n!only.py\n!.gitignore\n",
            "sub2/.gitignore": "*\n!only.py\n",
            "sub2/only.py": "",
            "sub2/other.py": "",
            ".git/config": "",
            "__pycache__/x.pyc": "",
            ".venv/bin/python": "",
        },
    )
    assert names(snapshot.take(source, tmp_path / "store").folder) == {
        *("train.py", ".gitignore", ".mltignore", "keep.csv"),
        *("sub/.gitignore", "sub2/only.py"),
    }


NAMES = st.sampled_from(["a.py", "b.csv", "c.txt"])
RULES = st.lists(
    st.sampled_from(["*.csv", "!b.csv", "/a.py", "d/", "d/a.py", "*.txt", "!d/c.txt", "**/c.txt"]), max_size=4
)


@given(
    files=st.sets(st.tuples(st.sampled_from(["", "d/", "e/d/"]), NAMES), min_size=1, max_size=8),
    rules=RULES,
    deeper=RULES,
)
@settings(max_examples=25, deadline=None)
def test_the_ignore_rules_are_those_of_git(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[str, str]], rules: list[str], deeper: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("git")
    source = write(folder / "a", {f"{place}{name}": "x" for place, name in files})
    write(source, {".gitignore": "\n".join(rules)})
    if (source / "d").is_dir():
        write(source, {"d/.gitignore": "\n".join(deeper)})
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    taken = names(snapshot.take(source, folder / "store").folder)
    assert taken == {name for name in listed.split("\0") if name}


def test_our_own_home_does_not_travel(tmp_path: Path) -> None:
    source = write(tmp_path, {"train.py": "", "home/code/x": "", "home2/y": ""})
    assert names(snapshot.take(source, source / "home" / "code", without=source / "home").folder) == {
        "train.py",
        "home2/y",
    }


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES"])
def test_a_folder_of_data_is_refused_with_its_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(snapshot, limit, 2)
    source = write(tmp_path / "a", {"train.py": "1", "huge.bin": "x" * 2, "z.py": "3"})
    with pytest.raises(Invalid, match=r"huge\.bin") as refused:
        snapshot.take(source, tmp_path / "store")
    assert ".mltignore" in refused.value.hint
    assert not (tmp_path / "store").exists()


def test_a_link_to_a_folder_is_refused_and_to_a_file_followed(tmp_path: Path) -> None:
    source = write(tmp_path / "a", {"train.py": "1"})
    write(tmp_path, {"elsewhere.py": "2"})
    (source / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    taken = snapshot.take(source, tmp_path / "store")
    assert (taken.folder / "linked.py").read_text() == "2"
    assert not (taken.folder / "linked.py").is_symlink()
    (source / "data").symlink_to(tmp_path)
    with pytest.raises(Invalid, match="data is a link"):
        snapshot.take(source, tmp_path / "store")


def test_old_unused_snapshots_are_pruned(tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept = snapshot.take(write(tmp_path / "a", {"x": "1"}), store)
    gone = snapshot.take(write(tmp_path / "b", {"x": "2"}), store)
    fresh = snapshot.take(write(tmp_path / "c", {"x": "3"}), store)
    os.utime(kept.folder, (0, 0))
    os.utime(gone.folder, (0, 0))
    snapshot.prune(store, frozenset({kept.sha256}))
    assert set(os.listdir(store)) == {kept.sha256, fresh.sha256}
