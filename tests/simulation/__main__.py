"""``python -m tests.simulation``: many schedules, or one again with everything that happened in it.

python -m tests.simulation --count 1000000        as many, on all cores, with a line of progress
python -m tests.simulation --seed 4711            this one, told line by line
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from ml_toolbox.testing.simulator.fleet import Totals, commit, run_many
from ml_toolbox.testing.simulator.simulation import Simulation
from tests.simulation.binding import Toolbox


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="replay this one and tell what happens")
    parser.add_argument("--count", type=int, default=20_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=None)
    arguments = parser.parse_args()
    return _replay(arguments.seed) if arguments.seed is not None else _many(arguments)


def _replay(seed: int) -> int:
    simulation = Simulation(seed, Toolbox(), trace=True)
    outcome = simulation.run()
    print(f"seed {seed}, commit {commit()}")
    print(", ".join(f"{name} {value}" for name, value in asdict(outcome.profile).items() if value))
    print(*outcome.trace, sep="\n")
    print("what existed:")
    for one in simulation.evidence().resources:
        began, until = one.created_at - simulation.began, min(one.ended_at, one.gone_at) - simulation.began
        print(f"  {one.id} {one.name} by {one.by}: from {began:.2f} to {until:.2f}, {one.outcome}")
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    return 1 if outcome.violations else 0


def _many(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    told = [began]

    def progress(totals: Totals) -> None:
        now = time.monotonic()
        if now - told[0] >= 1.0:
            told[0] = now
            rate = totals.schedules / (now - began)
            print(f"\r{totals} ({rate:,.0f}/s)", end="", file=sys.stderr, flush=True)

    seeds = range(arguments.first, arguments.first + arguments.count)
    totals = run_many(seeds, Toolbox, processes=arguments.processes, progress=progress)
    took = time.monotonic() - began
    print(file=sys.stderr)
    print(f"{totals}")
    for kind, number in sorted(totals.by_class.items()):
        print(f"  class {kind}: {number:,} schedules, {totals.strays_by_class[kind]:,} strays")
    print(f"commit {commit()}, {took:.0f} s, {totals.schedules / took:,.0f} schedules a second")
    for seed, violations in totals.failures[:20]:
        print(f"seed {seed}: {violations[0]}\n  make simulate SEED={seed}")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
