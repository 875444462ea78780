"""The report's sums are the ledger's, whatever it is grouped by; and an outlook refuses exactly what the store refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import BudgetExceeded, Invalid
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.features.costs import GROUPS, Costs, Reservation, outlook
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.features.costs.books import HOUR, begin, end, post, stores

SCOPES = st.sampled_from(
    [("all", "user:ann"), ("all", "user:bob", "project:x"), ("all", "user:ann", "project:y", "profile:gpu"), ("all",)]
)
RUNS = st.lists(st.tuples(SCOPES, st.floats(0.1, 50), st.floats(0, 1), st.booleans(), st.integers(0, 40)), max_size=12)


@given(RUNS, st.sampled_from(GROUPS))
def test_groups_add_up_to_the_ledger(runs: list[tuple[tuple[str, ...], float, float, bool, int]], by: str) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    for number, (scopes, hours, share, ends, days) in enumerate(runs):
        charge = begin(store, f"row{number}", scopes, hours=hours, place=f"place{number % 3}")
        clock.advance(days * 86400)
        if ends:
            end(store, f"row{number}", charge, hours=hours * share)
    report = Costs(store).report(by)  # type: ignore[arg-type]
    lines = store.lines()
    for name in ("held", "spent"):
        ledger = sum(getattr(line.posting, name) for line in lines)
        assert sum(getattr(line, name).micros for line in report.lines) == getattr(report.total, name).micros == ledger
        assert all(getattr(line, name).micros >= 0 for line in report.lines)
    assert len({line.key for line in report.lines}) == len(report.lines)


def test_what_a_stray_cost_is_told_apart(tmp_path: Path) -> None:
    for store in stores(tmp_path, FakeClock()):
        charge = begin(store, "a", ("all", "project:x"))
        end(store, "a", charge, hours=0.5)
        post(store, "a", Posting(attempt=1, kind="collect", spent=300_000, month=charge.month, reason="stray"))
        (line,) = Costs(store).report("project").lines
        assert (line.key, line.reserved, line.held) == ("x", Money.usd(1), Money())
        assert (line.spent, line.collected) == (Money.usd("0.8"), Money.usd("0.3"))


def test_since_a_month_counts_attempts_whole(tmp_path: Path) -> None:
    clock = FakeClock(1_793_487_600.0)  # 2026-10-31T23:00Z
    for store in stores(tmp_path, clock):
        old = begin(store, "october", hours=2)
        clock.advance(2 * 3600)
        end(store, "october", old, hours=2)
        end(store, "november", begin(store, "november", hours=1), hours=1)
        assert {line.key: line.spent for line in Costs(store).report("month").lines} == {
            "2026-10": Money.usd(2),
            "2026-11": Money.usd(1),
        }
        report = Costs(store).report("job", since="2026-11")
        assert [(line.key, line.spent, line.held) for line in report.lines] == [("november", Money.usd(1), Money())]
        clock.advance(-2 * 3600)


@pytest.mark.parametrize("text", ["2026", "2026-13", "26-11", "2026-11-01", "november", "0000-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        Costs(MemoryStore(FakeClock())).report("job", since=text)
    assert caught.value.field == "since"


@given(
    st.lists(
        st.tuples(st.sampled_from(["cost", "cost-per-hour", "running"]), st.integers(1, 4)), max_size=3, unique=True
    ),
    st.lists(st.tuples(st.floats(0.1, 3), st.integers(0, 3)), max_size=6),
)
def test_the_outlook_refuses_exactly_what_the_store_refuses(
    limits: list[tuple[str, int]], runs: list[tuple[float, int]]
) -> None:
    store = MemoryStore(FakeClock())
    for meter, most in limits:
        store.set_limit("all", meter, "", most if meter == "running" else most * HOUR)  # type: ignore[arg-type]
    for number, (hours, hourly) in enumerate(runs):
        ask = Reservation(scopes=("all",), hourly=Money.usd(hourly), seconds=hours * 3600)
        try:
            foreseen = "waits" if outlook(store.limits(), ask, store.now()).waits else "begins"
        except BudgetExceeded:
            foreseen = "refused"
        assert begun(store, f"row{number}", hours, hourly) in (foreseen, "waits" if foreseen == "refused" else foreseen)


def begun(store: MemoryStore, row_id: str, hours: float, hourly: int) -> str:
    try:
        begin(store, row_id, hours=hours, hourly=hourly * HOUR)
    except BudgetExceeded as error:
        return "waits" if error.waits else "refused"
    return "begins"
