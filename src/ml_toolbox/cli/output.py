"""How results reach the reader: rich on a terminal, tab-free plain text when piped, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import click

from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.domain.money import Money

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def to_data(value: Any) -> Any:
    """Any result as JSON-able data. Objects with ``to_json`` speak for themselves; dataclasses become objects."""
    if hasattr(value, "to_json") and not isinstance(value, type):
        said = value.to_json()
        return to_data(json.loads(said) if isinstance(said, bytes) else said)
    if isinstance(value, Money):
        return {"usd": value.micros / 1_000_000}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_data(item) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return to_data(value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value


def print_json(value: Any) -> None:
    click.echo(json.dumps(to_data(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, title: str = "") -> None:
    """A table, or ``empty`` (which says what to do) on stderr when there are no rows."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not texts:
        click.echo(empty, err=True)
        return
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", header_style="bold")
        for number, column in enumerate(columns):
            # What is typed into the next command stays on one line; the rest may wrap, but nothing is cut off.
            widest = max(len(row[number]) for row in texts)
            whole = number == 0 and widest <= _WHOLE_COLUMN
            table.add_column(column, no_wrap=whole, min_width=widest if whole else None, overflow="fold")
        for row in texts:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console().print(table)
        return
    widths = [max(len(r[i]) for r in [list(columns), *texts]) for i in range(len(columns))]
    for row in [list(columns), *texts]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_WHOLE_COLUMN = 32  # a guess: leaves room for the others on 80 columns

_STYLES = {
    "succeeded": "green",
    "ready": "green",
    "Production": "green",
    "running": "cyan",
    "failed": "red",
    "degraded": "yellow",
    "stopped": "yellow",
    "Archived": "dim",
    "warning": "yellow",
    "alarm": "red",
    "error": "red",
}


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """``name   value`` lines; empty values are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "", (), [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *rest = value.splitlines() or [""]
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {first}")
        for line in rest:
            click.echo(" " * (width + 2) + line)


def print_error(error: ToolboxError, *, as_json: bool = False) -> None:
    """One message on stderr: what failed, on which thing, and what to do next."""
    if as_json:
        click.echo(json.dumps(error.to_problem(), ensure_ascii=False), err=True)
        return
    click.echo(click.style("Error: ", fg="red", bold=True) + error.message, err=True)
    if error.hint:
        click.echo(click.style("Hint:  ", fg="yellow") + error.hint, err=True)


def when(timestamp: float | None) -> str:
    """A moment as local, readable text (UTC in JSON)."""
    if not timestamp:
        return ""
    return datetime.fromtimestamp(timestamp).strftime("%Y-%m-%d %H:%M:%S") if sys.stdout.isatty() else iso(timestamp)


def short_id(full: str) -> str:
    """On a terminal the beginning of an id, long enough to name it; in pipes all of it."""
    return full[:14] if sys.stdout.isatty() else full


def duration(seconds: float | None) -> str:
    """``75.3`` -> ``1m 15s``."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"


def size(count: int) -> str:
    """Bytes in powers of 1,024: ``1536`` -> ``1.5 KiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def number(value: object) -> str:
    """A value for people: floats with up to five significant digits, ``-`` for nothing, everything else as it is."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
