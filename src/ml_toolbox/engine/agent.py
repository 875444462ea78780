"""The loop that goes on by itself: drives what is due, compares what exists with what is known, stops what is not paid for.

The commands of one machine do the same in passing; an agent does it when nobody looks. Any number may run on one store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.engine.collection import EVERY_S, Collector, Comparison, StoreWithBooks
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.overdraft import Holder, to_stop
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.workflow import Workflow

IDLE_S = 0.5
"""Pause after a round in which nothing was due, and the time for which a round waits for what is under way."""
BUDGETS_S = 5.0
"""How often budgets that were lowered are enforced on what already runs."""


class HoldsMoney(Workflow, Protocol):
    """A workflow that knows what its rows hold."""

    def held(self, row: Row) -> int:
        """Micro-dollars reserved for what exists and not spent yet. Pure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round did."""

    driven: int
    stopped: int
    comparison: Comparison | None = None
    """When it was time for one."""


class Agent:
    """One process's share of the loop."""

    def __init__(
        self,
        store: StoreWithBooks,
        runner: Runner,
        workflows: Sequence[HoldsMoney],
        collector: Collector,
        *,
        executor: Executor | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._store = store
        self._runner = runner
        self._workflows = {workflow.kind: workflow for workflow in workflows}
        self._collector = collector
        self._executor = executor
        self._every_s = every_s
        self._compared_at = float("-inf")
        self._budgets_at = float("-inf")

    def round(self) -> Round:
        """Everything that is to be done now, once."""
        now = self._store.now()
        stopped = 0
        if now - self._budgets_at >= BUDGETS_S:
            self._budgets_at = now
            stopped = self.enforce_budgets()
        driven = self._runner.tick(executor=self._executor, linger_s=IDLE_S)
        comparison = None
        if now - self._compared_at >= self._every_s:
            self._compared_at = now
            comparison = self._collector.collect()
        return Round(driven=driven, stopped=stopped, comparison=comparison)

    def run(
        self,
        stop: threading.Event,
        *,
        on_round: Callable[[Round], None] = lambda _: None,
        on_error: Callable[[ToolboxError], None] = lambda _: None,
    ) -> None:
        """Rounds until ``stop`` is set; then what is under way is waited for. A store that cannot be reached is waited for as
        well: what is under way is on record."""
        while not stop.is_set():
            try:
                done = self.round()
            except ToolboxError as error:
                on_error(error)
                stop.wait(5.0)
                continue
            on_round(done)
            if not done.driven and not self._runner.under_way:
                stop.wait(IDLE_S)
        if self._executor is not None:
            self._runner.finish(self._executor)

    def enforce_budgets(self) -> int:
        """Wish the stop of what budgets, lowered since, no longer pay for. Returns how many were wished."""
        reasons = self.overdrawn(self._store.limits())
        for row_id, reason in reasons.items():
            self._store.wish(row_id, "stop", reason=reason)
        return len(reasons)

    def overdrawn(self, limits: Iterable[Limit]) -> dict[str, str]:
        """Ids of the rows that such limits would stop, and why. Changes nothing."""
        over = [limit for limit in limits if limit.meter == "cost" and limit.taken > limit.most]
        if not over:
            return {}
        rows = (row for kind in self._workflows for row in self._store.find(kind, limit=100_000))
        holders = [Holder(row, self._workflows[row.kind].held(row)) for row in rows if row.ended_at is None]
        return to_stop(over, holders)
