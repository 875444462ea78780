"""``mltoolbox costs``: the ledger added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ml_toolbox.features.costs import CostLine, CostReport, Group

_EMPTY = "Nothing has been reserved or spent."
_BAR = 40  # characters
_GROUPS = ("job", "user", "project", "profile", "backend", "month")


@click.command()
@click.option("--by", type=click.Choice(_GROUPS), default="job", show_default=True, help="What to add up by.")
@click.option("--since", default="", metavar="YYYY-MM", help="Only what was begun in this month (UTC) or later.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many, dearest first."
)
@click.option("--plot", is_flag=True, help="Draw bars: spent full, held light.")
@json_option
def costs(by: Group, since: str, limit: int, plot: bool, as_json: bool) -> None:
    """Show what was spent and is held, from the ledger.

    reserved: worst cases asked for; held: of that, still kept for what exists; spent: what it cost; collected: of what was
    spent, by resources that nothing owned any more.
    """
    from ml_toolbox.features.costs import CostLine, CostReport

    toolbox = Toolbox()
    report = CostReport(by=by, since=since, lines=(), total=CostLine(key="total"))
    if toolbox.has_state:
        report = toolbox.adopted().costs.report(by, since=since)
    if as_json:
        print_json(report)
        return
    shown, rest = report.lines[:limit], report.lines[limit:]
    if plot:
        _print_bars(report, shown)
    else:
        rows = [(_label(line, by), line.spent, line.held, line.reserved, line.collected) for line in shown]
        if rows:
            total = report.total
            rows.append(("total", total.spent, total.held, total.reserved, total.collected))
        heading = "job or endpoint" if by == "job" else by
        print_table((heading, "spent", "held", "reserved", "collected"), rows, empty=_EMPTY)
    if rest:
        click.echo(f"{len(rest)} more are in the total; --limit {len(report.lines)} shows them", err=True)


def _label(line: CostLine, by: Group) -> str:
    if by == "job":
        return f"{line.kind} {line.name} ({line.key})"
    return line.key or "(none)"


def _print_bars(report: CostReport, lines: tuple[CostLine, ...]) -> None:
    if not lines:
        click.echo(_EMPTY, err=True)
        return
    most = max(1, *(line.spent.micros + line.held.micros for line in lines))
    labels = [line.name if report.by == "job" else _label(line, report.by) for line in lines]
    width = max(map(len, labels))
    for label, line in zip(labels, lines, strict=True):
        spent = round(_BAR * line.spent.micros / most)
        held = round(_BAR * (line.spent.micros + line.held.micros) / most) - spent
        bar = click.style("█" * spent, fg="cyan") + click.style("░" * held, fg="cyan")
        sums = f"{line.spent}" + (f" + {line.held} held" if line.held.micros else "")
        click.echo(f"{label.ljust(width)}  {bar}{' ' * (_BAR - spent - held)}  {sums}")
    click.echo(f"{'total'.ljust(width)}  {' ' * _BAR}  {report.total.spent} + {report.total.held} held")
