"""Older databases come forward, newer ones that say so may be used, and others are refused and left alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Unsupported
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.rows import Row, Write
from ml_toolbox.state import migrations
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.state import change, never, reserve, row
from tests.upgrade.released_databases import restored

PHASES_OF_SCHEMA_1 = {
    "job": {"submitting", "active", "registering", "ended", "deleting", "deleted"},
    "endpoint": {"applying", "active", "deleting", "deleted"},
}


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return restored(1, tmp_path / "released.db")


@pytest.fixture
def store(released: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(released, clock=FakeClock(1_900_000_000.0))
    yield store
    store.close()


def described(path: Path) -> dict[str, object]:
    """Tables with their columns, however the text that made them is written, and indices."""
    connection = sqlite3.connect(path)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    columns = {
        name: sorted(line[1:] for line in connection.execute(f"PRAGMA table_info({name})").fetchall())
        for (name,) in tables
    }
    keys = {name: connection.execute(f"PRAGMA foreign_key_list({name})").fetchall() for (name,) in tables}
    indices = connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    ).fetchall()
    connection.close()
    return {"columns": columns, "keys": keys, "indices": indices}


def test_the_fixture_has_a_row_in_every_phase(released: Path) -> None:
    connection = sqlite3.connect(released)
    found = connection.execute("SELECT kind, phase FROM work").fetchall()
    leased = connection.execute("SELECT count(*) FROM work WHERE lease_owner <> ''").fetchone()
    connection.close()
    assert {kind: {phase for k, phase in found if k == kind} for kind in PHASES_OF_SCHEMA_1} == PHASES_OF_SCHEMA_1
    assert leased[0] > 20, "and many that a killed process held"


def test_all_steps_make_what_a_new_database_is(released: Path, tmp_path: Path) -> None:
    SqliteStore(released).close()
    SqliteStore(tmp_path / "new.db").close()
    assert described(released) == described(tmp_path / "new.db")
    assert set(migrations.SQLITE) == set(range(2, migrations.VERSION + 1))
    assert migrations.SQLITE[migrations.VERSION].readable_by == migrations.READABLE_BY


def test_every_row_is_read_as_it_was(released: Path) -> None:
    connection = sqlite3.connect(released)
    connection.row_factory = sqlite3.Row
    before = {line["id"]: dict(line) for line in connection.execute("SELECT * FROM work")}
    told = connection.execute("SELECT work_id, phase, message FROM transition ORDER BY seq").fetchall()
    connection.close()
    store = SqliteStore(released)
    found = store.find(None)
    assert {one.id for one in found} == set(before)
    for one in found:
        was = before[one.id]
        assert (one.phase, one.state, one.wish, one.due_at) == (was["phase"], was["state"], was["wish"], was["due_at"])
        assert (one.spec, one.data) == (json.loads(was["spec"]), json.loads(was["data"]))
        assert one.lease_token == was["lease_token"]
        assert (one.place, one.scopes) == (one.spec["backend"], ("all",))
    lines = [(line.work_id, line.transition.phase, line.transition.message) for line in store.occurrences()]
    assert lines == [tuple(line) for line in told]
    assert {line.transition.level for line in store.occurrences()} == {"info"}
    assert sorted(store.places()) == ["fake", "memory"], "resources may exist there: they are looked after"
    store.close()


def test_every_row_is_driven_and_paid_for_like_a_new_one(store: SqliteStore) -> None:
    due = [row.id for row in store.find(None) if row.due_at is not None]
    rows = store.claim_due(["job", "endpoint"], owner="o", lease_s=9.0, is_dead=never, due_before=2e9, limit=1000)
    assert sorted(row.id for row in rows) == sorted(due), "the leases of the old processes have run out"
    results = store.write([Write(row=row, change=change(postings=(reserve(2),))) for row in rows], lease_s=9.0)
    assert all(isinstance(result, Row) for result in results)
    assert store.set_limit("all", "cost", "", 10**9) == Limit(scope="all", meter="cost", most=10**9, held=2 * len(due))


def test_coming_forward_happens_once(released: Path) -> None:
    for _ in range(2):
        SqliteStore(released).close()
    connection = sqlite3.connect(released)
    assert [line[0] for line in connection.execute("SELECT version FROM schema_version ORDER BY version")] == [1, 2]
    connection.close()


def test_a_step_that_fails_leaves_the_old_database(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = described(released)
    broken = migrations.Step(readable_by=2, statements=(*migrations.SQLITE[2].statements, "SELECT * FROM nowhere"))
    monkeypatch.setattr(migrations, "SQLITE", {2: broken})
    with pytest.raises(Exception, match="nowhere"):
        SqliteStore(released)
    assert described(released) == before
    monkeypatch.undo()
    SqliteStore(released).close()


def newer(path: Path, readable_by: int) -> None:
    """What a release after this one would leave: one more column, and whether it minds."""
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE work ADD COLUMN colour TEXT DEFAULT 'red' NOT NULL")
    connection.execute("INSERT INTO schema_version VALUES (?, 0, ?)", (migrations.VERSION + 1, readable_by))
    connection.commit()
    connection.close()


def test_the_next_release_s_database_can_be_used_when_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path).close()
    newer(path, readable_by=migrations.VERSION)
    store = SqliteStore(path)
    mine = store.insert(row(scopes=("all",)), owner="o", lease_s=9.0, postings=[reserve(1)])
    [written] = store.write([Write(row=mine, change=change())], lease_s=9.0)
    assert store.get("a") == written
    assert store.find("job") == (written,)
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT colour FROM work").fetchall() == [("red",)]
    assert connection.execute("SELECT max(version) FROM schema_version").fetchall() == [(migrations.VERSION + 1,)]
    connection.close()


def test_a_database_that_this_release_would_misread_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path).close()
    newer(path, readable_by=migrations.VERSION + 1)
    before = path.read_bytes()
    with pytest.raises(Unsupported, match="upgrade"):
        SqliteStore(path)
    assert path.read_bytes() == before
