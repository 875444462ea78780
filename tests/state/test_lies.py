"""The suite for stores against stores that lie: each breaks one promise, and the test named beside it must find out."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound
from ml_toolbox.engine.ledger import Limit, Line, Meter, Period, Posting, month_of
from ml_toolbox.engine.rows import Occurrence, Row, Transition, Wish, Write
from ml_toolbox.engine.store import Written
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.state import Bound, Fresh, StoreTests


class NoFencing(MemoryStore):
    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        current = [replace(write, row=replace(write.row, lease_token=self._token(write.row))) for write in writes]
        return super().write(current, lease_s=lease_s)

    def _token(self, row: Row) -> int:
        held = self._rows.get(row.id)
        return held.lease_token if held else 0


class ReusesTokens(MemoryStore):
    """The token of a row that was released is given out again."""

    def _claimed(self, row: Row, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        if not row.lease_owner:
            row = replace(row, lease_token=max(0, row.lease_token - 1))
        return super()._claimed(row, owner, lease_s, is_dead)


class ForgetsTheLeaseAtItsEnd(MemoryStore):
    """Refuses a holder whose time is over, though nobody came after it."""

    def _written(self, write: Write, lease_s: float) -> Written:
        held = self._rows.get(write.row.id)
        return None if held and held.lease_until < self.now() else super()._written(write, lease_s)


class IgnoresLeases(MemoryStore):
    def _claimed(self, row: Row, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        return super()._claimed(row, owner, lease_s, lambda _: True)


class BelievesNobodyDead(MemoryStore):
    def _claimed(self, row: Row, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        return super()._claimed(row, owner, lease_s, lambda _: False)


class RenewsEverybodys(MemoryStore):
    def renew(self, owner: str, *, lease_s: float) -> int:
        for other in {row.lease_owner for row in self._rows.values()} - {""}:
            super().renew(other, lease_s=lease_s)
        return super().renew(owner, lease_s=0.0) and super().renew(owner, lease_s=lease_s)


class ClaimsOutsideTheLock(MemoryStore):
    """Looks for what is due, then takes it: two may take the same row."""

    def claim_due(self, kinds: Collection[str], **asked: Any) -> tuple[Row, ...]:
        due = sorted(self._rows.values(), key=lambda row: row.due_at or 0.0)
        due = [row for row in due if row.kind in kinds and row.due_at is not None and not row.lease_owner]
        time.sleep(0.002)
        owner, until = asked["owner"], self.now() + asked["lease_s"]
        taken = [
            replace(row, lease_owner=owner, lease_token=row.lease_token + 1, lease_until=until)
            for row in due[: asked["limit"]]
        ]
        self._rows.update({row.id: row for row in taken})
        return tuple(taken)


class NewestDueFirst(MemoryStore):
    def claim_due(self, kinds: Collection[str], **asked: Any) -> tuple[Row, ...]:
        return tuple(reversed(super().claim_due(kinds, **asked)))


class ReadsTheFirstHundred(MemoryStore):
    def get_many(self, row_ids: Collection[str]) -> dict[str, Row]:
        return super().get_many(sorted(row_ids)[:100])


class ReachesEverywhere(MemoryStore):
    def claim_due(self, kinds: Collection[str], **asked: Any) -> tuple[Row, ...]:
        return super().claim_due(kinds, **{**asked, "elsewhere": ()})


class RemembersTheLast(MemoryStore):
    def remembered(self, name: str, first: str) -> str:
        self._remembered[name] = first
        return first


class DueOnlyByState(MemoryStore):
    """Claims what is due later, too."""

    def claim_due(self, kinds: Collection[str], **asked: Any) -> tuple[Row, ...]:
        return super().claim_due(kinds, **{**asked, "due_before": asked["due_before"] + 2.0})


class LedgerOutsideTheTransaction(MemoryStore):
    """Posts before it knows that the write stands."""

    def _written(self, write: Write, lease_s: float) -> Written:
        change = write.change
        if change is not None and change.postings and write.row.id in self._rows:
            self._post(self._rows[write.row.id], change.postings, self.now())
            write = replace(write, change=replace(change, postings=()))
        return super()._written(write, lease_s)


class InsertsBeforeTheLimit(MemoryStore):
    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0, postings: Sequence[Posting] = ()) -> Row:
        written = super().insert(row, owner=owner, lease_s=lease_s)
        self._warn(written, self._post(written, postings, self.now()), self.now())
        return written


class AsksTheLimitTooEarly(MemoryStore):
    """Checks, then posts, without a lock over both."""

    def _post(self, row: Row, postings: Sequence[Posting], now: float) -> tuple[str, ...]:
        before = dict(self._limits)
        self._lock.release()
        try:
            time.sleep(0.001)
        finally:
            self._lock.acquire()
        self._limits.update(before)
        return super()._post(row, postings, now)


class OneRefusalRefusesAll(MemoryStore):
    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        with self._lock:
            kept = dict(self._rows), list(self._lines), dict(self._limits)
            results = super().write(writes, lease_s=lease_s)
            refused = [result for result in results if isinstance(result, BudgetExceeded)]
            if not refused:
                return results
            self._rows, self._lines, self._limits = kept
            return [refused[0] for _ in writes]


class RefusesWhatWasSpent(MemoryStore):
    def _post(self, row: Row, postings: Sequence[Posting], now: float) -> tuple[str, ...]:
        asked = [replace(posting, kind="reserve") for posting in postings]
        return super()._post(row, asked, now)


class NeverWarns(MemoryStore):
    def _warn(self, row: Row, warnings: Sequence[str], now: float) -> None:
        return None


class NewLimitsStartEmpty(MemoryStore):
    def set_limit(self, scope: str, meter: Meter, period: Period, most: int | None) -> Limit | None:
        limit = super().set_limit(scope, meter, period, most)
        if limit is None:
            return None
        self._limits[scope, meter, period] = limit = replace(limit, held=0, spent=0)
        return limit


class AddsUpWithoutALock(MemoryStore):
    def set_limit(self, scope: str, meter: Meter, period: Period, most: int | None) -> Limit | None:
        limit = super().set_limit(scope, meter, period, most)
        if limit is not None:
            del self._limits[scope, meter, period]
            time.sleep(0.02)
            self._limits[scope, meter, period] = limit
        return limit


class MonthsNeverEnd(MemoryStore):
    def limits(self) -> tuple[Limit, ...]:
        return tuple(limit for _, limit in sorted(self._limits.items()))


class ThePresentMonthPays(MemoryStore):
    """Late lines of an old month count against the new one."""

    def _post(self, row: Row, postings: Sequence[Posting], now: float) -> tuple[str, ...]:
        return super()._post(row, [replace(posting, month=month_of(now)) for posting in postings], now)


class SleepsThroughWishes(MemoryStore):
    def _written(self, write: Write, lease_s: float) -> Written:
        held = self._rows.get(write.row.id)
        seen = replace(write.row, wish=held.wish) if held else write.row
        return super()._written(replace(write, row=seen), lease_s)


class WishesTakeTheLease(MemoryStore):
    def wish(self, row_id: str, wish: Wish, *, reason: str = "") -> Row:
        super().wish(row_id, wish, reason=reason)
        row = self._rows[row_id]
        self._rows[row_id] = replace(row, lease_owner="", lease_token=row.lease_token + 1)
        return self._rows[row_id]


class WishesMayWeaken(MemoryStore):
    def wish(self, row_id: str, wish: Wish, *, reason: str = "") -> Row:
        self._rows[row_id] = replace(self.get(row_id), wish="")
        return super().wish(row_id, wish, reason=reason)


class Overwrites(MemoryStore):
    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0, postings: Sequence[Posting] = ()) -> Row:
        self._rows.pop(row.id, None)
        return super().insert(row, owner=owner, lease_s=lease_s, postings=postings)


class WritesHistoryAlways(MemoryStore):
    def _written(self, write: Write, lease_s: float) -> Written:
        if write.change is not None and not write.change.message:
            write = replace(write, change=replace(write.change, message=" "))
        return super()._written(write, lease_s)


class EndsAnew(MemoryStore):
    def _written(self, write: Write, lease_s: float) -> Written:
        result = super()._written(write, lease_s)
        if isinstance(result, Row) and write.change is not None and not write.change.ended:
            self._rows[result.id] = result = replace(result, ended_at=None)
        return result


class SkipsLines(MemoryStore):
    """Lines become readable late, and out of order."""

    def occurrences(self, *, after: int = 0, limit: int = 1000) -> tuple[Occurrence, ...]:
        lines = super().occurrences(after=after, limit=limit)
        return lines[1:] if len(lines) >= 3 else lines


class PrefixIsAPattern(MemoryStore):
    def find(self, kind: str | None, *, id_prefix: str | None = None, **asked: Any) -> tuple[Row, ...]:
        found = super().find(kind, **{**asked, "limit": 1000})
        return tuple(row for row in found if row.id.lower().startswith((id_prefix or "").lower()))[
            : asked.get("limit", 1000)
        ]


class ForgetsPlaces(MemoryStore):
    def places(self) -> tuple[str, ...]:
        return tuple({row.place for row in self._rows.values() if row.place and row.ended_at is None} - {"a"})


class ForgetsWhatLives(MemoryStore):
    def forget_place(self, place: str) -> bool:
        self._places.pop(place, None)
        return True


class PagesFromTheStart(MemoryStore):
    def lines(
        self, *, work_id: str | None = None, since: float = 0.0, after: int = 0, limit: int = 10_000
    ) -> tuple[Line, ...]:
        return super().lines(work_id=work_id, since=since, limit=limit)


class OneMemoryEach(MemoryStore):
    """Another process does not see it."""


class TellsOfNothing(MemoryStore):
    def history(self, row_id: str) -> tuple[Transition, ...]:
        return super().history(row_id)[:1]


LIES: list[tuple[type[MemoryStore], str]] = [
    (NoFencing, "test_a_write_with_an_older_token_is_dropped"),
    (NoFencing, "test_any_sequence_of_calls_does_what_the_reference_does"),
    (ReusesTokens, "test_every_claim_has_a_token_of_its_own"),
    (ForgetsTheLeaseAtItsEnd, "test_time_alone_takes_no_right_to_write"),
    (IgnoresLeases, "test_a_row_may_be_born_leased"),
    (IgnoresLeases, "test_the_most_overdue_come_first"),
    (BelievesNobodyDead, "test_a_lease_ends_with_its_time_or_its_holder"),
    (BelievesNobodyDead, "test_what_a_dead_owner_held_is_due_again_at_once"),
    (RenewsEverybodys, "test_renewing_keeps_all_and_only_ones_own"),
    (ClaimsOutsideTheLock, "test_racing_workers_never_get_the_same_row"),
    (NewestDueFirst, "test_the_most_overdue_come_first"),
    (ReadsTheFirstHundred, "test_many_rows_are_read_at_once"),
    (ReachesEverywhere, "test_rows_of_places_elsewhere_are_left_to_others"),
    (RemembersTheLast, "test_what_was_remembered_first_stays"),
    (NewestDueFirst, "test_ten_thousand_rows_are_driven_in_batches"),
    (DueOnlyByState, "test_the_most_overdue_come_first"),
    (LedgerOutsideTheTransaction, "test_a_write_with_an_older_token_is_dropped"),
    (LedgerOutsideTheTransaction, "test_each_write_stands_alone"),
    (InsertsBeforeTheLimit, "test_a_reservation_that_a_limit_refuses_writes_nothing"),
    (InsertsBeforeTheLimit, "test_several_lines_count_together"),
    (AsksTheLimitTooEarly, "test_racing_reservations_never_pass_a_limit"),
    (OneRefusalRefusesAll, "test_each_write_stands_alone"),
    (RefusesWhatWasSpent, "test_what_was_spent_is_written_down_over_any_limit"),
    (NeverWarns, "test_users_are_warned_once_on_the_way"),
    (NewLimitsStartEmpty, "test_a_new_limit_knows_what_is_taken"),
    (NewLimitsStartEmpty, "test_a_limit_is_changed_and_removed"),
    (AddsUpWithoutALock, "test_no_reservation_slips_through_while_a_limit_is_made"),
    (MonthsNeverEnd, "test_a_month_that_begins_is_empty"),
    (ThePresentMonthPays, "test_a_month_that_begins_is_empty"),
    (SleepsThroughWishes, "test_a_wish_made_during_a_lease_is_seen_by_its_holder"),
    (SleepsThroughWishes, "test_a_wish_made_during_a_lease_is_seen_without_a_change_too"),
    (WishesTakeTheLease, "test_a_wish_made_during_a_lease_is_seen_by_its_holder"),
    (WishesMayWeaken, "test_a_wish_makes_the_row_due_and_only_grows"),
    (Overwrites, "test_an_id_is_used_once"),
    (WritesHistoryAlways, "test_history_has_a_line_only_for_what_is_news"),
    (EndsAnew, "test_the_end_is_the_first_one"),
    (SkipsLines, "test_all_histories_are_one_stream_in_pages"),
    (SkipsLines, "test_a_reader_of_the_stream_misses_nothing_that_many_write"),
    (PrefixIsAPattern, "test_a_prefix_is_no_pattern"),
    (ForgetsPlaces, "test_places_are_remembered"),
    (ForgetsWhatLives, "test_a_place_is_forgotten_only_while_nothing_lives_there"),
    (PagesFromTheStart, "test_the_ledger_is_read_in_pages_and_parts"),
    (OneMemoryEach, "test_what_was_written_is_read_back_exactly"),
    (OneMemoryEach, "test_racing_workers_never_get_the_same_row"),
    (TellsOfNothing, "test_a_change_is_written_whole"),
    (TellsOfNothing, "test_a_message_may_quote_anything"),
]


def fresh_of(kind: type[MemoryStore]) -> Fresh:
    def bound() -> Bound:
        clock = FakeClock()
        if kind is OneMemoryEach:
            return Bound(open=lambda: kind(clock), clock=clock)
        store = kind(clock)
        return Bound(open=lambda: store, clock=clock)

    return bound


class Impatient(StoreTests):
    """The suite as it is, except that a lie need not be shown in its shortest form, and is looked for until it is found."""

    __test__ = False
    shrinks = False
    examples = 500
    many = 1_000


@pytest.mark.parametrize(("liar", "test"), LIES, ids=[f"{liar.__name__}-{test}" for liar, test in LIES])
def test_each_lie_is_found(liar: type[MemoryStore], test: str) -> None:
    fresh = fresh_of(liar)
    bound = fresh()
    given: dict[str, Any] = {"fresh": fresh, "bound": bound, "store": bound.open(), "meter": "cost"}
    method = getattr(Impatient(), test)
    wanted = inspect.signature(method).parameters
    with pytest.raises(
        (AssertionError, pytest.fail.Exception, Conflict, NotFound, BudgetExceeded, threading.BrokenBarrierError)
    ):
        method(**{name: given[name] for name in wanted})


def test_every_test_of_the_suite_has_a_lie_that_it_finds_or_needs_none() -> None:
    tests = {name for name in vars(StoreTests) if name.startswith("test_")}
    # These state what a store can do; a store that cannot fails them without any need to lie.
    assert tests - {test for _, test in LIES} == {
        "test_a_lease_that_is_kept_runs_from_now",
        "test_a_row_may_be_written_twice_in_one_batch",
        "test_a_time_of_creation_that_is_given_is_kept",
        "test_every_scope_pays_and_the_first_limit_refuses",
        "test_find_pages_newest_first",
        "test_money_moves_from_held_to_spent_to_free",
        "test_not_a_number_is_kept",
        "test_release_gives_the_lease_back",
        "test_what_is_absent_is_not_found",
        "test_whose_budgets_pay_is_told_for_many_at_once",
    }
