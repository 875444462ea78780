"""What the layer adds to the library, beyond the promises of the port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.base.ids import nonce
from ml_toolbox.base.uri import Uri
from ml_toolbox.objects import AzureCredentials, Secret, StoreSettings, open_store, remote
from ml_toolbox.objects.azure_sas import BlobSigner
from ml_toolbox.objects.conditional import Probe, version_of
from ml_toolbox.objects.remote import RemoteObjectStore
from ml_toolbox.ports.objects import ObjectMeta, Version

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def metas(keys: list[str]) -> Iterator[ObjectMeta]:
    return (ObjectMeta(key, 0, NOW, Version(None)) for key in keys)


@given(st.sets(st.text(alphabet="ab/\ud7ff\ue000\uffee\U00010000\U0001f600", max_size=6), max_size=30))
def test_a_listing_in_utf16_order_is_put_into_utf8_order(keys: set[str]) -> None:
    theirs = sorted(keys, key=lambda key: key.encode("utf-16-be"))
    ours = [meta.key for meta in remote._reordered(metas(theirs))]
    assert ours == sorted(keys, key=str.encode)


def test_reordering_holds_back_only_the_keys_concerned() -> None:
    taken: list[str] = []

    def listing() -> Iterator[ObjectMeta]:
        for meta in metas([f"a/{number:03}" for number in range(100)] + ["b/\U0001f600", "b/\uffee", "c/1", "c/2"]):
            taken.append(meta.key)
            yield meta

    ordered = remote._reordered(listing())
    assert [next(ordered).key for _ in range(100)][-1] == "a/099"
    assert len(taken) == 100
    assert [next(ordered).key, next(ordered).key] == ["b/\uffee", "b/\U0001f600"]
    assert taken[-1] == "c/1"


def test_a_tag_is_one_version_however_it_is_quoted() -> None:
    assert version_of("0x1") == version_of('"0x1"') == Version('"0x1"')
    assert version_of(None) == Version(None)


def test_an_object_too_large_for_one_copy_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"memory://{nonce()}")
    store.put("a", b"0123456789" * 10)
    monkeypatch.setattr(remote, "_MAX_COPY_BYTES", 50)
    store.copy("a", "b")
    assert store.get("b").data == b"0123456789" * 10


def test_parts_grow_with_the_file_and_never_with_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import obstore

    seen: list[tuple[int, int]] = []

    def put(
        store: object, key: str, data: object, *, mode: str, chunk_size: int, max_concurrency: int
    ) -> dict[str, str]:
        seen.append((chunk_size, max_concurrency))
        return {"e_tag": '"x"'}

    monkeypatch.setattr(obstore, "put", put)
    store = open_store(f"memory://{nonce()}")
    for size in (17 << 20, 100 << 30, 1 << 40):  # sparse: takes no room on the disk
        path = tmp_path / f"{size}"
        with path.open("wb") as file:
            file.truncate(size)
        store.put("large", path)
        chunk, in_flight = seen[-1]
        assert size / chunk <= 10_000
        assert chunk * in_flight <= max(64 << 20, chunk)


def test_the_key_and_its_prefix_together_keep_the_limit() -> None:
    store = open_store("memory://m/" + "/".join(["p" * 255] * 3))
    store.put("k" * 200, b"")
    with pytest.raises(Invalid, match="together"):
        store.put("k" * 255 + "/k", b"")


def test_nothing_is_contacted_until_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> remote.Clients:
        raise AssertionError("contacted")

    store = RemoteObjectStore(Uri.parse("s3://bucket/x"), connect, lacks={}, probe=Probe(needed=True))
    assert (store.uri, dict(store.lacks)) == ("s3://bucket/x", {})
    store.list("x")
    with pytest.raises(Invalid):
        store.get("..")
    with pytest.raises(AssertionError, match="contacted"):
        store.get("a")


def test_a_signed_url_says_what_it_allows() -> None:
    signer = BlobSigner(account="acc", account_key="a2V5", endpoint="https://acc.blob.core.windows.net", container="c")
    url = signer.url("a b/ü%", permissions="r", start=NOW, expiry=NOW + timedelta(hours=1))
    assert url.startswith("https://acc.blob.core.windows.net/c/a%20b/%C3%BC%25?sv=")
    assert "sp=r&st=2026-01-01T00%3A00%3A00Z&se=2026-01-01T01%3A00%3A00Z" in url
    other = signer.url("a b/ü", permissions="r", start=NOW, expiry=NOW + timedelta(hours=1))
    assert url.partition("sig=")[2] != other.partition("sig=")[2]


def test_without_an_account_key_odd_names_are_not_signed_wrongly() -> None:
    settings = StoreSettings(credentials=AzureCredentials(account="acc", sas_token=Secret("sv=1&sig=x")))
    store = open_store("az://container", settings=settings)
    with pytest.raises(Unsupported, match="percent-encoding"):
        store.presign("a b")


def test_same_memory_by_the_same_name_only() -> None:
    name = nonce()
    open_store(f"memory://{name}").put("a", b"1")
    assert open_store(f"memory://{name}").get("a").data == b"1"
    assert list(open_store(f"memory://{name}x").list()) == []


def test_a_transfer_in_a_forked_child_has_threads_of_its_own(tmp_path: Path) -> None:
    from ml_toolbox.objects.transfer import download_file

    (tmp_path / "s").mkdir()
    (tmp_path / "s/large").write_bytes(b"x" * (20 << 20))
    download_file(open_store(tmp_path / "s"), "large", tmp_path / "parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            download_file(open_store(tmp_path / "s"), "large", tmp_path / "child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "child").stat().st_size == 20 << 20


def test_the_debris_of_a_killed_probe_is_not_listed() -> None:
    from ml_toolbox.objects import connecting

    name = nonce()
    store = open_store(f"memory://{name}/p")
    store.put("a", b"")
    import obstore

    for key in ("p/.mlt~probe-1", "p/b/.mlt~probe-2", "p/.mlt~x/c"):
        obstore.put(connecting.memory(name).once, key, b"1")
    assert [meta.key for meta in store.list()] == ["a"]
    assert [meta.key for meta in store.list_level().objects] == ["a"]
