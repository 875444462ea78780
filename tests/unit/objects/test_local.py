"""What only the local store promises: durable and whole through kill -9, tidy, and small in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unsupported
from ml_toolbox.base.uri import Uri
from ml_toolbox.objects import folders, local, locate, open_store
from ml_toolbox.objects.local import LocalObjectStore
from ml_toolbox.ports.objects import CreateOnly, IfMatch

# Writes whole objects of one repeated byte as fast as it can, in every mode, saying on stdout that it has begun.
WRITER = """
import itertools, sys
from ml_toolbox.objects import open_store
from ml_toolbox.base.errors import Conflict, NotFound
from ml_toolbox.ports.objects import CreateOnly, IfMatch
store, mode = open_store(sys.argv[1]), sys.argv[2]
print("go", flush=True)
for number in itertools.count():
    data = bytes([97 + number % 26]) * 200_000
    try:
        if mode == "create":
            store.put(f"o/{number}", data, mode=CreateOnly())
        elif mode == "swap":
            store.put("o/one", data, mode=IfMatch(store.head("o/one").version))
        elif mode == "stream":
            store.put("o/one", (data[at : at + 999] for at in range(0, len(data), 999)))
        elif mode == "delete":
            store.put(f"o/{number % 3}/x", data)
            store.delete(f"o/{number % 3}/x")
    except (Conflict, NotFound):
        continue
"""


def whole(store: LocalObjectStore) -> int:
    count = 0
    for meta in store.list():
        data = store.get(meta.key).data
        assert len(data) == 200_000 == meta.size
        assert len(set(data)) == 1
        count += 1
    return count


@pytest.mark.parametrize("mode", ["create", "swap", "stream", "delete"])
def test_kill_9_at_any_moment_leaves_whole_objects_only(tmp_path: Path, mode: str) -> None:
    store = LocalObjectStore(Uri.parse(tmp_path / "store"))
    for delay_ms in (0, 1, 3, 7, 15, 31):
        store.put("o/one", b"z" * 200_000)
        command = [sys.executable, "-c", WRITER, str(tmp_path / "store"), mode]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"go\n"
        time.sleep(delay_ms / 1000)  # the moment of the kill is the parameter of this test
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        assert whole(store) >= 1
        # No lock is left behind: every kind of write still goes through at once.
        version = store.put("o/one", b"y" * 200_000)
        store.put("o/one", b"x" * 200_000, mode=IfMatch(version))
        store.delete("o/one")


COUNTER = """
import sys
from ml_toolbox.objects import open_store
from ml_toolbox.base.errors import Conflict
from ml_toolbox.ports.objects import IfMatch
store = open_store(sys.argv[1])
for _ in range(50):
    while True:
        seen = store.get("counter")
        try:
            store.put("counter", b"%d" % (int(seen.data) + 1), mode=IfMatch(seen.meta.version))
            break
        except Conflict:
            continue
"""


def test_processes_count_exactly(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("counter", b"0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNTER, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    assert store.get("counter").data == b"200"


def test_every_write_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    store = open_store(tmp_path / "s")
    version = store.put("new/folder/a", b"1", mode=CreateOnly())
    # Each new folder in its parent; then the bytes, before they have their name; then the name.
    assert synced[:2] == [str(tmp_path / "s"), str(tmp_path / "s/new")]
    assert Path(synced[2]).name.startswith(".mlt~")
    assert synced[3:] == [str(tmp_path / "s/new/folder")]
    writes: tuple[Callable[[], object], ...] = (
        lambda: store.put("new/folder/a", b"2"),
        lambda: store.put("new/folder/a", b"3", mode=IfMatch(version)),
    )
    for write in writes:
        synced.clear()
        try:
            write()
        except Conflict:
            assert all(Path(path).name.startswith(".mlt~") for path in synced)
            continue
        assert Path(synced[0]).name.startswith(".mlt~")
        assert synced[1:] == [str(tmp_path / "s/new/folder")]
    synced.clear()
    store.put("new/b", b"")
    store.delete("new/folder/a")
    assert str(tmp_path / "s/new/folder") in synced


def test_versions_differ_even_when_inode_size_and_clock_tick_repeat(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    versions = {store.put("o", b"x") for _ in range(300)}
    assert len(versions) == 300


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: making 100,000 files on a disk takes far longer than listing them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as name:
        yield Path(name)


def test_a_hundred_thousand_keys_are_listed_without_being_held(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = memory_path
    monkeypatch.setattr(local, "_BATCH", 2_000)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(20_000):
        os.close(os.open(flat / f"{number:06}", os.O_CREAT))
    for folder in range(100):
        (tmp_path / f"tree/{folder:03}").mkdir(parents=True)
        for number in range(800):
            os.close(os.open(tmp_path / f"tree/{folder:03}/{number:04}", os.O_CREAT))
    store = open_store(tmp_path)
    tracemalloc.start()
    try:
        count, last = 0, ""
        for meta in store.list():
            assert meta.key > last
            last = meta.key
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak < 2_000_000  # 100,000 names alone would be over 6 MB
    assert [meta.key for meta in store.list("flat", start_after="flat/019997")] == ["flat/019998", "flat/019999"]


def test_a_folder_larger_than_a_batch_is_listed_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_BATCH", 7)
    names = [f"{number * 37 % 101:03}" for number in range(60)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert [meta.key for meta in open_store(tmp_path).list()] == sorted(names)


def test_the_debris_of_a_killed_writer_is_invisible_and_then_removed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a", b"1")
    store.put("a", b"2")
    debris = tmp_path / ".mlt~dead-0"
    debris.write_bytes(b"half")
    fd = os.open(tmp_path, os.O_RDONLY)
    writing, name = folders.open_temporary(fd)
    long_ago = time.time() - 10 * folders.STALE_AFTER_S
    os.utime(writing, (long_ago, long_ago))
    try:
        assert [meta.key for meta in store.list()] == ["a"]
        assert debris.exists()  # young: its writer may just not have locked it yet
        os.utime(debris, (long_ago, long_ago))
        assert [meta.key for meta in store.list_level().objects] == ["a"]
        assert not debris.exists()
        assert (tmp_path / name).exists()  # old, but its writer lives
    finally:
        os.close(writing)
        os.close(fd)


def test_a_failed_body_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def broken() -> object:
        yield b"some"
        raise ValueError("the source failed")

    with pytest.raises(ValueError, match="the source failed"):
        store.put("folder/a", broken())  # type: ignore[arg-type]
    assert [name for name in os.listdir(tmp_path / "folder") if name != folders.LOCK_NAME] == []


def test_emptied_folders_disappear(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.put("a/b/c", b"")
    store.put("a/x", b"")
    store.delete("a/b/c")
    assert not (tmp_path / "s/a/b").exists()
    store.delete("a/x")
    assert os.listdir(tmp_path / "s") == []


def test_a_name_is_an_object_or_a_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a", b"")
    with pytest.raises(Invalid, match="parents is an object"):
        store.put("a/b", b"")
    store.put("d/e", b"")
    for mode in (None, CreateOnly()):
        with pytest.raises(Invalid, match="objects exist below"):
            store.put("d", b"", **({"mode": mode} if mode else {}))
    (tmp_path / "empty/folders").mkdir(parents=True)
    with pytest.raises(Invalid):
        store.put("empty", b"")  # not ours to remove: only a folder that holds nothing at all is in nobody's way
    (tmp_path / "hollow").mkdir()
    store.put("hollow", b"object")
    assert store.get("hollow").data == b"object"


def test_what_is_no_regular_file_is_no_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for read in (lambda: store.get("pipe"), lambda: store.head("pipe"), lambda: next(store.stream("pipe"))):
        with pytest.raises(NotFound):
            read()
    assert list(store.list()) == []


@pytest.mark.parametrize(("number", "kind"), [(28, "NoCapacity"), (13, "Denied"), (30, "Denied"), (5, "Unavailable")])
def test_errors_of_the_system_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    store = open_store(tmp_path)
    store.put("a", b"1")

    def fail(fd: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(Exception, match=os.strerror(number)) as failure:
        store.put("a", b"2")
    assert type(failure.value).__name__ == kind
    assert store.get("a").data == b"1"


def test_a_file_system_without_nanoseconds_is_refused_for_swaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    store.put("a", b"1")
    real = os.utime

    def coarse(target: int | str, ns: tuple[int, int]) -> None:
        real(target, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    monkeypatch.setattr(os, "utime", coarse)
    version = store.put("a", b"2")
    with pytest.raises(Unsupported, match="nanoseconds"):
        store.put("a", b"3", mode=IfMatch(version))


def test_the_root_may_be_a_link_and_locate_follows_what_the_user_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/data.csv").write_bytes(b"1,2")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "named.csv").symlink_to(tmp_path / "real/data.csv")
    assert open_store(tmp_path / "root").get("data.csv").data == b"1,2"
    store, key = locate(tmp_path / "named.csv")
    assert store.get(key).data == b"1,2"
    with pytest.raises(Invalid, match="link"):
        open_store(tmp_path).get("named.csv")
    with pytest.raises(Invalid, match="whole store"):
        locate("s3://bucket")
