"""The conformance suite of the port ``MetricSink``. Bind it with one fixture::

    class TestMySink(MetricSinkTests):
        @pytest.fixture
        def fresh(self, tmp_path: Path) -> Callable[[], Bound]:
            def bound() -> Bound:
                ...  # an empty place nobody else uses
                return Bound(sink=..., again=lambda: ...)
            return bound

What a sink declares lacking must refuse with that reason; what it does not declare must work. Requires pytest and
Hypothesis.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.ports.metrics import CAPABILITIES, MetricPoint, MetricSink

START = 1_800_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One empty place."""

    sink: MetricSink
    again: Callable[[], MetricSink]
    """Opens the same place once more, as another process would."""


Fresh = Callable[[], Bound]


def check_capability(sink: MetricSink, capability: str, use: Callable[[], Any]) -> bool:
    """Whether the sink has the capability. Declared lacking: ``use`` must refuse with the declared reason."""
    if capability not in sink.lacks:
        return True
    with pytest.raises(Unsupported) as caught:
        use()
    assert sink.lacks[capability].reason in str(caught.value), f"{capability} is refused without its declared reason"
    return False


def _loss(value: float, at: float = START, step: int | None = None, **dimensions: str) -> MetricPoint:
    return MetricPoint("loss", value, at, dimensions, step)


class MetricSinkTests:
    """Every promise of the port, once."""

    start: ClassVar[float] = START
    """Time of the points; a sink that lacks ``backfill`` sets a recent one."""
    writers: ClassVar[int] = 8
    examples: ClassVar[int] = 15
    """Runs of the state machine."""

    @pytest.fixture
    def fresh(self) -> Fresh:
        raise NotImplementedError("bind the suite: return a function that gives an empty place")

    @pytest.fixture
    def readable(self, fresh: Fresh) -> Bound:
        """A place that answers queries, for the tests that read back what they wrote."""
        bound = fresh()
        if not check_capability(bound.sink, "query", lambda: bound.sink.query("loss")):
            pytest.skip(f"declared lacking: {bound.sink.lacks['query'].reason}")
        return bound

    def test_the_sink_has_the_ports_shape(self, fresh: Fresh) -> None:
        sink = fresh().sink
        assert isinstance(sink, MetricSink)
        assert set(sink.lacks) <= set(CAPABILITIES)

    def test_what_is_recorded_is_read_by_every_client(self, readable: Bound) -> None:
        point = MetricPoint("loss", 0.25, self.start, step=7)
        readable.sink.record([point])
        assert readable.sink.query("loss") == (point,)
        assert readable.again().query("loss") == (point,)

    @pytest.mark.parametrize("value", [0.0, -1.5, 1e308, 5e-324, 0.1 + 0.2, 123456789.123456789])
    def test_every_finite_value_comes_back_exactly(self, readable: Bound, value: float) -> None:
        readable.sink.record([MetricPoint("loss", value, self.start)])
        assert [point.value for point in readable.sink.query("loss")] == [value]

    def test_absence_and_an_empty_record_are_silent(self, readable: Bound) -> None:
        assert readable.sink.query("loss") == ()
        readable.sink.record([])
        readable.sink.record(iter(()))
        assert readable.sink.query("loss") == ()

    def test_written_twice_is_kept_twice(self, readable: Bound) -> None:
        point = MetricPoint("loss", 0.5, self.start)
        readable.sink.record([point])
        readable.sink.record([point, point])
        assert readable.sink.query("loss") == (point,) * 3

    def test_points_come_by_time_then_in_the_order_of_writing(self, readable: Bound) -> None:
        late, tie = self.start + 1, self.start
        readable.sink.record([_loss(1, late), _loss(2, tie, step=3)])
        readable.sink.record([_loss(3, tie, step=2), _loss(4, tie, step=1)])
        readable.again().record([_loss(5, tie), _loss(6, late)])
        assert [point.value for point in readable.sink.query("loss")] == [2, 3, 4, 5, 1, 6]

    def test_a_query_keeps_to_its_half_open_time(self, readable: Bound) -> None:
        readable.sink.record([_loss(n, self.start + n) for n in range(5)])
        found = readable.sink.query("loss", since=self.start + 1, until=self.start + 3)
        assert [point.value for point in found] == [1, 2]
        assert readable.sink.query("loss", since=self.start + 3, until=self.start + 3) == ()
        assert len(readable.sink.query("loss", since=self.start)) == 5

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_refused_and_nothing_of_its_call_is_kept(self, fresh: Fresh, value: float) -> None:
        sink = fresh().sink
        with pytest.raises(Invalid) as caught:
            sink.record([_loss(1, self.start), MetricPoint("accuracy", value, self.start), _loss(2, self.start)])
        assert caught.value.field == "value"
        assert "accuracy" in str(caught.value), "the error does not name the metric"
        if "query" not in sink.lacks:
            assert sink.query("loss") == ()
            assert sink.query("accuracy") == ()

    def test_points_that_fail_to_come_leave_nothing(self, readable: Bound) -> None:
        def broken() -> Iterator[MetricPoint]:
            yield _loss(1, self.start)
            raise LookupError("the source broke")

        with pytest.raises(LookupError):
            readable.sink.record(broken())
        assert readable.sink.query("loss") == ()

    def test_dimensions_tell_series_apart_and_select_them(self, fresh: Fresh) -> None:
        bound = fresh()
        sink = bound.sink
        mine = MetricPoint("loss", 1.0, self.start, {"job": "a", "rank": "0"})
        other = MetricPoint("loss", 2.0, self.start, {"job": "b"})
        if not check_capability(sink, "dimensions", lambda: sink.record([mine])) or "query" in sink.lacks:
            return
        sink.record([mine, other])
        assert sink.query("loss", dimensions={"job": "a"}) == (mine,)
        assert sink.query("loss", dimensions={"rank": "0", "job": "a"}) == (mine,)
        assert sink.query("loss", dimensions={"job": "a", "rank": "1"}) == ()
        assert sink.query("loss", dimensions={"other": "a"}) == ()
        assert sink.query("loss") == (mine, other)
        assert sink.query("accuracy", dimensions={"job": "a"}) == ()

    @pytest.mark.parametrize("name", ["train/loss", "../up", "日本語", "a b", "x" * 300, "CON", "%2e%2e", "."])
    def test_names_are_any_text(self, readable: Bound, name: str) -> None:
        readable.sink.record([MetricPoint(name, 1.0, self.start)])
        assert [point.name for point in readable.again().query(name)] == [name]
        assert readable.sink.query(name + "x") == ()

    def test_old_points_can_be_filled_in(self, fresh: Fresh) -> None:
        sink = fresh().sink
        old = MetricPoint("loss", 1.0, 86_400.0)
        if check_capability(sink, "backfill", lambda: sink.record([old])) and "query" not in sink.lacks:
            sink.record([_loss(2, self.start)])
            sink.record([old])
            assert [point.value for point in sink.query("loss")] == [1.0, 2.0]

    def test_many_writers_lose_nothing_and_each_keeps_its_order(self, readable: Bound) -> None:
        gate = threading.Barrier(self.writers)
        each = 10

        def write(writer: int) -> None:
            sink = readable.again()
            gate.wait()
            for number in range(each):
                sink.record([_loss(writer * each + number, self.start, step=writer), _loss(-1, self.start, step=-1)])

        with ThreadPoolExecutor(self.writers) as pool:
            list(pool.map(write, range(self.writers)))
        found = readable.sink.query("loss")
        assert len(found) == 2 * each * self.writers
        for writer in range(self.writers):
            own = [point.value for point in found if point.step == writer]
            assert own == [writer * each + number for number in range(each)]

    def test_it_behaves_like_a_sorted_list(self, fresh: Fresh) -> None:
        first = fresh().sink
        if {"query", "dimensions"} & set(first.lacks):
            pytest.skip("declared lacking: query or dimensions")
        start = self.start
        points = st.builds(
            lambda name, value, at, job, step: MetricPoint(name, value, start + at, {"job": job}, step),
            st.sampled_from(["loss", "accuracy"]),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(0, 3),
            st.sampled_from("ab"),
            st.none() | st.integers(-(2**31), 2**31),
        )

        class Machine(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.bound = fresh()
                self.model: list[MetricPoint] = []

            @rule(batch=st.lists(points, max_size=4))
            def record(self, batch: list[MetricPoint]) -> None:
                self.bound.sink.record(batch)
                self.model.extend(batch)

            @rule()
            def reopen(self) -> None:
                self.bound = Bound(sink=self.bound.again(), again=self.bound.again)

            @invariant()
            def agrees(self) -> None:
                for name in ("loss", "accuracy"):
                    for wanted in ({}, {"job": "a"}):
                        expected = sorted(
                            (p for p in self.model if p.name == name and wanted.items() <= p.dimensions.items()),
                            key=lambda point: point.at,
                        )
                        assert self.bound.sink.query(name, dimensions=wanted) == tuple(expected)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=10,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
