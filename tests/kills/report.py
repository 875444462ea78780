"""What one run tries, and what is told about it afterwards."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from ml_toolbox.testing.simulator.invariants import Violation
from tests.kills.setting import Class


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried."""

    seed: int
    state: str
    """``sqlite`` or ``postgres``."""
    kind: Class
    workers: int
    elsewhere: bool = False
    workflows: int = 200
    kills: int = 20
    stops: int = 5

    @property
    def name(self) -> str:
        hosts = " on two hosts" if self.elsewhere else ""
        return (
            f"{self.state}, class {self.kind}, {self.workers} worker{'s' * (self.workers > 1)}{hosts}, seed {self.seed}"
        )

    @property
    def command(self) -> str:
        words = f"--seed {self.seed} --state {self.state} --cloud {self.kind} --workers {self.workers}"
        sizes = f"--workflows {self.workflows} --kills {self.kills} --stops {self.stops}"
        return f"python -m tests.kills.driver {words} {sizes}{' --elsewhere' * self.elsewhere}"


@dataclass(slots=True, kw_only=True)
class Report:
    """What happened, and what was wrong with it."""

    trial: Trial
    kills: int = 0
    at_points: int = 0
    """How many of the kills fell at a named crash point."""
    stops: int = 0
    faults: int = 0
    calls: int = 0
    created: int = 0
    doubled: int = 0
    """Attempts that had more than one resource."""
    extra: int = 0
    """Resources beyond the first of their attempt."""
    collected: int = 0
    seconds: float = 0.0
    restarts_s: list[float] = field(default_factory=list)
    takeovers_s: list[float] = field(default_factory=list)
    """From the blow until the last of the victim's rows was another's."""
    states: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    HEAD = (
        "| state | class | workers | seed | kills (at a point) / stops | faults | calls | duplicates (extra) | orphans | lost "
        "| double records | collected | violations | seconds | restart s median (max) | takeover s median (max) |"
    )

    def row(self) -> str:
        trial, broken = self.trial, [violation.promise for violation in self.violations]
        orphans, lost = broken.count("no_orphan"), broken.count("nothing_is_lost") + broken.count("every_row_ends")
        twice = broken.count("one_end") + broken.count("one_version") + broken.count("ledger_balances")
        cells = (
            trial.state,
            trial.kind,
            f"{trial.workers}{' apart' * trial.elsewhere}",
            trial.seed,
            f"{self.kills} ({self.at_points}) / {self.stops}",
            self.faults,
            self.calls,
            f"{self.doubled} ({self.extra})",
            orphans,
            lost,
            twice,
            self.collected,
            len(self.violations),
            f"{self.seconds:.1f}",
            _median(self.restarts_s),
            _median(self.takeovers_s),
        )
        return f"| {' | '.join(map(str, cells))} |"

    def assert_clean(self) -> None:
        found = "\n".join(map(str, self.violations[:40]))
        assert not self.violations, (
            f"{self.trial.name}: {len(self.violations)} broken promises\n{found}\n{self.trial.command}"
        )


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({max(values):.2f})" if values else "-"
