"""Budgets, costs, events and places on the command line, on a store with rows but no platform behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import BudgetExceeded, Conflict, Invalid, NotFound
from ml_toolbox.cli.main import cli
from ml_toolbox.state.sqlite import SqliteStore
from tests.unit.features.costs.books import begin, end


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def ok(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error(*arguments: str) -> BaseException:
    found = run(*arguments).exception
    assert found is not None
    return found


def as_json(*arguments: str) -> Any:
    return json.loads(ok(*arguments, "--json"))


@pytest.fixture
def store() -> SqliteStore:
    state = Toolbox().state
    assert isinstance(state, SqliteStore)
    return state


def test_budgets_are_set_listed_shown_and_removed(store: SqliteStore) -> None:
    said = ok("budgets", "set", "project:churn", "--cost", "100", "--month", "--running", "4")
    assert said.splitlines() == [
        "budget project:churn cost a month: $100.00, $0.00 taken",
        "budget project:churn running: 4, 0 taken",
    ]
    begin(store, "a", ("all", "project:churn"), hours=3, kind="old")
    listed = {(line["meter"], line["period"]): line for line in as_json("budgets", "list")}
    assert listed["cost", "month"]["limit"] == 100
    assert listed["cost", "month"]["held"] == 3
    assert listed["running", ""]["free"] == 3
    shown = as_json("budgets", "show", "project:churn")
    assert [taker["work_id"] for taker in shown["takers"]] == ["a"]
    assert "3%" in ok("budgets", "list")
    assert ok("budgets", "remove", "project:churn", "--month") == "budget project:churn cost a month is lifted\n"
    assert ok("budgets", "remove", "project:churn") == "budget project:churn running is lifted\n"
    assert isinstance(error("budgets", "remove", "project:churn"), NotFound)
    assert "No budgets. Set one" in ok("budgets", "list")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("all", "--cost", "0"), "cost"),
        (("all", "--cost", "-1"), "cost"),
        (("all", "--running", "two"), "running"),
        (("all", "--cost-per-hour", "nan"), "cost-per-hour"),
        (("all",), "cost"),
        (("churn", "--cost", "5"), "scope"),
        (("all", "--month", "--running", "1"), "month"),
    ],
)
def test_what_is_no_budget_names_the_field_and_sets_nothing(arguments: tuple[str, ...], field: str) -> None:
    found = error("budgets", "set", *arguments)
    assert isinstance(found, Invalid)
    assert found.field == field
    assert Toolbox().budgets.list() == ()


def test_a_budget_below_what_is_taken_asks_before_it_stops_anything(store: SqliteStore) -> None:
    end(store, "spent", begin(store, "spent", hours=4, kind="old"), hours=4)
    result = run("budgets", "set", "all", "--cost", "3")
    assert result.exit_code == 0
    assert "$4.00 taken already, more than $3.00" in result.output
    assert "nothing is stopped" in result.output


def test_costs_by_everything(store: SqliteStore) -> None:
    assert as_json("costs")["lines"] == []
    end(store, "a", begin(store, "a", ("all", "user:ann", "project:x"), hours=4, kind="old"), hours=3)
    begin(store, "b", ("all", "user:bob"), hours=1, place="far", kind="old")
    report = as_json("costs", "--by", "user")
    assert {line["key"]: line["spent"]["usd"] for line in report["lines"]} == {"ann": 3, "bob": 0}
    assert report["total"]["held"]["usd"] == 1
    text = ok("costs", "--by", "project")
    assert "(none)" in text
    assert text.splitlines()[-1].split() == ["total", "$3.00", "$1.00", "$5.00", "$0.00"]
    plot = ok("costs", "--plot").splitlines()
    assert (plot[0].count("█"), plot[1].count("░")) == (40, 13)
    assert "+ $1.00 held" in plot[-1]
    only = run("costs", "--limit", "1").output
    assert "1 more are in the total" in only
    assert isinstance(error("costs", "--since", "soon"), Invalid)


def test_events_are_json_lines_and_levels_are_told_apart(store: SqliteStore) -> None:
    assert ok("events") == ""
    store.set_limit("all", "cost", "", 1_000_000)
    begin(store, "a", hours=0.9, kind="old")
    told = [json.loads(line) for line in ok("events", "--json").splitlines()]
    assert [(event["level"], event["cause"]) for event in told] == [("info", "insert"), ("warning", "budget")]
    assert told[1]["message"] == "90% of budget all cost is taken: $0.9000 of $1.00"
    assert "WARNING" in ok("events", "--level", "warning")
    assert ok("events", "--level", "alarm") == ""
    assert ok("events", "--since", "2999-01") == ""


def test_a_place_is_forgotten_once_nothing_lives_there(store: SqliteStore) -> None:
    charge = begin(store, "a", place="far@eu", kind="old")
    begin(store, "b", place="local", kind="old")
    assert isinstance(error("backends", "forget", "nowhere", "-y"), NotFound)
    unasked = error("backends", "forget", "far", "-y")
    assert isinstance(unasked, Conflict)
    assert "far@eu cannot be asked" in unasked.message
    assert isinstance(error("backends", "forget", "far", "--unasked", "-y"), Conflict)
    assert isinstance(error("backends", "forget", "local", "-y"), Conflict)
    end(store, "a", charge, hours=1)
    assert ok("backends", "forget", "far", "--unasked", "-y") == "far@eu is forgotten\n"
    assert store.places() == ("local",)


def test_doctor_tells_of_the_loop_and_changes_nothing(store: SqliteStore) -> None:
    begin(store, "a", place="far@eu", kind="old")
    before = store.get("a"), store.occurrences()
    found = {finding["subject"]: finding for finding in as_json_failing("doctor")}
    assert found["places"]["state"] == "error"
    assert "far@eu" in found["orphans"]["finding"]
    assert (store.get("a"), store.occurrences()) == before


def as_json_failing(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 1
    return json.loads(result.output)


@pytest.fixture
def script(tmp_path: Path) -> str:
    home = Toolbox().home
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text("[providers.local]\nprice_per_hour = 2.0\n")
    (tmp_path / "train.py").write_text("print(1)\n")
    return str(tmp_path / "train.py")


def test_a_plan_says_what_is_reserved_of_which_budget(script: str) -> None:
    ok("budgets", "set", "project:churn", "--cost", "10")
    text = ok("plan", script, "--project", "churn", "--max-duration", "7170")
    assert "a reservation of at most $4.00 ($2.00/h x 2 h)" in text
    assert "of budget project:churn $10.00, $10.00 free" in text


def test_a_plan_refuses_what_submitting_would_refuse_in_the_same_words(script: str) -> None:
    ok("budgets", "set", "project:churn", "--cost", "3")
    for command in ("plan", "train"):
        found = error(command, script, "--project", "churn", "--max-duration", "7170")
        assert isinstance(found, BudgetExceeded)
        assert "$4.00 asked, $3.00 free ($3.00 limit - $0.00 spent - $0.00 held)" in found.message
        dear = error(command, script, "--max-cost-per-hour", "1")
        assert isinstance(dear, BudgetExceeded)
        assert dear.field == "limits.max_cost_per_hour_usd"
        short = error(command, script, "--max-cost", "0.02")
        assert isinstance(short, BudgetExceeded)
        assert "lasts 6 s at $2.00 an hour" in short.message
    assert Toolbox().state.find("job") == ()


def test_a_plan_says_that_it_would_wait_and_that_it_is_cut_short(script: str, store: SqliteStore) -> None:
    ok("budgets", "set", "all", "--running", "1")
    begin(store, "a", kind="old")
    text = ok("plan", script, "--max-cost", "1")
    assert "it would wait in line: budget all running: 1 asked, 0 free" in text
    assert "lasts for 1770 s of the 86400 s" in text
    assert "at most $1.00" in text
    assert as_json("plan", script, "--max-cost", "1")["requests"][0]["body"]["max_duration_s"] == 1770
