"""From a package folder to a version and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unsupported, Untrusted
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry import Registry
from ml_toolbox.ports.lacks import Lacking, Lacks
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import FaultyStore

Packages = Callable[..., Path]


def test_versions_are_numbered_from_one_without_gaps(registry: Registry, package: Path) -> None:
    assert [registry.register("churn", package).number for _ in range(3)] == [1, 2, 3]
    assert registry.register("fraud", package).number == 1


def test_a_version_tells_what_the_manifest_says(registry: Registry, packages: Packages) -> None:
    folder = packages({"m.bin": b"12345"}, metrics={"auc": 0.8}, parameters={"depth": 4, "kind": "gini"}, job="job-7")
    version = registry.register("churn", folder, description="first", tags={"team": "x"})
    assert version == registry.get("churn:1")
    assert (version.stage, version.aliases, version.deleted) == (Stage.REGISTERED, (), False)
    assert (version.metrics, version.parameters) == ({"auc": 0.8}, {"depth": 4, "kind": "gini"})
    assert (version.description, version.tags, version.job) == ("first", {"team": "x"}, "job-7")
    assert (version.flavour, version.created_by, version.file_count) == ("sklearn", "ann", 2)
    assert version.size == 5 + (folder / "mltoolbox.json").stat().st_size
    assert json.loads(json.dumps(version.to_json()))["version"] == 1


def test_another_registry_on_the_same_store_sees_it_at_once(registry: Registry, package: Path) -> None:
    other = Registry(registry._store, actor="bob")
    for number in range(1, 4):
        assert registry.register("churn", package) == other.get("churn")
        assert other.model("churn").latest == number


def test_equal_files_are_stored_once(registry: Registry, store: ObjectStore, packages: Packages) -> None:
    registry.register("churn", packages({"a": b"same", "b": b"one"}))
    registry.register("churn", packages({"a": b"same", "b": b"two"}))
    registry.register("fraud", packages({"c": b"same"}))
    assert sum(1 for _ in store.list("blobs")) == 3


def test_download_gives_the_exact_folder(registry: Registry, packages: Packages, tmp_path: Path) -> None:
    folder = packages({"model/weights.bin": b"\x00" * 1000, "empty": b"", "MLmodel": b"x"})
    (folder / "model.sig").write_bytes(b"signature made after the manifest")
    registry.register("churn", folder)
    target = registry.download("churn:1", tmp_path / "out" / "churn")
    assert _contents(target) == _contents(folder)
    assert registry.download("churn:1", target) == target
    assert [path.name for path in target.parent.iterdir()] == ["churn"]


def test_download_leaves_what_is_not_the_package(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", package)
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(Conflict):
        registry.download("churn:1", target)
    assert (target / "thesis.txt").read_text() == "years of work"


def test_damaged_bytes_are_found_and_never_delivered(
    registry: Registry, store: ObjectStore, packages: Packages, tmp_path: Path
) -> None:
    registry.register("churn", packages({"a": b"aaaa", "b": b"bbbb", "c": b"cccc"}))
    assert registry.verify("churn:1").ok
    a, b, _ = registry.files("churn:1")
    store.put(f"blobs/sha256/{a.sha256[:2]}/{a.sha256}", b"aaax")
    store.delete(f"blobs/sha256/{b.sha256[:2]}/{b.sha256}")
    problems = registry.verify("churn:1").problems
    assert len(problems) == 2
    assert problems[0].startswith("a: ")
    assert "missing" in problems[1]
    with pytest.raises((Invalid, NotFound)):
        registry.download("churn:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_the_cache_serves_downloads_and_is_not_trusted(store: ObjectStore, packages: Packages, tmp_path: Path) -> None:
    spy = FaultyStore(store)
    registry = Registry(spy, actor="ann", cache=tmp_path / "cache")
    folder = packages({"a": b"aaaa"})
    registry.register("churn", folder)
    registry.download("churn:1", tmp_path / "one")
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(cached) == 1
    blob = registry.files("churn:1")[0].sha256
    store.delete(f"blobs/sha256/{blob[:2]}/{blob}")
    assert _contents(registry.download("churn:1", tmp_path / "two")) == _contents(folder)
    cached[0].write_bytes(b"evil")
    with pytest.raises(NotFound):
        registry.download("churn:1", tmp_path / "three")


def test_a_file_that_is_not_the_manifests_is_refused_by_name(registry: Registry, packages: Packages) -> None:
    folder = packages({"model.bin": b"weights"})
    (folder / "model.bin").write_bytes(b"changed")
    with pytest.raises(Invalid, match=r"model\.bin"):
        registry.register("churn", folder)
    (folder / "model.bin").unlink()
    with pytest.raises(Invalid, match="missing"):
        registry.register("churn", folder)
    with pytest.raises(NotFound):
        registry.model("churn")


def test_what_is_no_package_is_refused(registry: Registry, package: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a folder"):
        registry.register("churn", tmp_path / "nowhere")
    (tmp_path / "plain").mkdir()
    with pytest.raises(NotFound, match=r"mltoolbox\.json"):
        registry.register("churn", tmp_path / "plain")
    (package / "link").symlink_to("/etc/hostname")
    with pytest.raises(Untrusted):
        registry.register("churn", package)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 64, "a..b", ".a", "a b", "ä"])
def test_illegal_names_are_refused_before_anything_is_read(registry: Registry, name: str) -> None:
    with pytest.raises(Invalid):
        registry.register(name, Path("/nonexistent"))


def test_large_files_are_sent_and_checked_in_parts(registry: Registry, packages: Packages, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    registry.register("churn", packages({"weights.bin": data}))
    assert (registry.download("churn", tmp_path / "out") / "weights.bin").read_bytes() == data


def test_a_large_file_that_changes_while_it_is_sent_is_refused(store: ObjectStore, packages: Packages) -> None:
    folder = packages({"weights.bin": b"x" * 10_000_000})

    def change_before_sending(method: str, key: str, proceed: Callable[[], object]) -> object:
        if method == "put-Overwrite" and key.startswith("blobs/"):
            with (folder / "weights.bin").open("r+b") as file:
                file.seek(9_999_999)
                file.write(b"y")
        return proceed()

    registry = Registry(FaultyStore(store, change_before_sending), actor="ann")
    with pytest.raises(Conflict, match="changed"):
        registry.register("churn", folder)
    assert list(store.list()) == []


def test_register_from_a_uri(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", f"file://{package}")
    assert _contents(registry.download("churn", tmp_path / "out")) == _contents(package)


def test_alias_at_registration(registry: Registry, package: Path) -> None:
    assert registry.register("churn", package, alias="champion").aliases == ("champion",)
    registry.register("churn", package, alias="champion")
    assert registry.get("churn@champion").number == 2
    assert registry.get("churn:1").aliases == ()


def test_the_same_key_gives_the_same_version(registry: Registry, store: ObjectStore, package: Path) -> None:
    first = registry.register("churn", package, idempotency_key="job-1/2", tags={"a": "b"})
    registry.register("churn", package)
    again = Registry(store, actor="bob").register("churn", package, idempotency_key="job-1/2", alias="champion")
    assert again.number == first.number == 1
    assert again.aliases == ("champion",)
    assert (again.created_by, again.tags) == ("ann", {"a": "b"})
    assert registry.register("churn", package, idempotency_key="job-1/3").number == 3
    assert registry.register("fraud", package, idempotency_key="job-1/2").number == 1


def test_the_same_key_for_another_model_content_is_refused(registry: Registry, packages: Packages) -> None:
    registry.register("churn", packages({"m": b"one"}), idempotency_key="k")
    with pytest.raises(Conflict, match="other files"):
        registry.register("churn", packages({"m": b"two"}), idempotency_key="k")
    # Packaged again from the same files: the manifest has another time, the model is the same.
    assert registry.register("churn", packages({"m": b"one"}, job="job-9"), idempotency_key="k").number == 1


def test_no_listing_and_few_calls_to_write(store: ObjectStore, package: Path) -> None:
    spy = FaultyStore(store)
    registry = Registry(spy, actor="ann")
    for _ in range(3):
        registry.register("churn", package)
    spy.calls.clear()
    registry.register("churn", package)
    assert spy.calls == [
        ("get", "models/churn/head.json"),
        ("put-CreateOnly", "models/churn/versions/0000000004.json"),
    ]


def test_a_store_without_conditional_writes_is_refused_with_its_reason(store: ObjectStore, package: Path) -> None:
    class Plain(FaultyStore):
        @property
        def lacks(self) -> Lacking:
            return {"compare-and-swap": Lacks("never", "this server ignores If-Match")}

    registry = Registry(Plain(store), actor="ann")
    with pytest.raises(Unsupported, match="this server ignores If-Match"):
        registry.register("churn", package)
    Registry(store, actor="ann").register("churn", package)
    assert registry.get("churn").number == 1
    with pytest.raises(Unsupported, match="this server ignores If-Match"):
        registry.promote("churn:1", "Production")


def test_a_damaged_record_is_named(registry: Registry, store: ObjectStore, package: Path) -> None:
    registry.register("churn", package)
    store.put("models/churn/head.json", b"{half")
    with pytest.raises(Invalid, match=r"models/churn/head\.json"):
        registry.get("churn:1")
    store.put("models/churn/head.json", b'{"format": 99}')
    with pytest.raises(Unsupported, match="format 99"):
        registry.get("churn:1")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_may_vanish_after_registration(registry: Registry, package: Path, tmp_path: Path) -> None:
    registry.register("churn", package)
    shutil.rmtree(package)
    assert (registry.download("churn", tmp_path / "out") / "model.skops").read_bytes() == b"weights"
