"""Many schedules, on as many processes as there are cores, and what they add up to."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context

from ml_toolbox.testing.simulator.product import Product
from ml_toolbox.testing.simulator.simulation import Outcome, Simulation

CHUNK = 250
"""Schedules handed to a process at a time: about a second."""


@dataclass(slots=True)
class Totals:
    """Sums over many schedules."""

    schedules: int = 0
    steps: int = 0
    crashes: int = 0
    pauses: int = 0
    faults: int = 0
    created: int = 0
    strays: int = 0
    by_class: dict[str, int] = field(default_factory=dict)
    strays_by_class: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """Seed, and its violations."""
    labels: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        kind = outcome.profile.kind
        self.schedules += 1
        self.steps += outcome.steps
        self.crashes += outcome.crashes
        self.pauses += outcome.pauses
        self.faults += outcome.faults
        self.created += outcome.created
        self.strays += outcome.strays
        self.by_class[kind] = self.by_class.get(kind, 0) + 1
        self.strays_by_class[kind] = self.strays_by_class.get(kind, 0) + outcome.strays
        self.labels |= outcome.labels
        if outcome.violations:
            self.failures.append((outcome.seed, tuple(map(str, outcome.violations))))

    def merge(self, other: Totals) -> None:
        for name in ("schedules", "steps", "crashes", "pauses", "faults", "created", "strays"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.by_class, other.by_class), (self.strays_by_class, other.strays_by_class)):
            for kind, number in theirs.items():
                mine[kind] = mine.get(kind, 0) + number
        self.failures += other.failures
        self.labels |= other.labels

    def __str__(self) -> str:
        return (
            f"{self.schedules:,} schedules, {self.steps:,} steps, {self.crashes:,} crashes, {self.pauses:,} pauses, "
            f"{self.faults:,} faults, {self.created:,} resources, {self.strays:,} strays collected, "
            f"{len(self.failures):,} with violations"
        )


def run_here(
    seeds: Iterable[int], product: Callable[[], Product], *, until: Callable[[Totals], bool] | None = None
) -> Totals:
    """Run these seeds in this process; ``until`` may end it early."""
    totals = Totals()
    for seed in seeds:
        totals.add(Simulation(seed, product()).run())
        if until is not None and until(totals):
            break
    return totals


def run_many(
    seeds: Iterable[int],
    product: Callable[[], Product],
    *,
    processes: int | None = None,
    progress: Callable[[Totals], None] = lambda _: None,
    most_failures: int = 20,
) -> Totals:
    """Run these seeds on all cores. Ends early once ``most_failures`` schedules have failed.

    Args:
        product: makes the features under test; must be importable by name, since it goes to other processes.
    """
    totals, chunks = Totals(), _chunks(seeds)
    processes = processes or os.cpu_count() or 1
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_settle) as pool:
        waiting = {pool.submit(run_here, chunk, product) for chunk in islice(chunks, processes * 2)}
        while waiting:
            done = next(as_completed(waiting))
            waiting.remove(done)
            totals.merge(done.result())
            progress(totals)
            if len(totals.failures) >= most_failures:
                for future in waiting:
                    future.cancel()
                break
            if chunk := next(chunks, None):
                waiting.add(pool.submit(run_here, chunk, product))
    return totals


def _settle() -> None:
    """A schedule's leavings are mostly free of cycles: looking for them seldom saves a tenth of the time."""
    gc.set_threshold(100_000, 20, 20)


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(seeds)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def commit() -> str:
    """The sources' commit, with a plus when they were changed since. With the seed, it names a schedule."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
