"""Packages that were damaged or crafted are refused, with the file or field that is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid, NotFound, ToolboxError, Unsupported, Untrusted
from ml_toolbox.packages import open_package
from ml_toolbox.packages.layout import check_relative
from ml_toolbox.packages.manifest import ColumnSpec, EngineEntry, FileEntry, Lineage, Manifest, Signature
from ml_toolbox.packages.manifest_json import dump_manifest, parse_manifest

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def test_changed_missing_and_extra_files_are_found(linear_package: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(linear_package, tmp_path / name)

    changed, missing, extra, linked = copy("changed"), copy("missing"), copy("extra"), copy("linked")
    (changed / "model.onnx").write_bytes((changed / "model.onnx").read_bytes() + b"\0")
    (missing / "requirements.txt").unlink()
    (extra / "more.txt").write_text("x")
    (linked / "requirements.txt").unlink()
    (linked / "requirements.txt").symlink_to("/etc/passwd")
    with pytest.raises(Invalid, match=r"model.onnx is not the file"):
        open_package(changed).verify()
    with pytest.raises(Invalid, match=r"model.onnx is not the file"):
        open_package(changed).predictor()
    with pytest.raises(Invalid, match=r"requirements.txt is missing"):
        open_package(missing).verify()
    with pytest.raises(Invalid, match=r"more.txt is in the package folder but not in its manifest"):
        open_package(extra).verify()
    with pytest.raises(Untrusted, match="symbolic link"):
        open_package(linked).verify()


def test_a_linked_model_file_is_not_followed(linear_package: Path, tmp_path: Path) -> None:
    shutil.move(linear_package / "model.skops", tmp_path / "elsewhere")
    (linear_package / "model.skops").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Untrusted, match="symbolic link"):
        open_package(linear_package).load()


@pytest.mark.parametrize("swap", ["model.onnx", "model.skops", "sample.npz"])
def test_pickle_in_place_of_a_safe_file_never_runs(
    swap: str, linear_package: Path, tmp_path: Path, edit_manifest: Edit
) -> None:
    from tests.data.hostile_packages.corpus import FILES

    canary = tmp_path / "canary"
    payload = FILES["pickle-protocol-4"][0](tmp_path, canary)
    shutil.copyfile(payload, linear_package / swap)

    def older(manifest: dict[str, Any]) -> None:  # forces the sample to be read
        manifest["engines"][0]["version"] = "1.0.0"

    edit_manifest(linear_package, older)
    package = open_package(linear_package)
    package.verify()
    with pytest.raises((Invalid, Untrusted)):
        package.load() if swap == "model.skops" else package.predictor()
    assert not canary.exists()


def test_python_code_needs_trust_whatever_the_manifest_says(
    linear_package: Path, tmp_path: Path, edit_manifest: Edit
) -> None:
    canary = tmp_path / "canary"
    (linear_package / "python.json").write_text(
        json.dumps({"module": "m", "class": "M", "source": "helper.txt", "state": {}})
    )
    (linear_package / "helper.txt").write_text(f"open({str(canary)!r}, 'w')")

    def craft(manifest: dict[str, Any]) -> None:
        manifest["flavour"] = "python"
        for name in ("python.json", "helper.txt"):
            manifest["files"].append({"path": name, "size": 0, "sha256": "0" * 64, "executes_code": False})
        manifest["engines"] = [
            {
                "kind": "python",
                "files": ["helper.txt"],
                "max_difference": 0,
                "compared_rows": 0,
                "version": "",
                "options": {},
            }
        ]

    edit_manifest(linear_package, craft)
    package = open_package(linear_package)
    package.verify()
    for use in (package.load, package.predictor):
        with pytest.raises(Untrusted, match="would run code"):
            use()
    assert not canary.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["files"][0].update(path="../outside"), "part"),
        (lambda m: m["files"][0].update(path="/etc/passwd"), "part"),
        (lambda m: m["files"][0].update(path="C:model"), "colon"),
        (lambda m: m["files"][0].update(path="a\\b"), "backslash"),
        (lambda m: m["files"][0].update(path="nul.txt"), "other systems"),
        (lambda m: m["files"].append(dict(m["files"][0], path=m["files"][0]["path"].upper())), "twice"),
        (lambda m: m["files"][0].update(path="mltoolbox.json"), "itself"),
        (lambda m: m["files"][0].update(sha256="short"), "malformed"),
        (lambda m: m["files"][0].update(size=-1), "malformed"),
        (lambda m: m["files"][0].update(size=True), "is not int"),
        (lambda m: m["engines"][0].update(files=["../../etc/passwd"]), "not among"),
        (lambda m: m.update(sample="other.npz"), "not among"),
        (lambda m: m.update(flavour=7), "flavour"),
        (lambda m: m.pop("engines"), "missing"),
        (lambda m: m["signature"].update(layout="cube"), "layout"),
        (lambda m: m["signature"]["inputs"][0].update(dtype="object"), "dtype"),
        (lambda m: m["signature"]["inputs"][0].update(name="x1"), "twice"),
        (lambda m: m["signature"]["outputs"][0].update(shape=[-5]), "shape"),
        (lambda m: m["lineage"].update(data=[1]), "lineage"),
        (lambda m: m["lineage"].update(metrics={"loss": True}), "lineage.metrics.loss: True is not float"),
        (lambda m: m["lineage"].update(metrics={"loss": 10**400}), "lineage.metrics.loss: 10+.* is not float"),
        (lambda m: m["requirements"].append(1), r"requirements\.\d+: 1 is not str"),
        (lambda m: m["signature"]["outputs"][0].update(shape=[None, "2"]), "shape.1: '2' is not int"),
    ],
)
def test_crafted_manifest_is_refused(
    change: Callable[[dict[str, Any]], None], reason: str, linear_package: Path
) -> None:
    path = linear_package / "mltoolbox.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(Invalid, match=reason):
        open_package(linear_package)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b"[" * 100_000, "JSON"),
        (b'{"format_version": 1, "format_version": 2}', "twice"),
        (b'{"format_version": NaN}', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b" " * (16 * 1024 * 1024 + 1), "larger"),
    ],
)
def test_malformed_manifest_is_refused(text: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mltoolbox.json").write_bytes(text)
    with pytest.raises(Invalid, match=reason):
        open_package(tmp_path)


def test_later_format_and_absent_packages_say_so(linear_package: Path, tmp_path: Path, edit_manifest: Edit) -> None:
    edit_manifest(linear_package, lambda m: m.update(format_version=99))
    with pytest.raises(Unsupported, match="format version 99"):
        open_package(linear_package)
    with pytest.raises(NotFound, match="not a model package"):
        open_package(tmp_path)
    with pytest.raises(NotFound, match="no model package"):
        open_package(tmp_path / "absent")


def test_unknown_keys_of_a_later_release_are_left_aside(linear_package: Path, edit_manifest: Edit) -> None:
    edit_manifest(linear_package, lambda m: m.update(colour="red"))
    assert open_package(linear_package).predictor()(np.zeros((1, 30)))["prediction"].shape == (1,)


_TEXT = st.text(max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_COLUMN = st.builds(
    ColumnSpec,
    name=st.uuids().map(str),
    dtype=st.sampled_from(["float32", "float64", "int64", "bool", "string", "any"]),
    shape=st.lists(st.none() | st.integers(0, 9), max_size=3).map(tuple),
    nullable=st.booleans(),
)
_COLUMNS = st.lists(_COLUMN, min_size=1, max_size=3, unique_by=lambda c: c.name).map(tuple)


@st.composite
def _manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(st.uuids().map(str), max_size=3, unique=True))
    digest = st.text("0123456789abcdef", min_size=64, max_size=64)
    files = tuple(FileEntry(path=n, size=draw(st.integers(0)), sha256=draw(digest)) for n in names)
    return Manifest(
        format_version=1,
        flavour=draw(st.sampled_from(["sklearn", "torch"])),
        created_at="2026-01-01T00:00:00.000Z",
        files=files,
        engines=(EngineEntry(kind="x", files=tuple(names), max_difference=draw(st.floats(0, 1)), compared_rows=1),),
        signature=draw(st.none() | st.builds(Signature, layout=st.just("columns"), inputs=_COLUMNS, outputs=_COLUMNS)),
        lineage=Lineage(hyperparameters=draw(st.dictionaries(_TEXT, _JSON, max_size=3))),
        metadata=draw(st.dictionaries(_TEXT, _JSON, max_size=3)),
    )


@given(manifest=_manifests())
def test_manifest_round_trips(manifest: Manifest) -> None:
    again = parse_manifest(dump_manifest(manifest))
    assert again == manifest
    assert dump_manifest(again) == dump_manifest(manifest)


@given(data=st.binary(max_size=200) | _JSON.map(lambda v: json.dumps(v).encode()))
def test_any_manifest_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ToolboxError):
        parse_manifest(data)


@given(
    path=st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "a", "", "b c", "con", "x."]), max_size=5).map("/".join)
)
def test_accepted_paths_stay_inside(path: str) -> None:
    try:
        check_relative(path, field="path")
    except Invalid:
        return
    joined = Path("/root/package") / path
    assert Path(*joined.parts) == joined
    assert ".." not in joined.parts
    assert joined.is_relative_to("/root/package")
    assert joined != Path("/root/package")


def test_metadata_that_json_cannot_hold_is_refused(linear_package: Path) -> None:
    manifest = open_package(linear_package).manifest
    with pytest.raises(Invalid, match="not JSON"):
        dump_manifest(dataclasses.replace(manifest, metadata={"when": float("nan")}))
