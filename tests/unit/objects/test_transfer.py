"""Folders and files: only what changed is sent, an interruption costs what was under way, memory stays small."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable
from ml_toolbox.base.ids import nonce
from ml_toolbox.objects import folders, open_store, transfer
from ml_toolbox.objects.transfer import download_file, download_folder, upload_file, upload_folder
from ml_toolbox.objects.transfer_record import MANIFEST_NAME
from ml_toolbox.ports.objects import Body, ObjectStore, Overwrite, PutMode, Version

LARGE = 30 * 1024 * 1024 + 7


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{nonce()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep/er").mkdir(parents=True)
    for number in range(20):
        (folder / f"file {number}").write_bytes(b"%d" % number * 100)
    (folder / "deep/er/ü").write_bytes(b"nested")
    (folder / "empty").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    (folder / "large").write_bytes(os.urandom(LARGE))
    report = upload_folder(folder, store, "data/set")
    assert (report.files, report.sent_files) == (23, 23)
    assert report.bytes == report.sent_bytes == sum(len(data) for data in contents(folder).values())
    back = download_folder(store, "data/set", tmp_path / "back")
    assert (back.files, back.sent_files, back.sent_bytes) == (23, 23, report.bytes)
    assert contents(tmp_path / "back") == contents(folder)


def test_only_what_changed_is_sent(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, store, "p")
    assert upload_folder(folder, store, "p").sent_files == 0
    times = folder / "file 3"
    times.touch()  # another time, the same bytes
    (folder / "file 4").write_bytes(b"4" * 100)  # as before
    (folder / "file 5").write_bytes(b"other")
    (folder / "new").write_bytes(b"new")
    assert upload_folder(folder, store, "p").sent_files == 2
    target = tmp_path / "back"
    assert download_folder(store, "p", target).sent_files == 24 - 1
    assert download_folder(store, "p", target).sent_files == 0
    (target / "new").write_bytes(b"bad")
    store.put("p/file 6", b"changed there")
    assert download_folder(store, "p", target).sent_files == 2
    assert (target / "new").read_bytes() == b"new"
    # Somebody else's change of an object is noticed by its version, whatever the record says.
    assert upload_folder(folder, store, "p").sent_files == 1
    assert store.get("p/file 6").data == b"6" * 100


def test_what_another_program_put_there_is_fetched_once(store: ObjectStore, tmp_path: Path) -> None:
    store.put("p/a", b"1")
    assert download_folder(store, "p", tmp_path / "t").sent_files == 1
    assert download_folder(store, "p", tmp_path / "t").sent_files == 0
    assert sorted(os.listdir(tmp_path / "t")) == ["a"]  # no file of ours among the user's


def test_a_damaged_or_foreign_record_costs_a_full_transfer(store: ObjectStore, folder: Path) -> None:
    upload_folder(folder, store, "p")
    for damaged in (b"{", b"[]", b'{"format": 99, "files": {}}', b'{"format": 1, "files": {"a": {"size": 1}}}'):
        store.put(f"p/{MANIFEST_NAME}", damaged)
        assert upload_folder(folder, store, "p").sent_files == 22
    assert upload_folder(folder, store, "p").sent_files == 0


def test_exclude_works_as_in_gitignore(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    assert upload_folder(folder, store, "p", exclude=["deep/", "file 1*", "!file 11"]).files == 22 - 1 - 10
    assert {meta.key for meta in store.list("p")} >= {"p/file 11", "p/empty", "p/file 2"}
    assert download_folder(store, "p", tmp_path / "t", exclude=["file*"]).files == 1


def test_bytes_that_arrive_damaged_do_not_appear(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, store, "p")
    manifest = json.loads(store.get(f"p/{MANIFEST_NAME}").data)
    manifest["files"]["file 7"]["sha256"] = hashlib.sha256(b"other").hexdigest()
    store.put(f"p/{MANIFEST_NAME}", json.dumps(manifest).encode())
    with pytest.raises(Unavailable, match="another sha256"):
        download_folder(store, "p", tmp_path / "t")
    assert not (tmp_path / "t/file 7").exists()


class Watched:
    """A store that counts and can fail or wait at a chosen write."""

    def __init__(self, inner: ObjectStore, fail_after: int) -> None:
        self._inner = inner
        self._left = fail_after
        self._lock = threading.Lock()
        self.failure: BaseException = Unavailable("the network went away")

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def put(self, key: str, body: Body, *, mode: PutMode = Overwrite()) -> Version:  # noqa: B008 - as in the port
        with self._lock:
            if MANIFEST_NAME not in key:
                self._left -= 1
                if self._left < 0:
                    raise self.failure
        return self._inner.put(key, body, mode=mode)


@pytest.mark.parametrize("failure", [Unavailable("the network went away"), KeyboardInterrupt()])
def test_an_interrupted_upload_continues(store: ObjectStore, folder: Path, failure: BaseException) -> None:
    watched = Watched(store, fail_after=9)
    watched.failure = failure
    with pytest.raises(type(failure)):
        upload_folder(folder, watched, "p", workers=2)  # type: ignore[arg-type]
    sent = len([meta for meta in store.list("p") if MANIFEST_NAME not in meta.key])
    assert sent == 9
    again = upload_folder(folder, store, "p")
    assert again.sent_files <= 22 - 9 + 2  # all but what the two workers had in their hands
    assert upload_folder(folder, store, "p").sent_files == 0


def test_progress_adds_up_and_never_goes_back(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    (folder / "large").write_bytes(b"x" * LARGE)
    for move in (
        lambda progress: upload_folder(folder, store, "p", progress=progress),
        lambda progress: download_folder(store, "p", tmp_path / "t", progress=progress),
        lambda progress: upload_folder(folder, store, "p", progress=progress),  # all there: counted as done
        lambda progress: upload_file(folder / "large", store, "one", progress=progress),
        lambda progress: download_file(store, "one", tmp_path / "one", progress=progress),
    ):
        seen: list[tuple[int, int, int, int]] = []
        move(lambda *state, seen=seen: seen.append(state))
        done_bytes, total_bytes, done_files, total_files = seen[-1]
        assert (done_bytes, done_files) == (total_bytes, total_files)
        assert seen == sorted(seen)


def test_links_and_odd_files_are_refused_before_anything_is_sent(
    store: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    (folder / "inside").symlink_to(folder / "file 1")
    assert upload_folder(folder, store, "p").files == 23
    assert store.get("p/inside").data == b"1" * 100
    (tmp_path / "secret").write_bytes(b"secret")
    odd: dict[str, Callable[[Path], object]] = {
        "out": lambda path: path.symlink_to(tmp_path / "secret"),
        "folder": lambda path: path.symlink_to(folder / "deep"),
        "nothing": lambda path: path.symlink_to(folder / "absent"),
        "pipe": os.mkfifo,
        "back\\slash": lambda path: path.write_bytes(b""),
    }
    for name, make in odd.items():
        make(folder / name)
        with pytest.raises(Invalid, match="folder"):
            upload_folder(folder, store, "q")
        (folder / name).unlink()
    assert list(store.list("q")) == []
    with pytest.raises(NotFound):
        upload_folder(tmp_path / "absent", store, "q")
    with pytest.raises(NotFound):
        download_folder(store, "q", tmp_path / "t")


def test_a_download_writes_through_no_link(store: ObjectStore, tmp_path: Path) -> None:
    store.put("p/sub/file", b"x")
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "outside").mkdir()
    (target / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(Invalid, match="link"):
        download_folder(store, "p", target)
    assert os.listdir(tmp_path / "outside") == []


def test_a_file_that_changes_while_it_is_sent_is_a_conflict(store: ObjectStore, folder: Path) -> None:
    class Meddling(Watched):
        def put(self, key: str, body: Body, *, mode: PutMode = Overwrite()) -> Version:  # noqa: B008 - as in the port
            if key.endswith("file 1"):
                (folder / "file 1").write_bytes(b"changed meanwhile")
            return self._inner.put(key, body, mode=mode)

    with pytest.raises(Conflict, match="changed while"):
        upload_folder(folder, Meddling(store, 999), "p")  # type: ignore[arg-type]


def test_an_object_that_is_replaced_while_it_is_fetched_is_a_conflict(store: ObjectStore, tmp_path: Path) -> None:
    store.put("o", os.urandom(LARGE))

    class Meddling:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def get_range(self, key: str, start: int, end: int) -> bytes:
            if start:
                store.put("o", b"y" * LARGE)
            return store.get_range(key, start, end)

    with pytest.raises(Conflict, match="replaced"):
        download_file(Meddling(), "o", tmp_path / "o")  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()


def test_one_file(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    (tmp_path / "a").write_bytes(data)
    version = upload_file(tmp_path / "a", store, "k/a")
    assert store.head("k/a").version == version
    meta = download_file(store, "k/a", tmp_path / "new/b", sha256=hashlib.sha256(data).hexdigest())
    assert (meta.size, (tmp_path / "new/b").read_bytes()) == (LARGE, data)
    with pytest.raises(Unavailable):
        download_file(store, "k/a", tmp_path / "c", sha256="0" * 64)
    assert not (tmp_path / "c").exists()
    with pytest.raises(NotFound):
        download_file(store, "absent", tmp_path / "c")


def test_the_device_begins_with_a_download_before_its_end_and_only_with_bytes_that_are_written(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(LARGE)
    store.put("o", data)
    begun: list[tuple[int, int]] = []

    def begin(fd: int, start: int, length: int) -> None:
        begun.append((start, length))
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            file.seek(start)
            assert file.read(length) == data[start : start + length]

    monkeypatch.setattr(transfer, "write_back", begin)
    monkeypatch.setattr(transfer, "_BEGIN_SYNC_BYTES", 8 << 20)
    download_file(store, "o", tmp_path / "o")
    assert (tmp_path / "o").read_bytes() == data
    assert begun == [(0, 8 << 20), (8 << 20, 8 << 20), (16 << 20, 8 << 20)]


@pytest.mark.parametrize("advice", [True, False])
def test_beginning_a_sync_changes_no_byte_and_needs_no_support(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, advice: bool
) -> None:
    if not advice:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    with (tmp_path / "a").open("w+b") as file:
        file.write(b"x" * 100_000)
        file.flush()
        folders.write_back(file.fileno(), 0, 100_000)
        assert os.pread(file.fileno(), 200_000, 0) == b"x" * 100_000


def test_ctrl_c_ends_the_upload_of_a_large_file_at_its_next_piece(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * LARGE)
    taken = 0

    class Slow(Watched):
        def put(self, key: str, body: Body, *, mode: PutMode = Overwrite()) -> Version:  # noqa: B008 - as in the port
            nonlocal taken
            assert not isinstance(body, bytes | Path)
            for _ in body:
                taken += 1
                if taken == 1:
                    # As from a terminal: a signal sent from a thread of our own may be handed to that very thread.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                time.sleep(0.7)  # the time of sending a piece
            return Version("never")

    # A test run that was started in the background ignores Ctrl-C; what is tested here is a program that does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            upload_file(tmp_path / "large", Slow(store, 9), "k")  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert taken < 4


DOWNLOAD = """
import signal
import sys
from pathlib import Path
from ml_toolbox.objects import open_store
from ml_toolbox.objects.transfer import download_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by children of a run in the background
print("go", flush=True)
while True:
    download_folder(open_store(sys.argv[1]), "", Path(sys.argv[2]))
    for path in Path(sys.argv[2]).iterdir():
        path.unlink()
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_no_half_file_is_visible_after_an_interruption(tmp_path: Path, sign: signal.Signals) -> None:
    source = open_store(tmp_path / "source")
    for number in range(6):
        source.put(f"f{number}", bytes([65 + number]) * 3_000_000)
    source.put("large", b"L" * LARGE)
    for delay_ms in (0, 20, 60, 120):
        target = tmp_path / f"target {delay_ms}"
        environment = {**os.environ, "PYTHONFAULTHANDLER": "0"}
        command = [sys.executable, "-c", DOWNLOAD, str(tmp_path / "source"), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_ms / 1000)  # the moment of the interruption is the parameter of this test
            process.send_signal(sign)
            process.wait(30)
        for path in target.glob("*") if target.exists() else ():
            if not path.name.startswith(".mlt~"):
                assert path.read_bytes() == source.get(path.name).data
        assert download_folder(source, "", target).files == 7


MEMORY = r"""
import re, sys
from pathlib import Path
from ml_toolbox.objects import open_store
from ml_toolbox.objects.transfer import download_file, download_folder, upload_file, upload_folder
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
upload_folder(folder / "in", store, "p")
upload_file(folder / "in/0", store, "one")
download_folder(store, "p", folder / "out")
download_file(store, "one", folder / "one")
# VmHWM and not ru_maxrss: the latter begins with what the parent had when it forked.
print(int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_memory_stays_small_at_any_size(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        with (tmp_path / f"in/{number}").open("wb") as file:
            file.truncate(200 * 1024 * 1024)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "store"), str(tmp_path)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()
    assert peak <= 128


def test_a_file_that_is_not_there_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(NotFound, match="not a file"):
            upload_file(absent, store, "k")
