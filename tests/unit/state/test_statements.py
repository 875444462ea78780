"""The SQL text against the SQLAlchemy schema: neither can change without the other."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from ml_toolbox.engine.rows import Row, Transition
from ml_toolbox.state import ddl, schema, statements
from ml_toolbox.state.sqlite import SqliteStore

EVERY = dict.fromkeys(("name", "id_prefix", "before"), True)
NONE = dict.fromkeys(EVERY, False)
CONSTANTS = {name: value for name, value in vars(statements).items() if name.isupper() and not name.startswith("_")}
STATEMENTS = {
    **CONSTANTS,
    "find everything": statements.find(**NONE, states=None, without_phases=()),
    "find nothing": statements.find(**NONE, states=(), without_phases=()),
    "find with all conditions": statements.find(**EVERY, states=("a", "b"), without_phases=("c", "d")),
    "due": statements.due(("job", "endpoint")),
    "due of nothing": statements.due(()),
}


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database made by the migrations of the schema alone."""
    connection = sqlite3.connect(tmp_path / "migrated.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    schema.migrate_sqlite(connection, 1.0)
    yield connection
    connection.close()


def parameters(statement: str) -> set[str]:
    return set(text(statement).compile().params)


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_fits_the_schema(name: str, migrated: sqlite3.Connection) -> None:
    statement = STATEMENTS[name]
    assert '"' not in statement, "SQLite would take an unknown quoted name for a string"
    migrated.execute(f"EXPLAIN {statement}", dict.fromkeys(parameters(statement)))


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_takes_its_values_as_parameters_everywhere(name: str) -> None:
    statement = STATEMENTS[name]
    assert "'" not in statement
    for_postgres = str(text(statement).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert set(re.findall(r"%\((\w+)\)s", for_postgres)) == parameters(statement)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        (statements.INSERT_WORK, schema.work),
        (statements.INSERT_TRANSITION, schema.transition),
        (statements.ADD_VERSION, schema.schema_version),
    ],
)
def test_an_insert_fills_every_column_with_the_value_of_that_name(statement: str, table: Table) -> None:
    lists = [re.findall(r"\w+", names) for names in re.findall(r"\(([^)]*)\)", statement)]
    own = [column.name for column in table.columns if column.autoincrement is not True]
    assert lists == [own, own]


@pytest.mark.parametrize("name", [name for name, statement in STATEMENTS.items() if "UPDATE" in statement])
def test_an_update_sets_each_column_to_the_value_of_that_name(name: str) -> None:
    pairs = re.findall(r"(\w+) = :(\w+)", STATEMENTS[name])
    assert [column for column, _ in pairs] == [value for _, value in pairs]
    assert len(pairs) == STATEMENTS[name].count("=")


def test_a_row_is_read_whole(migrated: sqlite3.Connection) -> None:
    def columns(statement: str) -> list[str]:
        return [line[0] for line in migrated.execute(statement, dict.fromkeys(parameters(statement), 1)).description]

    own = [column.name for column in schema.work.columns]
    assert own == [field.name for field in fields(Row)]
    for statement in (statements.GET, statements.GET_HELD, STATEMENTS["find with all conditions"]):
        assert columns(statement) == own
    assert set(columns(statements.HISTORY)) == {field.name for field in fields(Transition)}


def test_the_text_that_makes_a_database_is_the_schema_compiled() -> None:
    wanted: list[str] = []
    for table in schema.metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made: list[ExecutableDDLElement] = [CreateTable(table), *map(CreateIndex, indexes)]
        wanted += [" ".join(str(element.compile(dialect=sqlite.dialect())).split()) for element in made]
    assert [" ".join(statement.split()) for statement in ddl.CREATE] == wanted
    assert len(schema.MIGRATIONS) == ddl.VERSION


def test_a_new_database_is_what_all_migrations_make(tmp_path: Path, migrated: sqlite3.Connection) -> None:
    def described(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
        lines = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        return [(kind, name, " ".join((sql or "").split())) for kind, name, sql in lines]

    SqliteStore(tmp_path / "new.db").close()
    new = sqlite3.connect(tmp_path / "new.db")
    assert described(new) == described(migrated)
    latest = "SELECT max(version) FROM schema_version"
    assert new.execute(latest).fetchall() == migrated.execute(latest).fetchall()
    new.close()
