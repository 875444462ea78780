"""The conformance suite of ``engine.store.Store`` and ``engine.ledger.Books``. Bind it with one fixture::

    class TestMyStore(StoreTests):
        @pytest.fixture
        def fresh(self, tmp_path) -> Callable[[], Bound]:
            def bound() -> Bound:
                clock = FakeClock()
                folder = mkdtemp(dir=tmp_path)
                return Bound(open=lambda: MyStore(folder, clock), clock=clock)
            return bound

The suite moves the clock itself. The last test compares the store with ``MemoryStore`` over sequences of calls that Hypothesis
makes up. Needs pytest and hypothesis.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound, ToolboxError
from ml_toolbox.engine.ledger import Books, Limit, Meter, Period, Posting, month_of
from ml_toolbox.engine.rows import Change, Occurrence, Row, Transition, Wish, Write
from ml_toolbox.engine.store import Store
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore


class BookedStore(Store, Books, Protocol):
    """What the engine is given: rows and ledger in one place."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An empty place for the suite to fill."""

    open: Callable[[], BookedStore]
    """Every call opens the same place, as another process would."""
    clock: FakeClock
    """The time that the store goes by."""


Fresh = Callable[[], Bound]

_DAY = 86_400.0


def row(row_id: str = "a", **values: Any) -> Row:
    """A row of the suite's."""
    given = {"id": row_id, "kind": "job", "name": "n", "phase": "p", "state": "s", **values}
    return Row(**given)


def change(**values: Any) -> Change:
    """What a decision of the suite's writes."""
    return Change(**{"phase": "q", "state": "t", "data": {"n": 1}, **values})


def reserve(held: int, *, month: str = "", running: int = 1, hourly: int = 0) -> Posting:
    """Money held back for one thing more."""
    return Posting(attempt=1, kind="reserve", held=held, running=running, hourly=hourly, month=month, reason="1 h")


def never(_owner: str) -> bool:
    """Nobody is known to be dead."""
    return False


class StoreTests:
    """Every promise of the two protocols, once.

    Class attributes to override: ``examples`` and ``steps``, how many sequences of how many calls Hypothesis makes up;
    ``many``, how many rows the test of size writes.
    """

    examples: ClassVar[int] = 30
    steps: ClassVar[int] = 30
    shrinks: ClassVar[bool] = True
    many: ClassVar[int] = 10_000

    @pytest.fixture
    def fresh(self) -> Fresh:
        pytest.fail("bind the suite: override the fixture fresh")

    @pytest.fixture
    def bound(self, fresh: Fresh) -> Bound:
        return fresh()

    @pytest.fixture
    def store(self, bound: Bound) -> Iterator[BookedStore]:
        store = bound.open()
        yield store
        store.close()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def test_what_was_written_is_read_back_exactly(self, store: BookedStore, bound: Bound) -> None:
        spec = {
            "lr": 0.1 + 0.2,
            "big": 2**60,
            "tiny": 5e-324,
            "text": "ü\u2028\x00'\";%s:name{}\\",
            "surrogate": "\ud800",
            "list": [1, None, True, {"": []}],
            "ключ 模型 🚀": "👩‍🔬",
        }
        given = row(
            name="模型 '%(x)s' 🚀", spec=spec, data={"x": [1]}, due_at=0.5, place="cloud@eu-1", scopes=("all", "u:ü")
        )
        now = bound.clock.now()
        written = store.insert(given)
        assert written == replace(given, created_at=now, updated_at=now)
        assert store.get("a") == written
        other = bound.open()
        assert other.get("a") == written, "another process sees it"
        other.close()

    def test_a_time_of_creation_that_is_given_is_kept(self, store: BookedStore) -> None:
        assert store.insert(row(created_at=12.5)).created_at == 12.5
        assert store.get("a").created_at == 12.5

    def test_not_a_number_is_kept(self, store: BookedStore) -> None:
        store.insert(row(data={"loss": float("nan"), "best": float("inf")}))
        data = store.get("a").data
        assert data["loss"] != data["loss"]
        assert data["best"] == float("inf")

    def test_an_id_is_used_once(self, store: BookedStore) -> None:
        store.insert(row())
        with pytest.raises(Conflict) as refused:
            store.insert(row(name="other", place="elsewhere"), postings=[reserve(5)])
        assert refused.value.resource == "a"
        assert store.get("a").name == "n"
        assert len(store.history("a")) == 1
        assert store.lines() == ()
        assert store.places() == ()

    def test_what_is_absent_is_not_found(self, store: BookedStore) -> None:
        with pytest.raises(NotFound):
            store.get("x")
        with pytest.raises(NotFound):
            store.wish("x", "stop")
        assert store.claim("x", owner="o", lease_s=1.0, is_dead=never) is None
        assert store.history("x") == ()
        assert store.scopes_of(["x"]) == {}

    def test_find_pages_newest_first(self, store: BookedStore) -> None:
        for number in range(10):
            values = {"name": f"n{number % 2}", "state": "s" if number < 5 else "t", "place": f"at{number % 3}"}
            store.insert(row(f"id-{number}", **values))
        store.insert(row("id-x", kind="endpoint"))

        def ids(*args: Any, **wanted: Any) -> list[str]:
            return [found.id for found in store.find(*args, **wanted)]

        assert ids("job", limit=3) == ["id-9", "id-8", "id-7"]
        assert ids("job", limit=2, before="id-7") == ["id-6", "id-5"]
        assert ids(None, limit=2) == ["id-x", "id-9"]
        assert ids("job", name="n1", states=["t"]) == ["id-9", "id-7", "id-5"]
        assert ids("job", place="at1") == ["id-7", "id-4", "id-1"]
        assert ids("job", without_phases=["p"]) == []
        assert ids("job", without_phases=["q", "r"], limit=1) == ["id-9"]
        assert ids("job", states=[]) == []
        assert ids("nothing") == []

    def test_a_prefix_is_no_pattern(self, store: BookedStore) -> None:
        for row_id in ("id-3", "id-30", "ID-3", "id_3", "i%"):
            store.insert(row(row_id))
        assert [found.id for found in store.find("job", id_prefix="id-3")] == ["id-30", "id-3"]
        assert [found.id for found in store.find("job", id_prefix="i%")] == ["i%"]
        assert [found.id for found in store.find("job", id_prefix="ID-")] == ["ID-3"]
        assert [found.id for found in store.find("job")] == ["id_3", "id-30", "id-3", "i%", "ID-3"], "by bytes"

    def test_places_are_remembered(self, store: BookedStore) -> None:
        for number, place in enumerate(["b@eu", "a", "", "b@eu"]):
            store.insert(row(f"{number}", place=place))
        assert sorted(store.places()) == ["a", "b@eu"]

    def test_a_place_is_forgotten_only_while_nothing_lives_there(self, store: BookedStore) -> None:
        for name, place in (("a", "x@eu"), ("b", "x@eu"), ("c", "y")):
            store.insert(row(name, place=place))
        held = {name: store.claim(name, owner="o", lease_s=9.0, is_dead=never) for name in ("a", "b")}
        for name, claimed in held.items():
            assert not store.forget_place("x@eu"), f"{name} lives there"
            assert sorted(store.places()) == ["x@eu", "y"]
            store.write([Write(row=cast("Row", claimed), change=change(ended=True))], lease_s=9.0)
        assert store.forget_place("x@eu")
        assert store.forget_place("never known")
        assert store.places() == ("y",)
        store.insert(row("d", place="x@eu"))
        assert sorted(store.places()) == ["x@eu", "y"]

    def test_whose_budgets_pay_is_told_for_many_at_once(self, store: BookedStore) -> None:
        store.insert(row("a", scopes=("all", "user:ann")))
        store.insert(row("b"))
        assert store.scopes_of(["a", "b", "c"]) == {"a": ("all", "user:ann"), "b": ()}

    # -- leases -------------------------------------------------------------------------------------------------------

    def test_a_row_may_be_born_leased(self, store: BookedStore, bound: Bound) -> None:
        leased = store.insert(row(due_at=0.0), owner="o", lease_s=10.0)
        assert (leased.lease_owner, leased.lease_token) == ("o", 1)
        assert leased.lease_until == bound.clock.now() + 10.0
        assert store.claim("a", owner="p", lease_s=1.0, is_dead=never) is None
        assert store.get("a") == leased

    def test_a_lease_ends_with_its_time_or_its_holder(self, store: BookedStore, bound: Bound) -> None:
        store.insert(row(), owner="o", lease_s=10.0)
        bound.clock.advance(9.0)
        assert store.claim("a", owner="p", lease_s=10.0, is_dead=never) is None
        taken = store.claim("a", owner="p", lease_s=10.0, is_dead=lambda owner: owner == "o")
        assert taken is not None, "its holder is dead"
        assert (taken.lease_owner, taken.lease_token, taken.lease_until) == ("p", 2, bound.clock.now() + 10.0)
        bound.clock.advance(10.0)
        again = store.claim("a", owner="q", lease_s=10.0, is_dead=never)
        assert again is not None, "its time is over"
        assert again.lease_token == 3
        assert store.get("a") == again

    def test_every_claim_has_a_token_of_its_own(self, store: BookedStore) -> None:
        store.insert(row())
        tokens: list[int] = []
        for _ in range(3):
            taken = store.claim("a", owner="o", lease_s=1.0, is_dead=never)
            assert taken is not None
            tokens.append(taken.lease_token)
            store.write([Write(row=taken, change=None)], lease_s=1.0)
        assert tokens == [1, 2, 3], "released between, and still never the same"

    def test_a_write_with_an_older_token_is_dropped(self, store: BookedStore, bound: Bound) -> None:
        first = store.insert(row(scopes=("all",)), owner="o", lease_s=10.0)
        bound.clock.advance(11.0)
        second = store.claim("a", owner="p", lease_s=10.0, is_dead=never)
        assert second is not None
        late = Write(row=first, change=change(message="late", postings=(reserve(1),)))
        assert store.write([late], lease_s=10.0) == [None]
        assert store.write([Write(row=first, change=None)], lease_s=10.0) == [None]
        assert store.get("a") == second
        assert len(store.history("a")) == 1
        assert store.lines() == ()
        [written] = store.write([Write(row=second, change=change())], lease_s=10.0)
        assert isinstance(written, Row)
        assert store.get("a") == written

    def test_time_alone_takes_no_right_to_write(self, store: BookedStore, bound: Bound) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        bound.clock.advance(60.0)
        [written] = store.write([Write(row=mine, change=change())], lease_s=10.0)
        assert isinstance(written, Row), "nobody has taken it meanwhile"

    def test_renewing_keeps_all_and_only_ones_own(self, store: BookedStore, bound: Bound) -> None:
        for row_id, owner in (("a", "o"), ("b", "o"), ("c", "p"), ("d", "")):
            store.insert(row(row_id), owner=owner, lease_s=10.0)
        bound.clock.advance(6.0)
        assert store.renew("o", lease_s=10.0) == 2
        assert store.renew("nobody", lease_s=10.0) == 0
        bound.clock.advance(6.0)
        taken = [store.claim(row_id, owner="q", lease_s=1.0, is_dead=never) for row_id in "abcd"]
        assert [found is not None for found in taken] == [False, False, True, True]

    # -- what is due --------------------------------------------------------------------------------------------------

    def test_the_most_overdue_come_first(self, store: BookedStore, bound: Bound) -> None:
        now = bound.clock.now()
        for row_id, due in (("a", now - 1), ("b", now - 3), ("c", now + 1), ("d", None), ("e", now - 2), ("f", now)):
            store.insert(row(row_id, due_at=due))
        store.insert(row("g", kind="endpoint", due_at=now - 9))

        def claimed(kinds: Sequence[str], before: float, limit: int) -> list[str]:
            found = store.claim_due(kinds, owner="o", lease_s=10.0, is_dead=never, due_before=before, limit=limit)
            assert [store.get(row.id) for row in found] == list(found)
            assert all((row.lease_owner, row.lease_until) == ("o", now + 10.0) for row in found)
            return [row.id for row in found]

        assert claimed(["job"], now - 2, 10) == ["b", "e"]
        assert claimed(["job"], now, 1) == ["a"], "those that are held are passed over"
        assert claimed([], now, 10) == []
        assert claimed(["endpoint", "job"], now, 10) == ["g", "f"]
        assert claimed(["endpoint", "job"], now, 10) == []

    def test_many_rows_are_read_at_once(self, store: BookedStore) -> None:
        for number in range(700):
            store.insert(row(f"r{number:03d}", name=f"n{number}"))
        asked = {f"r{number:03d}" for number in range(600)} | {"absent", "é"}
        found = store.get_many(asked)
        assert found == {row_id: store.get(row_id) for row_id in sorted(asked) if row_id.startswith("r")}
        assert store.get_many([]) == {}

    def test_rows_of_places_elsewhere_are_left_to_others(self, store: BookedStore) -> None:
        for row_id, place in (("a", "local@here"), ("b", "local@there"), ("c", "")):
            store.insert(row(row_id, due_at=1.0, place=place))
        found = store.claim_due(
            ["job"], owner="o", lease_s=9.0, is_dead=never, due_before=2.0, limit=10, elsewhere=["local@there", "x"]
        )
        assert [row.id for row in found] == ["a", "c"]

    def test_what_was_remembered_first_stays(self, bound: Bound, store: BookedStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            told = set(pool.map(lambda number: store.remembered("install", f"id{number}"), range(8)))
        assert len(told) == 1
        assert store.remembered("install", "late") == told.pop()
        assert store.remembered("other", "x") == "x"

    def test_what_a_dead_owner_held_is_due_again_at_once(self, store: BookedStore, bound: Bound) -> None:
        for row_id, owner in (("a", "dead"), ("b", "alive"), ("c", "")):
            store.insert(row(row_id, due_at=1.0), owner=owner, lease_s=10.0)

        def claim(owner: str) -> list[str]:
            found = store.claim_due(
                ["job"], owner=owner, lease_s=10.0, is_dead=lambda o: o == "dead", due_before=2.0, limit=10
            )
            return [row.id for row in found]

        assert claim("o") == ["a", "c"]
        bound.clock.advance(10.0)
        assert sorted(claim("p")) == ["a", "b", "c"]
        assert store.get("a").lease_token == 3

    def test_racing_workers_never_get_the_same_row(self, bound: Bound) -> None:
        first = bound.open()
        for number in range(60):
            first.insert(row(f"{number:02}", due_at=float(number)))
        first.close()
        taken: list[str] = []
        start = threading.Barrier(6, timeout=30.0)

        def work(worker: int) -> None:
            store = bound.open()
            start.wait()
            while True:
                found = store.claim_due(
                    ["job"], owner=f"w{worker}", lease_s=1e6, is_dead=never, due_before=1e9, limit=7
                )
                if not found:
                    break
                taken.extend(row.id for row in found)
            store.close()

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6)))
        # Rows that another was taking at that moment may have been passed over; they are due still.
        left = bound.open()
        found = left.claim_due(["job"], owner="x", lease_s=1.0, is_dead=never, due_before=1e9, limit=100)
        left.close()
        assert sorted([*taken, *(row.id for row in found)]) == [f"{number:02}" for number in range(60)]

    # -- writing ------------------------------------------------------------------------------------------------------

    def test_a_change_is_written_whole(self, store: BookedStore, bound: Bound) -> None:
        mine = store.insert(row(place="x", scopes=("all",), spec={"k": 1}), owner="o", lease_s=10.0)
        bound.clock.advance(1.0)
        now = bound.clock.now()
        wanted = change(due_at=now + 5, ended=True, message="because", level="alarm", postings=(reserve(7),))
        [written] = store.write([Write(row=mine, change=wanted, cause="observe", release=False)], lease_s=20.0)
        assert written == replace(
            mine,
            phase="q",
            state="t",
            data={"n": 1},
            due_at=now + 5,
            updated_at=now,
            ended_at=now,
            lease_until=now + 20.0,
        )
        assert store.get("a") == written
        assert store.history("a") == (
            Transition(mine.created_at, "p", "s", "created", 1, "insert", "info"),
            Transition(now, "q", "t", "because", 1, "observe", "alarm"),
        )
        [line] = store.lines()
        assert (line.at, line.work_id, line.kind_of_work, line.name, line.place) == (now, "a", "job", "n", "x")
        assert line.posting == reserve(7)

    def test_the_end_is_the_first_one(self, store: BookedStore, bound: Bound) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        ended_at = bound.clock.now()
        [mine] = cast(
            "list[Row]", store.write([Write(row=mine, change=change(ended=True), release=False)], lease_s=9.0)
        )
        bound.clock.advance(1.0)
        [mine] = cast(
            "list[Row]", store.write([Write(row=mine, change=change(ended=True), release=False)], lease_s=9.0)
        )
        [mine] = cast("list[Row]", store.write([Write(row=mine, change=change(), release=False)], lease_s=9.0))
        assert mine.ended_at == ended_at
        assert store.get("a") == mine

    def test_history_has_a_line_only_for_what_is_news(self, store: BookedStore) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        steps = [
            change(phase="p", state="s", data={"n": 1}),
            change(phase="p", state="s", data={"n": 2}, message="said"),
            change(phase="q", state="s", data={"n": 2}),
            change(phase="q", state="t", data={"n": 2}),
            change(phase="q", state="t", data={"n": 3}, due_at=1.0),
        ]
        for step in steps:
            [written] = store.write([Write(row=mine, change=step, release=False)], lease_s=10.0)
            assert isinstance(written, Row)
            assert store.get("a") == written
            mine = written
        told = [(line.phase, line.state, line.message) for line in store.history("a")]
        assert told == [("p", "s", "created"), ("p", "s", "said"), ("q", "s", ""), ("q", "t", "")]

    def test_a_message_may_quote_anything(self, store: BookedStore) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        said = "exit 1: \x00\ud800 '%s' :x 模型\n\ttrace"
        [written] = store.write([Write(row=mine, change=change(message=said))], lease_s=10.0)
        assert isinstance(written, Row), "what a program printed must not keep its row from being written"
        told = store.history("a")[-1].message
        assert told.startswith("exit 1: ")
        assert told.endswith("'%s' :x 模型\n\ttrace")

    def test_release_gives_the_lease_back(self, store: BookedStore) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        [written] = store.write([Write(row=mine, change=None)], lease_s=10.0)
        assert written == replace(mine, lease_owner="", lease_until=0.0)
        assert store.get("a") == written
        taken = store.claim("a", owner="p", lease_s=1.0, is_dead=never)
        assert taken is not None
        assert taken.lease_token == 2

    def test_a_lease_that_is_kept_runs_from_now(self, store: BookedStore, bound: Bound) -> None:
        mine = store.insert(row(data={"k": "v"}), owner="o", lease_s=10.0)
        bound.clock.advance(5.0)
        [written] = store.write([Write(row=mine, change=None, release=False)], lease_s=10.0)
        assert written == replace(mine, lease_until=bound.clock.now() + 10.0)
        assert store.get("a") == written

    def test_each_write_stands_alone(self, store: BookedStore) -> None:
        store.set_limit("all", "running", "", 2)
        rows = [store.insert(row(f"{n}", scopes=("all",)), owner="o", lease_s=10.0) for n in range(6)]
        stale = replace(rows[1], lease_token=0)
        unknown = replace(rows[2], id="unknown")
        wanted = change(postings=(reserve(1),))
        writes = [Write(row=found, change=wanted) for found in (rows[5], stale, rows[0], unknown, rows[3])]
        results = store.write([*writes, Write(row=rows[4], change=change())], lease_s=10.0)
        assert [type(result).__name__ for result in results] == [
            "Row", "NoneType", "Row", "NoneType", "BudgetExceeded", "Row",
        ]  # fmt: skip
        assert [store.get(f"{n}").phase for n in range(6)] == ["q", "p", "p", "p", "q", "q"]
        assert [line.work_id for line in store.lines()] == ["5", "0"]
        assert store.get("3") == rows[3], "nothing of what was refused was written, and its lease is held still"

    def test_a_row_may_be_written_twice_in_one_batch(self, store: BookedStore) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        first = Write(row=mine, change=change(phase="q", message="1"), release=False)
        second = Write(row=mine, change=change(phase="r", data={"n": 2}, message="2"))
        results = store.write([first, second], lease_s=10.0)
        assert [result.phase if isinstance(result, Row) else result for result in results] == ["q", "r"]
        assert store.get("a") == results[1]
        assert [line.message for line in store.history("a")] == ["created", "1", "2"]

    # -- wishes -------------------------------------------------------------------------------------------------------

    def test_a_wish_makes_the_row_due_and_only_grows(self, store: BookedStore, bound: Bound) -> None:
        store.insert(row())
        bound.clock.advance(3.0)
        now = bound.clock.now()
        wished = store.wish("a", "stop", reason="too dear")
        assert (wished.wish, wished.due_at, wished.updated_at) == ("stop", now, now)
        assert store.get("a") == wished
        bound.clock.advance(1.0)
        assert store.wish("a", "stop") == wished
        assert store.wish("a", "") == wished
        assert store.wish("a", "delete").wish == "delete"
        assert store.wish("a", "stop").wish == "delete"
        told = [(line.message, line.cause) for line in store.history("a")[1:]]
        assert told == [("stop wanted: too dear", "wish"), ("delete wanted", "wish")]

    def test_a_wish_made_during_a_lease_is_seen_by_its_holder(self, store: BookedStore, bound: Bound) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        wished = store.wish("a", "stop")
        assert wished.lease_token == mine.lease_token, "a wish takes nothing from who works on the row"
        [written] = store.write([Write(row=mine, change=change(due_at=None))], lease_s=10.0)
        assert isinstance(written, Row)
        assert written.wish == "stop"
        assert (written.lease_owner, written.lease_until) == ("o", bound.clock.now() + 10.0), "kept, to go on with it"
        assert store.get("a") == written
        [rested] = store.write([Write(row=written, change=change())], lease_s=10.0)
        assert isinstance(rested, Row)
        assert rested.lease_owner == ""

    def test_a_wish_made_during_a_lease_is_seen_without_a_change_too(self, store: BookedStore) -> None:
        mine = store.insert(row(), owner="o", lease_s=10.0)
        store.wish("a", "delete")
        [written] = store.write([Write(row=mine, change=None)], lease_s=10.0)
        assert isinstance(written, Row)
        assert (written.wish, written.lease_owner, written.due_at) == ("delete", "o", store.get("a").due_at)
        assert store.get("a") == written

    # -- histories ----------------------------------------------------------------------------------------------------

    def test_all_histories_are_one_stream_in_pages(self, store: BookedStore) -> None:
        for number in range(7):
            store.insert(row(f"{number}", name=f"n{number}", kind="job" if number % 2 else "endpoint"))
        store.wish("0", "stop")
        seen: list[Occurrence] = []
        after = 0
        while page := store.occurrences(after=after, limit=3):
            assert len(page) <= 3
            assert [line.seq for line in page] == sorted({line.seq for line in page})
            assert page[0].seq > after
            seen += page
            after = page[-1].seq
        assert [line.work_id for line in seen] == [*"0123456", "0"]
        assert [line.name for line in seen] == [*(f"n{number}" for number in range(7)), "n0"]
        assert seen[0].kind == "endpoint"
        assert [line.transition for line in seen if line.work_id == "0"] == list(store.history("0"))
        assert len(store.occurrences()) == 8

    def test_a_reader_of_the_stream_misses_nothing_that_many_write(self, bound: Bound) -> None:
        written = threading.Event()
        seen: list[str] = []

        def write(worker: int) -> None:
            store = bound.open()
            for number in range(25):
                store.insert(row(f"{worker}-{number}"))
            store.close()

        def follow() -> None:
            store = bound.open()
            after, last_round = 0, False
            while True:
                page = store.occurrences(after=after, limit=10)
                seen.extend(line.work_id for line in page)
                after = page[-1].seq if page else after
                if not page and last_round:
                    break
                last_round = not page and written.is_set()
            store.close()

        with ThreadPoolExecutor(5) as threads:
            follower = threads.submit(follow)
            try:
                list(threads.map(write, range(4)))
            finally:
                written.set()
            follower.result(timeout=60)
        assert len(seen) == len(set(seen)) == 100

    # -- money --------------------------------------------------------------------------------------------------------

    def test_a_reservation_that_a_limit_refuses_writes_nothing(self, store: BookedStore) -> None:
        store.set_limit("user:ann", "cost", "", 10)
        store.insert(row("a", scopes=("all", "user:ann")), postings=[reserve(8)])
        before = store.limits()
        with pytest.raises(BudgetExceeded) as refused:
            store.insert(row("b", scopes=("user:ann",), place="x"), postings=[reserve(3)])
        assert refused.value.resource == "user:ann"
        with pytest.raises(NotFound):
            store.get("b")
        assert (store.history("b"), store.places(), store.limits()) == ((), (), before)
        assert len(store.lines()) == 1
        assert len(store.occurrences()) == len(store.history("a"))
        store.insert(row("c", scopes=("user:bob",)), postings=[reserve(99)])
        store.insert(row("b", scopes=("user:ann",)), postings=[reserve(2)])

    def test_several_lines_count_together(self, store: BookedStore) -> None:
        store.set_limit("all", "cost", "", 10)
        with pytest.raises(BudgetExceeded):
            store.insert(row(scopes=("all",)), postings=[reserve(6), reserve(6)])
        assert store.lines() == ()
        store.insert(row(scopes=("all",)), postings=[reserve(6), reserve(4)])
        assert [line.posting.held for line in store.lines()] == [6, 4]

    def test_money_moves_from_held_to_spent_to_free(self, store: BookedStore) -> None:
        store.set_limit("all", "cost", "", 10)
        store.set_limit("all", "running", "", 1)
        store.set_limit("all", "cost-per-hour", "", 5)
        mine = store.insert(row(scopes=("all",)), owner="o", lease_s=9.0, postings=[reserve(10, hourly=5)])
        accrued = Posting(attempt=1, kind="accrue", held=-4, spent=4)
        settled = Posting(attempt=1, kind="settle", held=-6, running=-1, hourly=-5)
        for posting in (accrued, settled):
            [written] = store.write([Write(row=mine, change=change(postings=(posting,)), release=False)], lease_s=9.0)
            assert isinstance(written, Row)
        taken = {limit.meter: (limit.held, limit.spent) for limit in store.limits()}
        assert taken == {"cost": (0, 4), "running": (0, 0), "cost-per-hour": (0, 0)}
        with pytest.raises(BudgetExceeded, match="spent"):
            store.insert(row("b", scopes=("all",)), postings=[reserve(7)])
        store.insert(row("b", scopes=("all",)), postings=[reserve(6)])

    def test_what_was_spent_is_written_down_over_any_limit(self, store: BookedStore) -> None:
        store.set_limit("all", "cost", "", 1)
        mine = store.insert(row(scopes=("all",)), owner="o", lease_s=9.0)
        spent = Posting(attempt=1, kind="collect", spent=5)
        [written] = store.write([Write(row=mine, change=change(postings=(spent,)))], lease_s=9.0)
        assert isinstance(written, Row)
        assert store.limits()[0].spent == 5

    def test_users_are_warned_once_on_the_way(self, store: BookedStore) -> None:
        store.set_limit("all", "cost", "", 10)
        for row_id, amount in (("a", 7), ("b", 1), ("c", 1)):
            store.insert(row(row_id, scopes=("all",)), postings=[reserve(amount)])
        warned = [line for row_id in "abc" for line in store.history(row_id) if line.level == "warning"]
        assert [(line.cause, line.phase, line.state) for line in warned] == [("budget", "p", "s")]
        assert store.history("b")[1] == warned[0]
        assert "80%" in warned[0].message
        mine = store.insert(row("d"), owner="o", lease_s=9.0)
        assert [line.level for line in store.history("d")] == ["info"]
        store.set_limit("u", "cost", "", 10)
        paying = store.insert(row("e", scopes=("u",)), owner="o", lease_s=9.0)
        wanted = change(message="m", postings=(reserve(9),))
        store.write([Write(row=paying, change=wanted), Write(row=mine, change=change())], lease_s=9.0)
        assert [(line.message, line.level) for line in store.history("e")[1:2]] == [("m", "info")]
        assert store.history("e")[2].level == "warning"

    def test_every_scope_pays_and_the_first_limit_refuses(self, store: BookedStore) -> None:
        for scope, most in (("all", 100), ("project:p", 10), ("user:a", 50)):
            store.set_limit(scope, "cost", "", most)
        store.insert(row("a", scopes=("user:a", "project:p", "all")), postings=[reserve(9)])
        with pytest.raises(BudgetExceeded) as refused:
            store.insert(row("b", scopes=("user:a", "project:p", "all")), postings=[reserve(2)])
        assert refused.value.resource == "project:p"
        assert [(limit.scope, limit.held) for limit in store.limits()] == [("all", 9), ("project:p", 9), ("user:a", 9)]

    def test_a_month_that_begins_is_empty(self, store: BookedStore, bound: Bound) -> None:
        bound.clock.advance(_DAY * 3)
        store.set_limit("all", "cost", "month", 10)
        this = month_of(bound.clock.now())
        mine = store.insert(row("a", scopes=("all",)), owner="o", lease_s=1e9, postings=[reserve(10, month=this)])
        with pytest.raises(BudgetExceeded):
            store.insert(row("b", scopes=("all",)), postings=[reserve(1, month=this)])
        bound.clock.advance(_DAY * 31)
        following = month_of(bound.clock.now())
        [limit] = store.limits()
        assert (limit.month, limit.held, limit.spent) == (following, 0, 0)
        store.insert(row("b", scopes=("all",)), postings=[reserve(4, month=following)])
        late = Posting(attempt=1, kind="settle", held=-10, spent=10, running=-1, month=this)
        store.write([Write(row=mine, change=change(postings=(late,)))], lease_s=9.0)
        [limit] = store.limits()
        assert (limit.month, limit.held, limit.spent) == (following, 4, 0), "the old month paid for it"

    def test_a_new_limit_knows_what_is_taken(self, store: BookedStore, bound: Bound) -> None:
        old, now = "2020-01", month_of(bound.clock.now())
        spent = Posting(attempt=1, kind="accrue", held=-2, spent=2, month=now)
        store.insert(row("a", scopes=("all", "u")), postings=[reserve(5, month=now, hourly=3), spent])
        store.insert(row("b", scopes=("all",)), postings=[reserve(70, month=old)])
        assert store.set_limit("all", "cost", "", 100) == Limit(scope="all", meter="cost", most=100, held=73, spent=2)
        monthly = store.set_limit("all", "cost", "month", 100)
        assert monthly == Limit(scope="all", meter="cost", period="month", most=100, month=now, held=3, spent=2)
        assert store.set_limit("u", "running", "", 9) == Limit(scope="u", meter="running", most=9, held=1)
        assert store.set_limit("u", "cost-per-hour", "", 9) == Limit(scope="u", meter="cost-per-hour", most=9, held=3)
        assert store.set_limit("nobody", "cost", "", 9) == Limit(scope="nobody", meter="cost", most=9)
        shown = [(limit.scope, limit.meter, limit.period) for limit in store.limits()]
        assert shown == sorted(shown)
        assert len(shown) == 5

    def test_a_limit_is_changed_and_removed(self, store: BookedStore) -> None:
        store.set_limit("all", "cost", "", 10)
        store.insert(row("a", scopes=("all",)), postings=[reserve(10)])
        assert store.set_limit("all", "cost", "", 5) == Limit(scope="all", meter="cost", most=5, held=10)
        with pytest.raises(BudgetExceeded):
            store.insert(row("b", scopes=("all",)), postings=[reserve(1)])
        store.set_limit("all", "cost", "", 11)
        store.insert(row("b", scopes=("all",)), postings=[reserve(1)])
        assert store.set_limit("all", "cost", "", None) is None
        assert store.set_limit("all", "cost", "month", None) is None
        assert store.limits() == ()
        store.insert(row("c", scopes=("all",)), postings=[reserve(99)])

    def test_no_reservation_slips_through_while_a_limit_is_made(self, bound: Bound) -> None:
        """Writers post while limits come and go: each has counted every line before it, and meets every one after."""
        start, posted = threading.Barrier(5, timeout=30.0), threading.Event()

        def post(worker: int) -> None:
            store = bound.open()
            start.wait()
            for number in range(15):
                store.insert(row(f"{worker}-{number}", scopes=("all", f"w{worker}")), postings=[reserve(1)])
                posted.wait(0.002)  # else a fast store has posted everything before the first limit is made
            store.close()

        def limit() -> None:
            store = bound.open()
            start.wait()
            while True:
                for scope in ("all", "w0", "w1"):
                    store.set_limit(scope, "cost", "", None)
                    store.set_limit(scope, "cost", "", 1000)
                    if posted.wait(0.005):  # who asks without a pause may starve the others, where one writes at a time
                        store.close()
                        return

        with ThreadPoolExecutor(5) as threads:
            setting = threads.submit(limit)
            try:
                list(threads.map(post, range(4)))
            finally:
                posted.set()
            setting.result(timeout=60)
        store = bound.open()
        sums = {
            scope: sum(scope in store.scopes_of([line.work_id])[line.work_id] for line in store.lines())
            for scope in ("all", "w0", "w1")
        }
        assert sums == {"all": 60, "w0": 15, "w1": 15}
        held = {limit.scope: limit.held for limit in store.limits()}
        assert held == {scope: sums[scope] for scope in held}
        store.close()

    @pytest.mark.parametrize("meter", ["cost", "cost-per-hour", "running"])
    def test_racing_reservations_never_pass_a_limit(self, bound: Bound, meter: Meter) -> None:
        first = bound.open()
        first.set_limit("all", meter, "", 10)
        first.close()
        start = threading.Barrier(6, timeout=30.0)

        def ask(worker: int) -> int:
            store, granted = bound.open(), 0
            start.wait()
            for number in range(5):
                try:
                    posting = reserve(1, hourly=1)
                    store.insert(row(f"{worker}-{number}", scopes=("all",)), postings=[posting])
                    granted += 1
                except BudgetExceeded:
                    pass
            store.close()
            return granted

        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(ask, range(6))) == 10
        store = bound.open()
        assert [limit.held for limit in store.limits()] == [10]
        assert len(store.lines()) == 10
        store.close()

    def test_the_ledger_is_read_in_pages_and_parts(self, store: BookedStore, bound: Bound) -> None:
        began = bound.clock.now()
        for number in range(6):
            store.insert(row(f"{number % 2}-{number}", scopes=("all",)), postings=[reserve(number)])
            bound.clock.advance(1.0)
        everything = store.lines()
        assert [line.posting.held for line in everything] == [0, 1, 2, 3, 4, 5]
        assert store.lines(limit=2) == everything[:2]
        assert store.lines(after=everything[1].seq, limit=2) == everything[2:4]
        assert store.lines(since=began + 3.0) == everything[3:]
        assert store.lines(since=began + 3.0, after=everything[3].seq) == everything[4:]
        assert store.lines(work_id="1-3") == everything[3:4]
        assert store.lines(work_id="1-3", since=began + 4.0) == ()
        assert store.lines(work_id="none") == ()

    # -- size ---------------------------------------------------------------------------------------------------------

    def test_ten_thousand_rows_are_driven_in_batches(self, bound: Bound) -> None:
        store = bound.open()
        size = 500
        for number in range(self.many):
            store.insert(row(f"{number:06}", due_at=1.0, data={"n": number}))
        driven = 0
        while rows := store.claim_due(["job"], owner="o", lease_s=9.0, is_dead=never, due_before=2.0, limit=size):
            assert [row.data["n"] for row in rows] == list(range(driven, driven + len(rows)))
            writes = [Write(row=row, change=change(data=row.data, due_at=9.0)) for row in rows]
            assert all(isinstance(result, Row) for result in store.write(writes, lease_s=9.0))
            driven += len(rows)
        assert driven == self.many
        assert len(store.occurrences(limit=3 * self.many)) == 2 * self.many
        assert len(store.find("job", states=["t"], limit=2 * self.many)) == self.many
        store.close()

    # -- all together -------------------------------------------------------------------------------------------------

    def test_any_sequence_of_calls_does_what_the_reference_does(self, fresh: Fresh) -> None:
        class Compared(_Compared):
            make = staticmethod(fresh)

        phases = [Phase.generate, *([Phase.shrink] if self.shrinks else [])]
        run_state_machine_as_test(
            Compared,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=self.steps,
                deadline=None,
                database=None,
                phases=phases,
                suppress_health_check=list(HealthCheck),
            ),
        )


_IDS = st.sampled_from(["a", "b", "c", "d"])
_OWNERS = st.sampled_from(["o", "p"])
_SCOPES = st.sampled_from([(), ("all",), ("all", "u")])
_SMALL = st.integers(-3, 6)


@st.composite
def _postings(draw: st.DrawFn) -> tuple[Posting, ...]:
    def one() -> Posting:
        kind = draw(st.sampled_from(["reserve", "accrue", "settle", "collect"]))
        return Posting(
            attempt=draw(st.integers(1, 2)),
            kind=cast("Literal['reserve', 'accrue', 'settle', 'collect']", kind),
            held=draw(_SMALL),
            spent=draw(st.integers(0, 4)),
            hourly=draw(_SMALL),
            running=draw(st.sampled_from([-1, 0, 1])),
            month=draw(st.sampled_from(["", "2027-01", "2027-02", "2027-03"])),
        )

    return tuple(one() for _ in range(draw(st.integers(0, 2))))


class _Compared(RuleBasedStateMachine):
    """Every call is made on the store and on the reference, and must answer the same."""

    make: Fresh

    def __init__(self) -> None:
        super().__init__()
        bound = type(self).make()
        self.clock = bound.clock
        self.store = bound.open()
        self.reference = MemoryStore(bound.clock)
        self.seen: list[Row] = []

    def teardown(self) -> None:
        self.store.close()

    def both(self, call: Callable[[BookedStore], Any]) -> Any:
        answers = [_answer(lambda store=store: call(store)) for store in (self.reference, self.store)]  # type: ignore[misc]
        assert answers[1] == answers[0]
        return answers[0]

    @rule(seconds=st.sampled_from([0.25, 2.0, 6.0, 20 * _DAY]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        row_id=_IDS,
        owner=st.sampled_from(["", "o"]),
        scopes=_SCOPES,
        postings=_postings(),
        due=st.sampled_from([None, 0.0, 5.0]),
    )
    def insert(
        self, row_id: str, owner: str, scopes: tuple[str, ...], postings: tuple[Posting, ...], due: float | None
    ) -> None:
        due_at = None if due is None else self.clock.now() - due
        given = row(row_id, scopes=scopes, place=scopes[-1] if scopes else "", due_at=due_at)
        answer = self.both(lambda store: store.insert(given, owner=owner, lease_s=5.0, postings=postings))
        if isinstance(answer, Row):
            self.seen.append(answer)

    @rule(row_id=_IDS, owner=_OWNERS, dead=st.sampled_from(["", "o", "p"]))
    def claim(self, row_id: str, owner: str, dead: str) -> None:
        answer = self.both(lambda store: store.claim(row_id, owner=owner, lease_s=5.0, is_dead=lambda who: who == dead))
        if isinstance(answer, Row):
            self.seen.append(answer)

    @rule(
        owner=_OWNERS, dead=st.sampled_from(["", "o", "p"]), limit=st.integers(1, 5), late=st.sampled_from([0.0, 4.0])
    )
    def claim_due(self, owner: str, dead: str, limit: int, late: float) -> None:
        before = self.clock.now() - late
        self.seen += self.both(
            lambda store: store.claim_due(
                ["job"], owner=owner, lease_s=5.0, is_dead=lambda who: who == dead, due_before=before, limit=limit
            )
        )

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        writes = []
        for _ in range(data.draw(st.integers(1, 3))):
            known = self.seen[-1 - data.draw(st.integers(0, min(3, len(self.seen) - 1)))]
            writes.append(
                Write(
                    row=known,
                    change=data.draw(st.none() | _changes(self.clock.now())),
                    cause=data.draw(st.sampled_from(["", "observe"])),
                    release=data.draw(st.booleans()),
                )
            )
        self.seen += [
            result for result in self.both(lambda store: store.write(writes, lease_s=5.0)) if isinstance(result, Row)
        ]

    @rule(place=st.sampled_from(["all", "u"]))
    def forget_place(self, place: str) -> None:
        self.both(lambda store: store.forget_place(place))

    @rule(owner=_OWNERS)
    def renew(self, owner: str) -> None:
        self.both(lambda store: store.renew(owner, lease_s=5.0))

    @rule(row_id=_IDS, wish=st.sampled_from(["", "stop", "delete"]), reason=st.sampled_from(["", "why"]))
    def wish(self, row_id: str, wish: Wish, reason: str) -> None:
        self.both(lambda store: store.wish(row_id, wish, reason=reason))

    @rule(
        scope=st.sampled_from(["all", "u"]),
        limited=st.sampled_from([("cost", ""), ("cost", "month"), ("cost-per-hour", ""), ("running", "")]),
        most=st.none() | st.integers(1, 12),
    )
    def set_limit(self, scope: str, limited: tuple[Meter, Period], most: int | None) -> None:
        self.both(lambda store: store.set_limit(scope, *limited, most))

    @rule(
        states=st.none() | st.lists(st.sampled_from(["s", "t"]), max_size=2),
        before=st.none() | _IDS,
        limit=st.integers(1, 4),
    )
    def find(self, states: list[str] | None, before: str | None, limit: int) -> None:
        self.both(lambda store: store.find("job", states=states, before=before, limit=limit))
        self.both(lambda store: store.find(None, without_phases=["q"], place="u", before=before, limit=limit))

    @invariant()
    def the_same(self) -> None:
        self.both(lambda store: store.find(None))
        self.both(lambda store: store.limits())
        self.both(lambda store: [replace(line, seq=0) for line in store.lines()])
        self.both(lambda store: [(line.work_id, line.kind, line.name, line.transition) for line in store.occurrences()])
        self.both(lambda store: [store.history(row_id) for row_id in "abcd"])
        self.both(lambda store: sorted(store.places()))
        self.both(lambda store: store.scopes_of(["a", "b", "x"]))


@st.composite
def _changes(draw: st.DrawFn, due: float) -> Change:
    return Change(
        phase=draw(st.sampled_from(["p", "q"])),
        state=draw(st.sampled_from(["s", "t"])),
        data={"n": draw(st.integers(0, 1))},
        due_at=draw(st.sampled_from([None, due, due - 4.0])),
        ended=draw(st.booleans()),
        message=draw(st.sampled_from(["", "m"])),
        level=cast("Literal['info', 'alarm']", draw(st.sampled_from(["info", "alarm"]))),
        postings=draw(_postings()),
    )


def _answer(call: Callable[[], Any]) -> Any:
    """What a call gives, errors and all, in a form that can be compared."""
    try:
        answer = call()
    except ToolboxError as error:
        return type(error), str(error), error.resource
    if isinstance(answer, list):
        return [(type(item), str(item)) if isinstance(item, ToolboxError) else item for item in answer]
    return answer
