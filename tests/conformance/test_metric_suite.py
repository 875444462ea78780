"""The metric suite itself: an honest sink passes, and every lie is caught by the test that is about it."""

from __future__ import annotations

import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.ports.lacks import Lacks, refuse
from ml_toolbox.ports.metrics import MetricPoint, MetricSink
from ml_toolbox.testing.metrics import Bound, Fresh, MetricSinkTests

Place = list[MetricPoint]


class Honest:
    """Everything the port promises, in a list."""

    lacks: Mapping[str, Lacks] = {}

    def __init__(self, place: Place) -> None:
        self._place = place

    def record(self, points: Iterable[MetricPoint]) -> None:
        batch = list(points)
        for point in batch:
            if not math.isfinite(point.value):
                raise Invalid(f"value of {point.name} is not finite", field="value")
        self._keep(batch)

    def _keep(self, batch: list[MetricPoint]) -> None:
        self._place.extend(batch)

    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, since: float = 0.0, until: float | None = None
    ) -> tuple[MetricPoint, ...]:
        wanted = (dimensions or {}).items()
        end = math.inf if until is None else until
        found = [p for p in self._place if p.name == name and wanted <= p.dimensions.items() and since <= p.at < end]
        return tuple(sorted(found, key=lambda point: point.at))


class WriteOnly(Honest):
    lacks: Mapping[str, Lacks] = {"query": Lacks("never", "it is a pipe")}

    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, since: float = 0.0, until: float | None = None
    ) -> tuple[MetricPoint, ...]:
        refuse(self.lacks, "query", who="write-only")


class Plain(Honest):
    """Knows no dimensions and no past, and says so."""

    lacks: Mapping[str, Lacks] = {
        "dimensions": Lacks("never", "a series is only a name"),
        "backfill": Lacks("never", "points older than two weeks are dropped"),
    }

    def _keep(self, batch: list[MetricPoint]) -> None:
        for point in batch:
            if point.dimensions:
                refuse(self.lacks, "dimensions", who="plain")
            if point.at < 1_000_000:
                refuse(self.lacks, "backfill", who="plain")
        super()._keep(batch)


def bind(kind: type[Honest]) -> Fresh:
    def fresh() -> Bound:
        place: Place = []
        return Bound(sink=kind(place), again=lambda: kind(place))

    return fresh


class TestHonest(MetricSinkTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(Honest)


class TestWriteOnly(MetricSinkTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(WriteOnly)


class TestPlain(MetricSinkTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(Plain)


class Drops(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        super()._keep(batch[:3])


class Deduplicates(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        super()._keep([point for point in batch if point not in self._place])


class Reorders(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        super()._keep(sorted(batch, key=lambda point: (point.at, point.step or 0)))


class KeepsTheOrderOfWritingOnly(Honest):
    def query(self, name: str, **options: Any) -> tuple[MetricPoint, ...]:
        found = super().query(name, **options)
        return tuple(point for point in self._place if point in found)


class AcceptsNan(Honest):
    def record(self, points: Iterable[MetricPoint]) -> None:
        self._keep(list(points))


class KeepsHalf(Honest):
    def record(self, points: Iterable[MetricPoint]) -> None:
        for point in points:
            super().record([point])


class Rounds(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        with np.errstate(over="ignore"):
            super()._keep([replace(point, value=float(np.float32(point.value))) for point in batch])


class LosesSteps(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        super()._keep([replace(point, step=None) for point in batch])


class ClosesTheInterval(Honest):
    def query(self, name: str, *, until: float | None = None, **options: Any) -> tuple[MetricPoint, ...]:
        return super().query(name, until=None if until is None else until + 0.5, **options)


class WantsAllDimensions(Honest):
    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[MetricPoint, ...]:
        found = super().query(name, dimensions=dimensions, **options)
        return tuple(point for point in found if dimensions is None or dict(point.dimensions) == dict(dimensions))


class IgnoresDimensions(Honest):
    def query(self, name: str, *, dimensions: object = None, **options: Any) -> tuple[MetricPoint, ...]:
        return super().query(name, **options)


class MixesNames(Honest):
    def query(self, name: str, **options: Any) -> tuple[MetricPoint, ...]:
        return tuple(p for p in self._place if p.name.startswith(name[:4])) if name.startswith("../") else super().query(
            name, **options
        )  # fmt: skip


class ForgetsEverything(Honest):
    def __init__(self, place: Place) -> None:
        super().__init__([])


class Racy(Honest):
    def _keep(self, batch: list[MetricPoint]) -> None:
        before = list(self._place)
        time.sleep(0.001)
        self._place[:] = [*before, *batch]


class QuietlyAnswersQueries(WriteOnly):
    def query(self, name: str, **options: Any) -> tuple[MetricPoint, ...]:
        return Honest.query(self, name, **options)


class QuietlyFillsIn(Plain):
    def _keep(self, batch: list[MetricPoint]) -> None:
        Honest._keep(self, batch)


class RefusesWithoutItsReason(WriteOnly):
    def query(self, name: str, **options: Any) -> tuple[MetricPoint, ...]:
        refuse({"query": Lacks("never", "no")}, "query", who="write-only")


class InventsACapability(Honest):
    lacks: Mapping[str, Lacks] = {"telepathy": Lacks("never", "no")}


LIARS: list[tuple[type[Honest], str]] = [
    (Drops, "test_a_query_keeps_to_its_half_open_time"),
    (Drops, "test_it_behaves_like_a_sorted_list"),
    (Deduplicates, "test_written_twice_is_kept_twice"),
    (Reorders, "test_points_come_by_time_then_in_the_order_of_writing"),
    (KeepsTheOrderOfWritingOnly, "test_points_come_by_time_then_in_the_order_of_writing"),
    (AcceptsNan, "test_what_is_not_finite_is_refused_and_nothing_of_its_call_is_kept"),
    (KeepsHalf, "test_what_is_not_finite_is_refused_and_nothing_of_its_call_is_kept"),
    (KeepsHalf, "test_points_that_fail_to_come_leave_nothing"),
    (Rounds, "test_every_finite_value_comes_back_exactly"),
    (LosesSteps, "test_what_is_recorded_is_read_by_every_client"),
    (ClosesTheInterval, "test_a_query_keeps_to_its_half_open_time"),
    (WantsAllDimensions, "test_dimensions_tell_series_apart_and_select_them"),
    (IgnoresDimensions, "test_dimensions_tell_series_apart_and_select_them"),
    (MixesNames, "test_names_are_any_text"),
    (ForgetsEverything, "test_what_is_recorded_is_read_by_every_client"),
    (Racy, "test_many_writers_lose_nothing_and_each_keeps_its_order"),
    (QuietlyAnswersQueries, "readable"),
    (QuietlyFillsIn, "test_old_points_can_be_filled_in"),
    (QuietlyFillsIn, "test_dimensions_tell_series_apart_and_select_them"),
    (RefusesWithoutItsReason, "readable"),
    (InventsACapability, "test_the_sink_has_the_ports_shape"),
]


def calls_of(test: Callable[..., None], **fixtures: Any) -> Iterator[dict[str, Any]]:
    """The arguments of every case of a test, as pytest would make them."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    names = [mark.args[0] for mark in marks]
    wanted = {name: value for name, value in fixtures.items() if name in inspect.signature(test).parameters}
    for values in itertools.product(*(mark.args[1] for mark in marks)):
        yield {**wanted, **dict(zip(names, values, strict=True))}


def readable_of(suite: MetricSinkTests, fresh: Fresh) -> Bound:
    """What the suite's own fixture gives, its check included."""
    fixture: Any = MetricSinkTests.readable
    bound: Bound = fixture.__wrapped__(suite, fresh)
    return bound


@pytest.mark.parametrize(("liar", "test"), LIARS, ids=lambda value: getattr(value, "__name__", value))
def test_a_lie_is_caught(liar: type[Honest], test: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_all_cases(test, liar)


def run_all_cases(name: str, kind: type[Honest]) -> None:
    """All cases of a test of the suite; ``readable`` is its fixture, which checks a declared lack by itself."""
    suite = MetricSinkTests()
    if name == "readable":
        readable_of(suite, bind(kind))
        return
    test = getattr(suite, name)
    for arguments in calls_of(test, fresh=bind(kind), readable=None):
        test(**{**arguments, **({"readable": readable_of(suite, bind(kind))} if "readable" in arguments else {})})


def test_the_fakes_are_sinks_in_shape() -> None:
    assert all(isinstance(liar([]), MetricSink) for liar, _ in LIARS)
