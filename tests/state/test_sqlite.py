"""What only the SQLite store promises: its file, its guards, its connections, and many processes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Invalid, Unavailable
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.state import sqlite
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.state import row


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db")
    yield store
    store.close()


def test_a_dead_owner_frees_its_row_at_once(store: SqliteStore) -> None:
    program = "from ml_toolbox.engine.owners import this_owner; print(this_owner())"
    gone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    store.insert(row(), owner=gone, lease_s=1000.0)
    claimed = store.claim("a", owner=this_owner(), lease_s=1000.0, is_dead=is_dead)
    assert claimed is not None
    assert claimed.lease_token == 2
    assert store.claim("a", owner="another|boot|1|1#x", lease_s=1.0, is_dead=is_dead) is None


def test_an_owner_that_cannot_be_judged_is_not_dead() -> None:
    assert not is_dead("elsewhere|boot|1|123#x")
    assert not is_dead("nonsense")
    assert not is_dead(this_owner())


def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("this is no database, and long enough to be looked at as one" * 20)
    with pytest.raises(Invalid, match=r"state\.db"):
        SqliteStore(path)


def test_a_lock_that_is_not_given_back_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.01)
    store = SqliteStore(tmp_path / "state.db")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        store.insert(row())
    other.execute("ROLLBACK")
    other.close()
    assert store.insert(row()).id == "a", "the connection is of use again"
    store.close()


def test_a_full_disk_loses_nothing_and_is_unavailable(store: SqliteStore) -> None:
    store.insert(row())
    connections = store._database._connections  # type: ignore[attr-defined]
    with connections.lent() as connection:  # the limit stands for a disk: SQLite answers both with SQLITE_FULL
        connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(Unavailable, match="full"):
        store.insert(row("b", data={"x": "y" * 100_000}))
    assert [found.id for found in store.find("job")] == ["a"]
    assert len(store.history("b")) == 0
    assert store.insert(row("b")).id == "b"


def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(Unavailable, match=r"state\.db"):
        SqliteStore(tmp_path / "state.db")


def test_a_failed_write_leaves_nothing_begun(store: SqliteStore) -> None:
    store.insert(row(), owner="o", lease_s=5.0)

    def interrupted(_owner: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.claim("a", owner="p", lease_s=5.0, is_dead=interrupted)
    assert store.wish("a", "stop").wish == "stop", "the write lock was given back"


def test_many_threads_use_one_store(store: SqliteStore) -> None:
    def write(thread: int) -> None:
        for number in range(10):
            store.insert(row(f"{thread}-{number}"))
            store.get(f"{thread}-{number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert len(store.find("job")) == 80


def test_a_forked_child_uses_connections_of_its_own(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from ml_toolbox.state.sqlite import SqliteStore\n"
        "from ml_toolbox.testing.state import row\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "store.insert(row('parent'))\n"
        "inherited = set(map(id, store._database._connections._idle))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    store.insert(row('child'))\n"
        "    os._exit(len(inherited & set(map(id, store._database._connections._idle))))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "store.insert(row('later'))\n"
        "assert [found.id for found in store.find('job')] == ['parent', 'later', 'child']\n"
        "store.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state.db")], check=True, cwd=Path(__file__).parents[2]
    )


def test_many_processes_make_and_use_one_database(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from ml_toolbox.state.sqlite import SqliteStore\n"
        "from ml_toolbox.testing.state import row\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "for n in range(20):\n    store.insert(row(f'{sys.argv[2]}-{n}'))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state.db")]
    root = Path(__file__).parents[2]
    racing = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, cwd=root) for n in range(4)]
    for process in racing:
        process.communicate(timeout=60)
    assert [process.returncode for process in racing] == [0, 0, 0, 0]
    store = SqliteStore(tmp_path / "state.db")
    assert len(store.find("job")) == 80
    store.close()


def test_a_store_is_made_and_used_without_sqlalchemy(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from ml_toolbox.state.sqlite import SqliteStore\n"
        "SqliteStore(Path(sys.argv[1])).find('job')\n"
        "print('sqlalchemy' in sys.modules)\n"
    )
    for _ in range(2):  # the first makes the database, the second finds it
        command = [sys.executable, "-c", program, str(tmp_path / "state.db")]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "False"
