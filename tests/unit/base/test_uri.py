"""URIs that are meant well. What is refused is in tests/unit/objects/test_hostile_names.py, on real stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base import uri as uris
from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.uri import Uri, check_key, check_prefix


@pytest.mark.parametrize(
    ("text", "scheme", "root", "key"),
    [
        ("/data/train.csv", "file", "/", "data/train.csv"),
        ("/", "file", "/", ""),
        ("/data//x/./y/", "file", "/", "data/x/y"),
        ("/data/a b%20c", "file", "/", "data/a b%20c"),
        ("file:///data/a%20b%2525", "file", "/", "data/a b%25"),
        ("file://localhost/data/x", "file", "/", "data/x"),
        ("FILE:///data/", "file", "/", "data"),
        ("s3://my-bucket", "s3", "my-bucket", ""),
        ("s3://my-bucket/", "s3", "my-bucket", ""),
        ("S3://my.bucket/a/b c/", "s3", "my.bucket", "a/b c"),
        ("s3://bucket/50%/a%20b?v=1#x", "s3", "bucket", "50%/a%20b?v=1#x"),
        ("az://container/a/b", "az", "container", "a/b"),
        ("azure://my-storage/data/train.pkl", "az", "my-storage", "data/train.pkl"),
        ("az://container@account/a", "az", "account/container", "a"),
        ("az://container@account.blob.core.windows.net/a", "az", "account/container", "a"),
        ("az://account.dfs.core.windows.net/container/a", "az", "account/container", "a"),
        ("memory://", "memory", "default", ""),
        ("memory://test/x", "memory", "test", "x"),
    ],
)
def test_parts(text: str, scheme: str, root: str, key: str) -> None:
    uri = Uri.parse(text)
    assert (uri.scheme, uri.root, uri.key) == (scheme, root, key)
    assert Uri.parse(str(uri)) == uri


def test_bare_paths_begin_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Uri.parse("data/x").path == str(tmp_path / "here/data/x")
    assert Uri.parse("./data").path == str(tmp_path / "here/data")
    assert Uri.parse(".").path == str(tmp_path / "here")
    assert Uri.parse("../data").path == str(tmp_path / "data")
    assert Uri.parse("~/data").path == str(tmp_path / "data")
    assert Uri.parse(Path("../data/../x")).path == str(tmp_path / "x")
    assert Uri.parse(tmp_path / "a b#c?d%").path == str(tmp_path / "a b#c?d%")
    with pytest.raises(Invalid, match=r"after a name") as refusal:
        Uri.parse("data/../x")
    assert "write x" in refusal.value.hint


def test_default_scheme() -> None:
    assert str(Uri.parse("bucket/key", default_scheme="s3")) == "s3://bucket/key"


def test_steps() -> None:
    uri = Uri.parse("s3://bucket/models")
    assert str(uri / "churn/1" / "model.onnx") == "s3://bucket/models/churn/1/model.onnx"
    assert (uri / "churn").parent == uri
    assert (uri / "churn").name == "churn"
    assert Uri.parse("s3://bucket").parent == Uri.parse("s3://bucket")
    assert Uri.parse(uri) is uri


def test_only_files_have_a_path() -> None:
    with pytest.raises(Invalid, match="not on this machine"):
        _ = Uri.parse("s3://bucket/x").path


def test_a_pasted_signature_is_not_repeated_in_the_message() -> None:
    with pytest.raises(Invalid) as refusal:
        Uri.parse("az://container/x?sv=2023&sig=verysecret")
    assert "verysecret" not in str(refusal.value)


def test_limits_are_exact() -> None:
    assert check_key("/".join(["x" * 255] * 4))  # 1,023 bytes
    assert check_key("/".join(["é" * 127] * 4) + "/123")  # 1,019 + 4 = 1,023
    assert check_key("/".join(["x" * 204] * 5))  # 1,024
    with pytest.raises(Invalid):
        check_key("/".join(["x" * 204] * 4 + ["é" + "x" * 203]))  # 1,025
    with pytest.raises(Invalid):
        check_key("é" * 128)
    for long in ("x" * 256, "a/" + "x" * 256 + "/b", "/".join(["x" * 204] * 4 + ["x" * 205])):
        with pytest.raises(Invalid):
            check_key(long)
    assert check_key("é" * 127)
    assert check_prefix("a/") == check_prefix("a") == "a"
    assert check_prefix("") == ""


@given(st.text(max_size=60))
def test_any_text_is_refused_or_reaches_a_fixed_point(text: str) -> None:
    for candidate in (text, f"s3://bucket/{text}", f"file:///{text}", f"memory://m/{text}"):
        try:
            uri = Uri.parse(candidate)
        except Invalid:
            continue
        assert Uri.parse(str(uri)) == uri


@given(st.text(min_size=1, max_size=60))
def test_an_accepted_key_is_made_of_plain_segments(text: str) -> None:
    try:
        key = check_key(text)
    except Invalid:
        return
    assert key == text
    assert all(segment not in ("", ".", "..") for segment in key.split("/"))
    uri = Uri.parse("file:///srv") / key
    assert uri.path == f"/srv/{key}"


@given(
    st.lists(
        st.sampled_from(["a", "Z9", "_", "-", "=", ".", "..", "/", "%2e", "\n", ".mlt~", "x" * 254, "é"]), max_size=12
    )
)
def test_the_short_way_for_plain_keys_accepts_nothing_that_the_whole_check_refuses(parts: list[str]) -> None:
    key = "".join(parts)

    def accepted(check: Callable[[], str]) -> bool:
        try:
            return check() == key
        except Invalid:
            return False

    assert accepted(lambda: check_key(key)) == (
        key != "" and accepted(lambda: uris._check_path(key, field="key", max_bytes=uris.MAX_KEY_BYTES))
    )
