"""Versions as files: export, import, and archives that are not ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.features.registry import Registry


def test_a_version_travels_to_another_model(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", package, tags={"team": "x"}, description="first")
    registry.describe("churn:1", "better")
    archive = registry.export("churn:1", tmp_path / "out" / "churn.tar.gz")
    imported = registry.import_(archive, "churn-eu")
    assert (imported.tags, imported.description, imported.source) == ({"team": "x"}, "better", "churn:1")
    assert imported.digest == registry.get("churn:1").digest
    assert registry.verify("churn-eu").ok
    assert registry.import_(archive, "churn-eu").number == 1


def test_the_same_version_gives_the_same_archive(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", package)
    one, two = (registry.export("churn", tmp_path / f"{n}.tar.gz").read_bytes() for n in (1, 2))
    assert one == two
    with pytest.raises(Conflict):
        registry.export("churn", tmp_path / "1.tar.gz")
    assert not list(tmp_path.glob(".*partial"))


def _link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


def _file(name: str, size: int = 1) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _device(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


@pytest.mark.parametrize(
    "make",
    [
        lambda: _file("../escaped"),
        lambda: _file("/tmp/escaped"),
        lambda: _file("package/../../escaped"),
        lambda: _file("package\\..\\escaped"),
        lambda: _file("elsewhere/x"),
        lambda: _file("mltoolbox-export.json", 2_000_000),
        lambda: _link("package/model.bin"),
        lambda: _device("package/null"),
        lambda: _file("package"),
    ],
)
def test_foreign_archives_are_refused_and_write_nothing_outside(
    registry: Registry, tmp_path: Path, make: Callable[[], tarfile.TarInfo]
) -> None:
    archive = tmp_path / "in" / "bad.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        member = make()
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Invalid):
        registry.import_(archive, "churn")
    assert sorted(tmp_path.rglob("*")) == before
    assert registry.models() == ()


def test_damaged_archives_are_refused(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", package)
    whole = registry.export("churn", tmp_path / "a.tar.gz").read_bytes()
    for number, data in enumerate((b"", b"junk", whole[: len(whole) // 2], whole[:-4])):
        path = tmp_path / f"bad-{number}.tar.gz"
        path.write_bytes(data)
        with pytest.raises(Invalid):
            registry.import_(path, "other")
    with pytest.raises(NotFound):
        registry.import_(tmp_path / "nowhere.tar.gz", "other")
