"""Prometheus text exposition, made for a hot path: recording is an append, arithmetic happens at the scrape."""

from __future__ import annotations

import os
import resource
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

LATENCY_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
SIZE_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16384.0)
_FOLD_AT: Final = 4096


class Histogram:
    """Observations in fixed buckets. ``observe`` only appends; every 4,096 values are folded into the counts."""

    __slots__ = ("_buckets", "_counts", "_fresh", "_sum")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._fresh: list[float] = []
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._fresh.append(value)
        if len(self._fresh) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        counts, buckets = self._counts, self._buckets
        for value in self._fresh:
            counts[bisect_left(buckets, value)] += 1
        self._sum += sum(self._fresh)
        self._fresh.clear()

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Cumulative buckets, sum and count, as the exposition format asks."""
        self._fold()
        below = 0
        for bound, count in zip(self._buckets, self._counts, strict=False):
            below += count
            yield f'{name}_bucket{{{labels},le="{bound:g}"}} {below}'
        total = below + self._counts[-1]
        yield f'{name}_bucket{{{labels},le="+Inf"}} {total}'
        yield f"{name}_sum{{{labels}}} {self._sum!r}"
        yield f"{name}_count{{{labels}}} {total}"


class VariantMetrics:
    """What is counted for one variant. Outlives a reload that only changes weights."""

    __slots__ = ("batch_requests", "batch_rows", "by_code", "labels", "latency", "ok", "queued_rows")

    def __init__(self, *, model: str, variant: str, version: str, replica: str) -> None:
        self.labels = labels(model=model, version=version, variant=variant, replica=replica)
        self.ok = 0
        self.by_code: dict[int, int] = {}
        """Answers other than 200."""
        self.latency = Histogram(LATENCY_BUCKETS)
        self.batch_rows = Histogram(SIZE_BUCKETS)
        self.batch_requests = Histogram(SIZE_BUCKETS)
        self.queued_rows = 0

    def count(self, code: int) -> None:
        self.by_code[code] = self.by_code.get(code, 0) + 1


def labels(**values: str) -> str:
    """``name="value"`` pairs, escaped as the exposition format asks."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(
    variants: Iterable[VariantMetrics],
    *,
    weights: Mapping[str, float],
    other: Mapping[int, int],
    gauges: Mapping[str, float],
) -> bytes:
    """The whole page. ``weights`` by label set; ``other``: answers that reached no variant, by status."""
    variants = list(variants)
    out: list[str] = []
    _family(out, "mlt_requests_total", "counter", "Answers by status code.")
    for metrics in variants:
        for code, count in sorted({200: metrics.ok, **metrics.by_code}.items()):
            out.append(f'mlt_requests_total{{{metrics.labels},code="{code}"}} {count}')
    for code, count in sorted(other.items()):
        out.append(f'mlt_requests_total{{model="",version="",variant="",replica="",code="{code}"}} {count}')
    _family(out, "mlt_request_duration_seconds", "histogram", "From the last byte read of a request to its answer.")
    for metrics in variants:
        out.extend(metrics.latency.lines("mlt_request_duration_seconds", metrics.labels))
    _family(out, "mlt_batch_rows", "histogram", "Rows in one call of the model.")
    for metrics in variants:
        out.extend(metrics.batch_rows.lines("mlt_batch_rows", metrics.labels))
    _family(out, "mlt_batch_requests", "histogram", "Requests answered by one call of the model.")
    for metrics in variants:
        out.extend(metrics.batch_requests.lines("mlt_batch_requests", metrics.labels))
    _family(out, "mlt_queue_rows", "gauge", "Rows waiting for the model.")
    out.extend(f"mlt_queue_rows{{{metrics.labels}}} {metrics.queued_rows}" for metrics in variants)
    _family(out, "mlt_variant_weight", "gauge", "Share of traffic asked for, in percent.")
    out.extend(f"mlt_variant_weight{{{label}}} {weight:g}" for label, weight in weights.items())
    for name, value in {**gauges, **process_gauges()}.items():
        _family(out, name, "counter" if name.endswith("_total") else "gauge", name.replace("_", " ") + ".")
        out.append(f"{name} {value!r}")
    return ("\n".join(out) + "\n").encode()


def _family(out: list[str], name: str, kind: str, text: str) -> None:
    out.append(f"# HELP {name} {text}")
    out.append(f"# TYPE {name} {kind}")


def process_gauges() -> dict[str, float]:
    """CPU time, resident memory and open files of this process, under the names every Prometheus client uses."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    gauges = {"process_cpu_seconds_total": usage.ru_utime + usage.ru_stime, "process_time_seconds": time.time()}
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            gauges["process_resident_memory_bytes"] = float(int(statm.read().split()[1]) * resource.getpagesize())
        gauges["process_open_fds"] = float(len(os.listdir("/proc/self/fd")))
    except OSError:  # not Linux: the two gauges are left out
        return gauges
    return gauges
