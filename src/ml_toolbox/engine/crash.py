"""Labelled places where a process may die. They do nothing unless a test arms them in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_toolbox.engine.workflow import Workflow

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` with the label of every crash point passed from now on in this process; ``None`` disarms."""
    global _hook
    _hook = hook


def crash_point(label: str) -> None:
    """A boundary between two durable steps, e.g. ``after:submit:before:record``."""
    if _hook is not None:
        _hook(label)


def points(workflows: Iterable[Workflow]) -> Iterator[tuple[str, str]]:
    """``(kind, label)`` of every crash point that the runner can pass while it drives these workflows."""
    for workflow in workflows:
        yield workflow.kind, "before:insert"
        yield workflow.kind, "after:insert:before:act"
        outcomes = ["insert", "claim", "refused"]
        for effect in ("observe", *workflow.effects):
            yield workflow.kind, f"before:{effect}"
            outcomes += [effect, f"failed-{effect}"]
        for outcome in outcomes:
            yield workflow.kind, f"after:{outcome}:before:record"
            yield workflow.kind, f"after:record:{outcome}"
