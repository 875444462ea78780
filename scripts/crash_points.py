"""``python scripts/crash_points.py``: every crash point of the code, by kind of work, and the stories in which it is died at.

Exits with 1 when a point is not covered.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.crash.test_command_death import POINTS as KILLED_AT
from tests.simulation.binding import Toolbox
from tests.simulation.scripts import SCRIPTS
from tests.simulation.test_crash_points import IN_STORES, IN_TRANSACTIONS, _none, _NoRegistry

from ml_toolbox.testing.crash_points import Point, enumerated
from ml_toolbox.testing.simulator.scripted import Stage


def main() -> int:
    stories: dict[tuple[str, str], list[str]] = defaultdict(list)
    for script in SCRIPTS:
        stage = Stage(script, Toolbox())
        stage.play()
        for label in set(stage.passed):
            stories[script.kind, label].append(script.name)
    for action, labels in KILLED_AT.items():
        for label in labels:
            stories["kill -9", label].append(f"kill -9 in {action}")
    points = enumerated(Toolbox().workflows(_none, _none, _NoRegistry(), "here"))
    width = max(len(point.label) for point in points)
    missing = 0
    for point in points:
        found = _covering(point, stories)
        missing += not found
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        print(f"{point.kind:<22} {point.label:<{width}}  {shown or 'NOT COVERED'}")
    print(f"{len(points)} points, {len(points) - missing} covered")
    return 1 if missing else 0


def _covering(point: Point, stories: dict[tuple[str, str], list[str]]) -> list[str]:
    if point.kind.startswith("state."):
        database = {"state.postgres": "PostgreSQL", "state.sqlite": "SQLite"}.get(point.kind, "both databases")
        return [f"{name!r} on {database}" for name in IN_TRANSACTIONS[:2]] if point.label in IN_STORES else []
    return stories[point.kind, point.label] or stories["kill -9", point.label]


if __name__ == "__main__":
    sys.exit(main())
