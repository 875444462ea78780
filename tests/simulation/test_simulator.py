"""The real jobs and endpoints under the hostile simulator: no promise is broken in any schedule."""

from __future__ import annotations

import pytest

from ml_toolbox.testing.simulator.fleet import Totals, commit, run_here
from ml_toolbox.testing.simulator.simulation import Simulation
from tests.simulation.binding import Toolbox

SHARDS = 8
PER_SHARD = 2_500


def told(totals: Totals) -> str:
    """How to see each failure again."""
    lines = [f"{totals}, commit {commit()}"]
    for seed, violations in totals.failures:
        lines += [f"seed {seed} (make simulate SEED={seed}):", *(f"  {violation}" for violation in violations)]
    return "\n".join(lines)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_schedule_breaks_a_promise(shard: int) -> None:
    seeds = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
    totals = run_here(seeds, Toolbox, until=lambda so_far: len(so_far.failures) >= 3)
    assert not totals.failures, told(totals)
    # A simulator in which nothing happens finds nothing: each kind of trouble is there in numbers.
    assert totals.crashes > 1.5 * PER_SHARD
    assert totals.pauses > PER_SHARD
    assert totals.faults > 2 * PER_SHARD
    assert set(totals.by_class) == {"token", "name", "none"}
    assert totals.strays > 0, "no process ever slept through its lease in the middle of a call"


def test_a_seed_is_a_schedule() -> None:
    first, second = (Simulation(1097, Toolbox(), trace=True).run() for _ in range(2))
    assert first == second
    assert first.trace
    assert first.steps > 50
