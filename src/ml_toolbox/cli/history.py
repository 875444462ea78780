"""How the history of a row looks: each transition, its cause, how long it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ml_toolbox.cli.output import duration, print_table, to_data, when

if TYPE_CHECKING:
    from ml_toolbox.domain.money import Money
    from ml_toolbox.engine.rows import Transition


def print_history(history: Sequence[Transition], *, created_at: float, ended: bool) -> None:
    """One line for each step, with the time it took to come there; and what goes on now."""
    levels = any(step.level != "info" for step in history)
    rows, previous = [], created_at
    for step in history:
        level = (step.level,) if levels else ()
        took = f"+{duration(max(0.0, step.at - previous))}"
        rows.append((when(step.at), took, step.state, step.phase, step.cause, *level, step.message))
        previous = step.at
    columns = ("when", "took", "state", "step", "cause", *(("level",) if levels else ()), "what happened")
    print_table(columns, rows, empty="")
    if not ended and history:
        click.echo(f"{history[-1].phase} for {duration(max(0.0, time.time() - history[-1].at))}")


def history_data(history: Sequence[Transition], *, created_at: float) -> list[dict[str, Any]]:
    """The same for scripts, with ``took_s``: seconds since the step before."""
    steps, previous = [], created_at
    for step in history:
        steps.append({**to_data(step), "took_s": round(max(0.0, step.at - previous), 6)})
        previous = step.at
    return steps


def money(spent: Money, held: Money) -> str:
    """``$0.1200 spent, $1.11 held``; "" where nothing costs anything."""
    parts = [f"{spent} spent"] if spent.micros or held.micros else []
    return ", ".join([*parts, f"{held} held"] if held.micros else parts)
