"""Inputs from object storage: one object under its own name, or all that lies below a prefix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ml_toolbox.base.errors import NotFound
from ml_toolbox.runtime.download import fetch
from ml_toolbox.runtime.job import Layout, RuntimeJob
from ml_toolbox.runtime.staging import identity, stage


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    bucket = tmp_path / "bucket"
    (bucket / "images" / "deep").mkdir(parents=True)
    (bucket / "data.csv").write_text("1,2\n")
    (bucket / "images" / "a.png").write_text("a")
    (bucket / "images" / "deep" / "b.png").write_text("b")
    return bucket


def found(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_an_object(bucket: Path, tmp_path: Path) -> None:
    fetch(f"file://{bucket}/data.csv", tmp_path / "to")
    assert found(tmp_path / "to") == {"data.csv": "1,2\n"}


@pytest.mark.parametrize("end", ["", "/"])
def test_everything_below_a_prefix(bucket: Path, tmp_path: Path, end: str) -> None:
    fetch(f"file://{bucket}/images{end}", tmp_path / "to")
    assert found(tmp_path / "to") == {"a.png": "a", "deep/b.png": "b"}


def test_what_is_not_there_is_said(bucket: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fetch(f"file://{bucket}/nosuch", tmp_path / "to")
    command = [sys.executable, "-m", "ml_toolbox.runtime.download", f"file://{bucket}/nosuch", str(tmp_path / "to")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "nosuch" in done.stderr


def test_a_channel_is_a_folder_and_its_path_the_file(bucket: Path, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"))
    layout.make()
    job = RuntimeJob(job="j", name="n", inputs={"table": str(bucket / "data.csv"), "images": f"file://{bucket}/images"})
    channels = stage(job, layout, print)
    assert channels["table"].path == f"{channels['table'].folder}/data.csv"
    assert channels["images"].path == channels["images"].folder
    assert stage(job, layout, print) == channels, "a second time changes nothing"


def test_the_identity_of_an_input_is_its_content(bucket: Path, tmp_path: Path) -> None:
    before = {name: identity(str(bucket / name)) for name in ("data.csv", "images")}
    assert all(value.startswith("sha256:") for value in before.values())
    (bucket / "images" / "a.png").rename(bucket / "images" / "c.png")
    assert identity(str(bucket / "images")) != before["images"], "names count"
    (bucket / "images" / "c.png").rename(bucket / "images" / "a.png")
    assert identity(str(bucket / "images")) == before["images"]
    (bucket / "data.csv").write_text("1,3\n")
    assert identity(str(bucket / "data.csv")) != before["data.csv"]
