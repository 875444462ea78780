"""Malicious files execute nothing and are refused with a reason; the corpus is tests/data/hostile_packages/corpus.py."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid, NotFound, ToolboxError, Untrusted
from ml_toolbox.packages import screen
from tests.data.hostile_packages.corpus import FILES


@pytest.mark.parametrize("name", FILES)
def test_hostile_file_runs_nothing_and_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    build, reason = FILES[name]
    canary = tmp_path / "canary"
    folder = tmp_path / "files" / "deep"
    folder.mkdir(parents=True)
    path = build(folder, canary)
    with pytest.raises((Untrusted, Invalid)) as refusal:
        screen(path)
    assert re.search(reason, refusal.value.message), refusal.value.message
    assert not canary.exists()
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == [path]


def test_the_corpus_holds_at_least_50_files() -> None:
    assert len(FILES) >= 50


def test_the_payload_would_run_if_it_were_loaded(tmp_path: Path) -> None:
    import pickle

    canary = tmp_path / "canary"
    path = FILES["pickle-protocol-2"][0](tmp_path, canary)
    with path.open("rb") as file:
        pickle.load(file)
    assert canary.exists()


def test_symbolic_links_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("tree\n")
    (tmp_path / "model.txt").symlink_to(tmp_path / "real.txt")
    with pytest.raises(Untrusted, match="symbolic link"):
        screen(tmp_path / "model.txt")
    with pytest.raises(NotFound, match="no file"):
        screen(tmp_path / "absent.onnx")


def test_honest_files_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "b.npz", a=np.arange(3), b=np.array(["x", "yz"]))
    (tmp_path / "c.json").write_text('{"a": 1}')
    (tmp_path / "d.json").write_text('{"learner": {}}')
    (tmp_path / "e.yaml").write_text("a: [1, 2]\nb: {c: text}\n")
    (tmp_path / "f.txt").write_text("tree\nversion=v4\n")
    (tmp_path / "g.md").write_text("# Notes")
    (tmp_path / "h.bin").write_bytes(os.urandom(7) + b"\x00\xff\xfe" * 30)
    kinds = [screen(path) for path in sorted(tmp_path.iterdir())]
    assert kinds == ["npy", "npz", "json", "xgboost", "yaml", "lightgbm", "text", "unknown"]


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=400),
    suffix=st.sampled_from(
        [".onnx", ".npy", ".npz", ".skops", ".safetensors", ".json", ".yaml", ".tar", ".pt2", ".keras", ".bin"]
    ),
    magic=st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"{", b"\x08\x08\x3a", b"\x80\x04", b"\x1f\x8b"]),
)
def test_any_bytes_are_named_or_refused_and_never_crash(
    content: bytes, suffix: str, magic: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / f"file{suffix}"
    path.write_bytes(magic + content)
    try:
        kind = screen(path)
    except ToolboxError as refusal:
        kind = f"refused: {refusal.message}"
    assert kind
