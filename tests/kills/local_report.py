"""What one run over local processes tries, and what is told about it afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ml_toolbox.testing.simulator.invariants import Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrial:
    """What is tried."""

    seed: int
    jobs: int = 30
    blows: int = 30

    @property
    def command(self) -> str:
        return f"python -m tests.kills.local_driver --seed {self.seed} --jobs {self.jobs} --blows {self.blows}"


@dataclass(slots=True, kw_only=True)
class LocalReport:
    """What happened, and what was wrong with it."""

    trial: LocalTrial
    blows: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    left: int = 0
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    HEAD = "| seed | jobs | attempts | blows | ended as | processes left | violations | seconds |"

    def row(self) -> str:
        blows = ", ".join(f"{count} x {what}" for what, count in sorted(self.blows.items()))
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        cells = (self.trial.seed, self.trial.jobs, self.attempts, blows, states, self.left, len(self.violations))
        return f"| {' | '.join(map(str, cells))} | {self.seconds:.1f} |"

    def assert_clean(self) -> None:
        found = "\n".join(map(str, self.violations[:40]))
        assert not self.violations, f"{len(self.violations)} broken promises\n{found}\n{self.trial.command}"
