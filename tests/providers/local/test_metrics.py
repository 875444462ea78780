"""The local metric sink: the port's promises, and that a record is whole or absent whenever its writer is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.ports.metrics import MetricPoint
from ml_toolbox.providers.local import metrics
from ml_toolbox.providers.local.metrics import LocalMetricSink
from ml_toolbox.testing.metrics import Bound, Fresh, MetricSinkTests

AT = 1_800_000_000.0


class TestLocalMetrics(MetricSinkTests):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Fresh:
        places = iter(range(10_000))

        def bound() -> Bound:
            folder = tmp_path / f"place-{next(places)}"
            return Bound(sink=LocalMetricSink(folder), again=lambda: LocalMetricSink(folder))

        return bound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


@pytest.fixture
def sink(folder: Path) -> LocalMetricSink:
    return LocalMetricSink(folder)


def pair(value: float) -> list[MetricPoint]:
    return [MetricPoint("loss", value, AT), MetricPoint("accuracy", value, AT)]


def values(sink: LocalMetricSink, name: str) -> list[float]:
    return [point.value for point in sink.query(name)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


@pytest.mark.parametrize("keep", range(0, 60, 7))
def test_a_torn_tail_is_ignored_and_then_repaired(sink: LocalMetricSink, folder: Path, keep: int) -> None:
    sink.record([MetricPoint("loss", 1.0, AT)])
    [path] = files(folder)
    whole = path.read_bytes()
    sink.record([MetricPoint("loss", 2.0, AT)])
    tail = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + tail[: min(keep, len(tail) - 1)])
    assert values(sink, "loss") == [1.0]
    sink.record([MetricPoint("loss", 3.0, AT)])
    assert values(LocalMetricSink(folder), "loss") == [1.0, 3.0]


def test_a_file_torn_in_its_first_line_starts_anew(sink: LocalMetricSink, folder: Path) -> None:
    sink.record([MetricPoint("loss", 1.0, AT, {"job": "a"})])
    [path] = files(folder)
    path.write_bytes(path.read_bytes()[:5])
    assert values(sink, "loss") == []
    sink.record([MetricPoint("loss", 2.0, AT, {"job": "a"})])
    assert sink.query("loss", dimensions={"job": "a"}) == (MetricPoint("loss", 2.0, AT, {"job": "a"}),)


def test_a_record_over_two_series_that_breaks_between_them_is_undone(
    sink: LocalMetricSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.record(pair(1.0))
    append = metrics._append
    calls = iter(range(10))

    def full(path: Path, data: bytes) -> None:
        if next(calls) == 1:
            append(path, data[:4])
            raise OSError(28, "No space left on device")
        append(path, data)

    monkeypatch.setattr(metrics, "_append", full)
    with pytest.raises(OSError, match="No space"):
        sink.record(pair(2.0))
    monkeypatch.undo()
    assert (values(sink, "loss"), values(sink, "accuracy")) == ([1.0], [1.0])
    sink.record(pair(3.0))
    assert (values(sink, "loss"), values(sink, "accuracy")) == ([1.0, 3.0], [1.0, 3.0])


def test_the_order_of_writing_survives_a_clock_set_back(sink: LocalMetricSink, monkeypatch: pytest.MonkeyPatch) -> None:
    sink.record([MetricPoint("loss", 1.0, AT, {"job": "a"})])
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    sink.record([MetricPoint("loss", 2.0, AT, {"job": "b"})])
    sink.record([MetricPoint("loss", 3.0, AT, {"job": "a"})])
    assert values(sink, "loss") == [1.0, 2.0, 3.0]


def test_numpy_numbers_are_numbers(sink: LocalMetricSink) -> None:
    sink.record([MetricPoint("loss", np.float32(0.5), AT), MetricPoint("loss", np.int64(2), AT)])  # type: ignore[arg-type]
    assert values(sink, "loss") == [0.5, 2.0]


@pytest.mark.parametrize(
    ("point", "field"),
    [
        (MetricPoint("", 1.0, AT), "name"),
        (MetricPoint("a\ud800", 1.0, AT), "name"),
        (MetricPoint("a", "1.0", AT), "value"),  # type: ignore[arg-type]
        (MetricPoint("a", True, AT), "value"),
        (MetricPoint("a", 10**400, AT), "value"),
        (MetricPoint("a", 1.0, float("nan")), "at"),
        (MetricPoint("a", 1.0, AT, {"job": 1}), "dimensions"),  # type: ignore[dict-item]
        (MetricPoint("a", 1.0, AT, step=1.5), "step"),  # type: ignore[arg-type]
    ],
)
def test_a_point_that_is_none_is_refused_by_field(sink: LocalMetricSink, point: MetricPoint, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        sink.record([point])
    assert caught.value.field == field


def _record_for_ever(folder: str, told: str, start: int) -> None:
    sink = LocalMetricSink(Path(folder))
    number = start
    while True:
        sink.record(pair(number))
        with open(told, "a") as file:
            file.write(f"{number}\n")
        number += 1


def test_kill_9_in_the_middle_leaves_both_series_or_neither(folder: Path, tmp_path: Path) -> None:
    """Three writers are killed one after the other at arbitrary moments, a fourth at the same time goes on."""
    context = multiprocessing.get_context("spawn")
    promised: list[float] = []
    for turn in range(3):
        told = tmp_path / f"told-{turn}"
        process = context.Process(target=_record_for_ever, args=(str(folder), str(told), turn * 100_000))
        process.start()
        deadline = time.monotonic() + 30
        while not (told.exists() and told.read_text().count("\n") >= 5 + turn):
            assert time.monotonic() < deadline, "the writer never came so far"
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        promised += [float(line) for line in told.read_text().split("\n")[:-1]]
        LocalMetricSink(folder).record(pair(-1.0 - turn))
    sink = LocalMetricSink(folder)
    loss, accuracy = values(sink, "loss"), values(sink, "accuracy")
    assert loss == accuracy, "one series has what the other has not"
    assert max(Counter(loss).values()) == 1
    assert set(promised) <= set(loss), "a record that had returned was lost"
