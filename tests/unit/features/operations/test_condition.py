"""Each thing that can be wrong is found, said, and answered with what to do; what is well is not."""

from __future__ import annotations

from typing import Any

from ml_toolbox.engine.collection import Comparison, Stray
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.rows import Row
from ml_toolbox.features.operations import Event, Finding, condition

NOW = 1_800_000_000.0
QUIET = Comparison(strays=(), unseen={})


def look(**changed: Any) -> dict[str, list[Finding]]:
    """The findings by subject."""
    values: dict[str, Any] = {
        "rows": (),
        "limits": (),
        "events": (),
        "comparison": QUIET,
        "places": ("local",),
        "installed": {"local"},
        "store_now": NOW,
        "host_now": NOW,
        "is_dead": lambda owner: owner == "dead",
        **changed,
    }
    found: dict[str, list[Finding]] = {}
    for finding in condition(**values):
        found.setdefault(finding.subject, []).append(finding)
    return found


def row(**changed: Any) -> Row:
    return Row(
        **{
            "id": "r1",
            "kind": "job",
            "name": "churn",
            "phase": "active",
            "state": "running",
            "place": "local",
            **changed,
        }
    )


def test_all_is_well() -> None:
    held = row(lease_owner="alive", lease_until=NOW + 30, due_at=NOW - 5)
    found = look(rows=[held, row(due_at=NOW + 1)], limits=[Limit(scope="all", meter="cost", most=5, held=5)])
    assert {finding.state for findings in found.values() for finding in findings} == {"ok"}
    assert set(found) == {"orphans", "leases", "outcomes", "overdue", "alarms", "budgets", "places", "clock"}


def test_an_orphan_costs_money() -> None:
    stray = Stray(kind="job", place="local", resource="x1", row="r9", attempt=2, why="its row r9 does not exist")
    (finding,) = look(comparison=Comparison(strays=(stray,), unseen={}))["orphans"]
    assert (finding.state, "x1" in finding.finding, "doctor --fix" in finding.remedy) == ("error", True, True)


def test_a_place_that_does_not_answer_may_hide_orphans() -> None:
    (finding,) = look(comparison=Comparison(strays=(), unseen={"far@eu": "timed out"}))["orphans"]
    assert finding.state == "note"
    assert "far@eu could not be asked: timed out" in finding.finding


def test_leases_of_the_dead_and_those_that_ran_out() -> None:
    rows = [
        row(id="a", lease_owner="dead", lease_until=NOW + 30),
        row(id="b", lease_owner="elsewhere", lease_until=NOW - 12),
        row(id="c", lease_owner="alive", lease_until=NOW + 30),
    ]
    gone, late = look(rows=rows)["leases"]
    assert "whose process is gone" in gone.finding
    assert "ran out 12 s ago" in late.finding


def test_an_outcome_that_is_not_known_says_for_how_long() -> None:
    unknown = row(phase="unknown", due_at=NOW + 5, data={"since": NOW - 90, "problem": "timed out"})
    (finding,) = look(rows=[unknown])["outcomes"]
    assert "for 90 s not known whether it exists (timed out)" in finding.finding
    assert "money stays held" in finding.remedy


def test_rows_that_nobody_drives() -> None:
    rows = [row(due_at=NOW - 4000), row(due_at=NOW - 700, lease_owner="dead", lease_until=NOW + 9), row(due_at=NOW - 1)]
    (finding,) = look(rows=rows)["overdue"]
    assert finding.finding == "2 rows are due and driven by nobody, the longest for 4000 s"


def test_alarms_once_for_each_row() -> None:
    def event(seq: int, level: Any, row_id: str = "r1") -> Event:
        return Event(
            seq=seq, at=NOW - 60 + seq, level=level, kind="endpoint", id=row_id, name="churn", state="deleting",
            step="deleting", cause="delete", message=f"told {seq}",
        )  # fmt: skip

    first, second = look(events=[event(1, "alarm"), event(2, "warning"), event(3, "alarm"), event(4, "alarm", "r2")])[
        "alarms"
    ]
    assert "told 3 (2 in the last day)" in first.finding
    assert first.remedy == "mltoolbox endpoints show churn"
    assert "told 4" in second.finding


def test_limits_that_are_overdrawn() -> None:
    limits = [
        Limit(scope="all", meter="cost", most=1_000_000, held=3_000_000),
        Limit(scope="all", meter="running", most=1, held=2),
    ]
    money, number = look(limits=limits)["budgets"]
    assert money.finding == "all cost: $3.00 taken of $1.00"
    assert "being stopped" in money.remedy
    assert number.finding == "all running: 2 taken of 1"


def test_places_whose_backend_is_gone() -> None:
    places = ("local", "far@eu", "old")
    living, empty = look(places=places, rows=[row(place="far@eu")])["places"]
    assert (living.state, empty.state) == ("error", "note")
    assert "1 rows live there" in living.finding
    assert "backends forget far" in living.remedy


def test_clocks_that_disagree() -> None:
    assert look(host_now=NOW + 0.5)["clock"][0].state == "ok"
    (note,) = look(host_now=NOW + 5)["clock"]
    assert (note.state, note.finding) == ("note", "this host is 5.0 s ahead of the state's clock")
    (error,) = look(host_now=NOW - 600)["clock"]
    assert (error.state, error.finding) == ("error", "this host is 600.0 s behind the state's clock")
