"""The SQLite store against a model of plain dictionaries, its guards, its schema, and many processes at once."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unavailable, Unsupported
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.engine.rows import WISH_ORDER, Change, Row
from ml_toolbox.state import connections, ddl, schema
from ml_toolbox.state.sqlite import SqliteStore


def row(row_id: str = "a", **values: object) -> Row:
    fields = {
        "id": row_id,
        "kind": "job",
        "name": "n",
        "phase": "p",
        "state": "s",
        "created_at": 1.0,
        "updated_at": 1.0,
    }
    return Row(**{**fields, **values})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db")
    yield store
    store.close()


def never(_owner: str) -> bool:
    return False


def test_what_was_written_is_read_back_exactly(store: SqliteStore) -> None:
    spec = {"lr": 0.1 + 0.2, "big": 2**60, "text": "ü\u2028\x00", "list": [1, None, True], "tiny": 5e-324}
    store.insert(row(spec=spec, data={"x": [1]}, due_at=0.5))
    assert store.get("a") == row(spec=spec, data={"x": [1]}, due_at=0.5)


def test_an_id_is_used_once(store: SqliteStore) -> None:
    store.insert(row())
    with pytest.raises(Conflict):
        store.insert(row(name="other"))
    assert store.get("a").name == "n"


def test_what_is_absent_is_not_found(store: SqliteStore) -> None:
    with pytest.raises(NotFound):
        store.get("x")
    with pytest.raises(NotFound):
        store.wish("x", "stop", now=1.0)
    assert store.claim("x", owner="o", now=1.0, lease_s=1.0, is_dead=never) is None
    assert store.history("x") == ()


def test_find_pages_newest_first(store: SqliteStore) -> None:
    for number in range(10):
        store.insert(row(f"id-{number}", name=f"n{number % 2}", state="s" if number < 5 else "t"))
    assert [found.id for found in store.find("job", limit=3)] == ["id-9", "id-8", "id-7"]
    assert [found.id for found in store.find("job", limit=2, before="id-7")] == ["id-6", "id-5"]
    assert [found.id for found in store.find("job", name="n1", states=["t"])] == ["id-9", "id-7", "id-5"]
    assert [found.id for found in store.find("job", id_prefix="id-3")] == ["id-3"]
    assert store.find("job", id_prefix="id_3") == (), "no wildcard of LIKE gets through"
    assert store.find("job", id_prefix="ID-3") == (), "the case counts"
    assert store.find("job", states=[]) == ()
    assert store.find("job", without_phases=["p"]) == ()
    assert store.find("endpoint") == ()


def test_a_dead_owner_frees_its_row_at_once(store: SqliteStore) -> None:
    program = "from ml_toolbox.engine.owners import this_owner; print(this_owner())"
    gone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    store.insert(row(), owner=gone, lease_s=1000.0)
    claimed = store.claim("a", owner=this_owner(), now=2.0, lease_s=1000.0, is_dead=is_dead)
    assert claimed is not None
    assert claimed.lease_token == 2
    assert store.claim("a", owner="another|boot|1|1#x", now=2.0, lease_s=1.0, is_dead=is_dead) is None


def test_an_owner_that_cannot_be_judged_is_not_dead() -> None:
    assert not is_dead("elsewhere|boot|1|123#x")
    assert not is_dead("nonsense")
    assert not is_dead(this_owner())


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO schema_version VALUES (?, 0)", (len(schema.MIGRATIONS) + 1,))
    raw.close()
    with pytest.raises(Unsupported, match="upgrade"):
        SqliteStore(path)


def test_an_older_schema_is_brought_forward_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    store.insert(row())
    store.close()

    def add(connection: object) -> None:
        connection.exec_driver_sql("ALTER TABLE work ADD COLUMN later TEXT")  # type: ignore[attr-defined]

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add))
    monkeypatch.setattr(ddl, "VERSION", len(schema.MIGRATIONS))
    for _ in range(2):
        store = SqliteStore(path)
        assert store.get("a").id == "a"
        store.close()
    with sqlite3.connect(path) as raw:
        assert [version for (version,) in raw.execute("SELECT version FROM schema_version")] == [1, 2]
    raw.close()


def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("this is no database, and long enough to be looked at as one" * 20)
    with pytest.raises(Invalid, match=r"state\.db"):
        SqliteStore(path)


def test_a_lock_that_is_not_given_back_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY_S", 0.01)
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
    with store._writing() as connection:  # the limit stands for a disk: SQLite answers both with SQLITE_FULL
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
        store.claim("a", owner="p", now=2.0, lease_s=5.0, is_dead=interrupted)
    assert store.wish("a", "stop", now=2.0).wish == "stop", "the write lock was given back"


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
        "from tests.unit.state.test_sqlite import row\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "store.insert(row('parent'))\n"
        "inherited = set(map(id, store._connections._idle))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    store.insert(row('child'))\n"
        "    os._exit(len(inherited & set(map(id, store._connections._idle))))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "store.insert(row('later'))\n"
        "assert [found.id for found in store.find('job')] == ['parent', 'later', 'child']\n"
        "store.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state.db")], check=True, cwd=Path(__file__).parents[3]
    )


def test_many_processes_make_and_use_one_database(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from ml_toolbox.state.sqlite import SqliteStore\n"
        "from tests.unit.state.test_sqlite import row\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "for n in range(20):\n    store.insert(row(f'{sys.argv[2]}-{n}'))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state.db")]
    root = Path(__file__).parents[3]
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


class Model(RuleBasedStateMachine):
    """Two holders, one row, a clock that only goes forward: the store does what a dictionary with a token would."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.store = SqliteStore(self.folder / f"{id(self)}-{len(list(self.folder.iterdir()))}.db")
        self.now = 10.0
        self.truth = self.store.insert(row(due_at=1.0))
        self.held: dict[str, Row] = {}
        self.steps = 1

    def teardown(self) -> None:
        self.store.close()

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=st.sampled_from(["x", "y"]), dead=st.booleans())
    def claim(self, owner: str, dead: bool) -> None:
        claimed = self.store.claim("a", owner=owner, now=self.now, lease_s=5.0, is_dead=lambda _: dead)
        free = not self.truth.lease_owner or self.truth.lease_until <= self.now or dead
        assert (claimed is not None) == free
        if claimed is not None:
            self.truth = dataclasses.replace(
                self.truth, lease_owner=owner, lease_token=self.truth.lease_token + 1, lease_until=self.now + 5.0
            )
            assert claimed == self.truth
            self.held[owner] = claimed

    @precondition(lambda self: self.held)
    @rule(data=st.data(), phase=st.sampled_from("pqr"), release=st.booleans(), ended=st.booleans())
    def apply(self, data: st.DataObject, phase: str, release: bool, ended: bool) -> None:
        owner = data.draw(st.sampled_from(sorted(self.held)))
        mine = self.held[owner]
        change = Change(phase=phase, state="s", data={"by": owner}, due_at=self.now, ended=ended, message="moved")
        applied = self.store.apply(mine, change, now=self.now, lease_s=5.0, release=release)
        if mine.lease_token != self.truth.lease_token:
            assert applied is None, "a fenced-off holder wrote"
            del self.held[owner]
            return
        freed = release and mine.wish == self.truth.wish
        self.truth = dataclasses.replace(
            self.truth,
            phase=phase,
            data={"by": owner},
            due_at=self.now,
            updated_at=self.now,
            ended_at=self.truth.ended_at if self.truth.ended_at is not None or not ended else self.now,
            lease_owner="" if freed else self.truth.lease_owner,
            lease_until=0.0 if freed else self.now + 5.0,
        )
        self.steps += 1
        assert applied == self.truth
        self.held[owner] = applied

    @rule(wish=st.sampled_from(["stop", "delete"]))
    def wish(self, wish: str) -> None:
        stronger = WISH_ORDER.index(wish) > WISH_ORDER.index(self.truth.wish)
        seen = self.store.wish("a", wish, now=self.now)  # type: ignore[arg-type]
        if stronger:
            self.steps += 1
            self.truth = dataclasses.replace(self.truth, wish=wish, due_at=self.now, updated_at=self.now)  # type: ignore[arg-type]
        assert seen == self.truth

    @invariant()
    def same(self) -> None:
        assert self.store.get("a") == self.truth
        assert len(self.store.history("a")) == self.steps
        assert self.store.due(["job"], self.now) == ("a",)


def test_the_store_does_what_the_model_does(tmp_path: Path) -> None:
    Model.folder = tmp_path
    run_state_machine_as_test(Model, settings=settings(max_examples=15, stateful_step_count=20, deadline=None))
