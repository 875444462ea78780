"""The SQL text against the SQLAlchemy schema: neither can change without the other."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table

from ml_toolbox.engine.rows import Row, Transition
from ml_toolbox.state import ddl, postgres, schema, sqlite, statements
from ml_toolbox.state.database import Session
from ml_toolbox.state.sqlite import SqliteStore

CONDITIONS = ("kind", "name", "id_prefix", "before", "states", "without_phases", "place")
STATEMENTS = {
    **{name: value for name, value in vars(statements).items() if name.isupper() and not name.startswith("_")},
    "find everything": statements.find(**dict.fromkeys(CONDITIONS, False)),
    "find with all conditions": statements.find(**dict.fromkeys(CONDITIONS, True)),
}
LISTS = ("ids", "kinds", "free", "scopes", "states", "without_phases")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """To a new database."""
    SqliteStore(tmp_path / "new.db").close()
    connection = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    yield connection
    connection.close()


def parameters(statement: str, value: Any = None) -> dict[str, Any]:
    return {name: [] if name in LISTS else value for name in re.findall(r":(\w+)", statement)}


def for_sqlite(statement: str) -> tuple[str, dict[str, Any]]:
    return sqlite._in_own_words(statement), sqlite._flat(parameters(statement, 1))


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_fits_the_tables_in_sqlite(name: str, connection: sqlite3.Connection) -> None:
    statement, values = for_sqlite(STATEMENTS[name])
    assert '"' not in statement, "SQLite would take an unknown quoted name for a string"
    connection.execute(f"EXPLAIN {statement}", values)


def test_every_statement_fits_the_tables_in_postgresql(postgres_url: str) -> None:
    store = postgres.PostgresStore(postgres_url)

    def explain_all(session: Session) -> None:
        for statement in STATEMENTS.values():
            session.rows(f"EXPLAIN {statement}", parameters(statement))

    store._database.write(explain_all)
    store.close()


def test_what_is_due_and_who_holds_it_is_found_without_reading_everything(connection: sqlite3.Connection) -> None:
    for name, index in (("CLAIMABLE", "work_by_due"), ("RENEW", "work_by_owner"), ("LINES_OF_WORK", "ledger_by_work")):
        statement, values = for_sqlite(STATEMENTS[name])
        plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert any(index in step for step in plan), plan


@pytest.mark.parametrize("name", STATEMENTS)
def test_values_are_parameters(name: str) -> None:
    assert not re.findall(r"'[^']+'", STATEMENTS[name]), "the empty text is the only one that is written out"


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        (statements.INSERT_WORK, schema.work),
        (statements.INSERT_SCOPE, schema.work_scope),
        (statements.INSERT_PLACE, schema.place),
        (statements.INSERT_TRANSITION, schema.transition),
        (statements.INSERT_LINE, schema.ledger),
        (statements.INSERT_BUDGET, schema.budget),
        (statements.ADD_VERSION, schema.schema_version),
    ],
)
def test_an_insert_fills_every_column_with_the_value_of_that_name(statement: str, table: Table) -> None:
    lists = [re.findall(r"\w+", names) for names in re.findall(r"\(([^)]*)\)", statement)[:2]]
    own = [column.name for column in table.columns if column.autoincrement is not True]
    assert lists == [own, own]


@pytest.mark.parametrize("name", [name for name, statement in STATEMENTS.items() if "UPDATE work SET" in statement])
def test_an_update_sets_each_column_to_the_value_of_that_name(name: str) -> None:
    pairs = re.findall(r"(\w+) = :(\w+)", STATEMENTS[name])
    assert [column for column, _ in pairs] == [value for _, value in pairs]


def test_a_row_is_read_whole(connection: sqlite3.Connection) -> None:
    def columns(name: str) -> set[str]:
        statement, values = for_sqlite(STATEMENTS[name])
        return {line[0] for line in connection.execute(statement, values).description}

    own = {column.name for column in schema.work.columns}
    assert own == {field.name for field in fields(Row)}
    assert columns("GET") == columns("find with all conditions") == columns("CLAIMABLE") == own
    assert columns("HISTORY") == {field.name for field in fields(Transition)}


@pytest.mark.parametrize(("dialect", "text"), [("sqlite", ddl.SQLITE), ("postgresql", ddl.POSTGRESQL)])
def test_the_text_that_makes_a_database_is_the_schema_compiled(dialect: str, text: tuple[str, ...]) -> None:
    assert tuple(" ".join(statement.split()) for statement in text) == schema.compiled(dialect), (
        "run: python scripts/compile_ddl.py"
    )
