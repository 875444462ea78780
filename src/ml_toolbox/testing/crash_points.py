"""Every crash point that the code has, read from the code itself: none can be added and stay untested."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_toolbox.engine import crash
from ml_toolbox.engine.workflow import Workflow


class Point(NamedTuple):
    """One place to die at."""

    kind: str
    """Of the work that passes it, or the module that has it where all kinds of work pass it."""
    label: str


def enumerated(workflows: Sequence[Workflow]) -> tuple[Point, ...]:
    """The runner's points, for each kind of work; the comparison's, since each kind of work has its own strays; and those
    that are written out anywhere else in the package, by module."""
    found = [Point(kind, label) for kind, label in crash.points(workflows)]
    for module, label in written_out():
        kinds = [one.kind for one in workflows] if module == "engine.collection" else [module]
        found += [Point(kind, label) for kind in kinds]
    return tuple(found)


def written_out() -> Iterator[tuple[str, str]]:
    """``(module, label)`` of every ``crash_point("…")`` with a fixed label, by the sources of the installed package."""
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        if path.is_relative_to(root / "testing"):
            continue
        text = path.read_text()
        if "crash_point(" not in text:
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module == "engine.runner":  # its labels are made from the kinds' effects: see crash.points
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point":
                yield module, ast.literal_eval(node.args[0])
