"""The local secret store: the port's promises, what lies on disk, and what happens when it is damaged or killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Denied, MissingExtra, NotFound
from ml_toolbox.ports.secrets import Secret
from ml_toolbox.providers.local.secrets import LocalSecretStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.secrets import Bound, Fresh, SecretStoreTests

CLEAR = "correct horse battery staple"


class TestLocalSecrets(SecretStoreTests):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Fresh:
        places = iter(range(10_000))

        def bound() -> Bound:
            folder = tmp_path / f"place-{next(places)}"
            return Bound(store=LocalSecretStore(folder), again=lambda: LocalSecretStore(folder))

        return bound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def store(folder: Path) -> LocalSecretStore:
    return LocalSecretStore(folder)


def records(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_nothing_on_disk_shows_the_value(store: LocalSecretStore, folder: Path) -> None:
    store.put("a", Secret(CLEAR))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3  # key, lock, record
    for path in files:
        assert CLEAR.encode() not in path.read_bytes()


def test_all_that_is_written_is_the_owners_alone(store: LocalSecretStore, folder: Path) -> None:
    before = os.umask(0)
    try:
        store.put("a", Secret(CLEAR))
    finally:
        os.umask(before)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_equal_values_look_different_on_disk(store: LocalSecretStore, folder: Path) -> None:
    store.put("a", Secret(CLEAR))
    store.put("a", Secret(CLEAR))
    one, two = (json.loads(path.read_bytes()) for path in records(folder))
    assert one["sealed_value"] != two["sealed_value"]
    assert one["sealed_key"] != two["sealed_key"]


def test_a_record_moved_to_another_name_or_version_does_not_open(store: LocalSecretStore, folder: Path) -> None:
    store.put("low", Secret("harmless"))
    store.put("high", Secret(CLEAR))
    store.put("high", Secret("newer"))
    shutil.copy(folder / "secrets/high/0000000001.json", folder / "secrets/low/0000000001.json")
    with pytest.raises(Denied, match="low"):
        store.get("low")
    shutil.copy(folder / "secrets/high/0000000001.json", folder / "secrets/high/0000000002.json")
    with pytest.raises(Denied):
        store.get("high")
    assert store.get("high", version=1).reveal() == CLEAR


@pytest.mark.parametrize("field", ["sealed_value", "sealed_key", "created_at", "key"])
def test_a_changed_record_is_denied_without_a_word_of_it(store: LocalSecretStore, folder: Path, field: str) -> None:
    store.put("a", Secret(CLEAR))
    [path] = records(folder)
    record = json.loads(path.read_bytes())
    value = record[field]
    record[field] = (
        value + 1 if not isinstance(value, str) else value[:-6] + ("AAAAA=" if value[-6:] != "AAAAA=" else "BBBBB=")
    )
    path.write_text(json.dumps(record))
    with pytest.raises(Denied) as caught:
        store.get("a")
    assert CLEAR not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "a"}', b"\xff\xfe"])
def test_a_record_that_is_none_is_denied(store: LocalSecretStore, folder: Path, content: bytes) -> None:
    store.put("a", Secret(CLEAR))
    records(folder)[0].write_bytes(content)
    with pytest.raises(Denied, match="'a'"):
        store.get("a")


def test_another_or_a_missing_key_is_denied_with_what_to_do(store: LocalSecretStore, folder: Path) -> None:
    store.put("a", Secret(CLEAR))
    key = folder / "key-1.bin"
    key.write_bytes(os.urandom(32))
    with pytest.raises(Denied, match="another key"):
        store.get("a")
    key.write_bytes(b"short")
    with pytest.raises(Denied, match="32 bytes"):
        store.get("a")
    key.unlink()
    with pytest.raises(Denied, match="restore the file"):
        store.get("a")


def test_a_key_that_others_can_read_is_refused(store: LocalSecretStore, folder: Path) -> None:
    store.put("a", Secret(CLEAR))
    (folder / "key-1.bin").chmod(0o644)
    with pytest.raises(Denied, match="chmod 600"):
        store.get("a")


def test_after_a_rotation_the_old_key_opens_nothing_and_all_versions_stay(
    store: LocalSecretStore, folder: Path
) -> None:
    store.put("a", Secret("one"))
    store.put("a", Secret("two"))
    old = (folder / "key-1.bin").read_bytes()
    assert store.rotate_key() == 2
    assert not (folder / "key-1.bin").exists()
    assert (folder / "key-2.bin").read_bytes() != old
    assert [store.get("a", version=n).reveal() for n in (1, 2)] == ["one", "two"]
    assert store.put("a", Secret("three")).version == 3
    assert store.rotate_key() == 3
    assert LocalSecretStore(folder).get("a").reveal() == "three"


def test_a_rotation_with_a_damaged_record_changes_nothing_that_opens(store: LocalSecretStore, folder: Path) -> None:
    store.put("a", Secret("fine"))
    store.put("b", Secret("damaged"))
    (folder / "secrets/b/0000000001.json").write_bytes(b"{}")
    with pytest.raises(Denied, match="'b'"):
        store.rotate_key()
    assert store.get("a").reveal() == "fine"


def test_the_time_is_the_clocks(folder: Path) -> None:
    clock = FakeClock()
    store = LocalSecretStore(folder, clock=clock)
    assert store.put("a", Secret(CLEAR)).created_at == clock.now()
    clock.advance(60)
    assert store.put("a", Secret(CLEAR)).created_at == clock.now()
    assert store.list()[0].created_at == clock.now()


def test_without_cryptography_the_extra_is_named(store: LocalSecretStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtra, match=r"ml-toolbox\[secrets\]"):
        store.put("a", Secret(CLEAR))
    assert store.list() == ()


def _write_for_ever(folder: str, ready: str) -> None:
    store = LocalSecretStore(Path(folder))
    number = 0
    while True:
        number += 1
        written = store.put("a", Secret(f"value-{number}"))
        with open(ready, "a") as file:  # unbuffered enough: closed after every line
            file.write(f"{written.version} value-{number}\n")


def test_kill_9_in_the_middle_leaves_whole_versions_without_gaps(folder: Path, tmp_path: Path) -> None:
    """Three writers are killed one after the other at arbitrary moments; everything they were told is durable is there."""
    context = multiprocessing.get_context("spawn")
    promised: dict[int, str] = {}
    for turn in range(3):
        told = tmp_path / f"told-{turn}"
        process = context.Process(target=_write_for_ever, args=(str(folder), str(told)))
        process.start()
        deadline = time.monotonic() + 30
        while not (told.exists() and told.read_text().count("\n") >= 3 + turn):
            assert time.monotonic() < deadline, "the writer never came so far"
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        promised.update({int(v): text for v, text in (line.split(" ") for line in told.read_text().splitlines())})
    store = LocalSecretStore(folder)
    for version, text in promised.items():
        assert store.get("a", version=version).reveal() == text
    newest = store.list()[0].version
    assert all(store.get("a", version=n).reveal() for n in range(1, newest + 1))
    assert store.put("a", Secret("after")).version == newest + 1
    assert not list(folder.glob(".tmp-*")), "a killed writer's leftovers were not swept"
    with pytest.raises(NotFound):
        store.get("a", version=newest + 2)
