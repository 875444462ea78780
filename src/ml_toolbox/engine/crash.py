"""Labelled places where a process may die. They do nothing unless a test arms them in its own process."""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` with the label of every crash point passed from now on in this process; ``None`` disarms."""
    global _hook
    _hook = hook


def crash_point(label: str) -> None:
    """A boundary between two durable steps, e.g. ``after:submit:before:record``."""
    if _hook is not None:
        _hook(label)
