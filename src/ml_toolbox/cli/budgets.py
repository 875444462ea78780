"""``mltoolbox budgets``: limits on money and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.cli.output import json_option, print_json, print_table
from ml_toolbox.cli.parameters import confirm, yes_option

if TYPE_CHECKING:
    from ml_toolbox.engine.ledger import Limit
    from ml_toolbox.features.costs import Budgets, Lowered

_SCOPES = ("all", "user:", "project:", "profile:", "backend:")


def _complete_scope(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Scopes that have a limit, and the words that scopes begin with."""
    toolbox = Toolbox()
    known = {limit.scope for limit in toolbox.budgets.list()} if toolbox.has_state else set()
    return sorted(scope for scope in known.union(_SCOPES) if scope.startswith(incomplete))


_scope = click.argument("scope", shell_complete=_complete_scope)


@click.group()
def budgets() -> None:
    """Limits on money and numbers: what may be held and spent, per hour, and at one time.

    SCOPE is whose: all, user:NAME, project:NAME, profile:NAME or backend:NAME. What would go past a limit is refused before
    anything is created; what only has to wait for others waits in line.
    """


@budgets.command("list")
@json_option
def list_budgets(as_json: bool) -> None:
    """List every limit and what is taken of it."""
    toolbox = Toolbox()
    _print_limits(toolbox.budgets.list() if toolbox.has_state else (), as_json=as_json)


@budgets.command()
@_scope
@json_option
def show(scope: str, as_json: bool) -> None:
    """Show SCOPE's limits, and which jobs and endpoints take part of them now."""
    toolbox = Toolbox().adopted()
    limits = toolbox.budgets.show(scope)
    takers = toolbox.budgets.takers(scope)
    if as_json:
        print_json({"limits": [_shown(limit) for limit in limits], "takers": takers})
        return
    _print_limits(limits, as_json=False)
    click.echo()
    rows = [(t.kind, t.name, t.work_id, t.held, t.spent, f"{t.hourly}/h") for t in takers]
    print_table(("kind", "name", "id", "held", "spent", "price"), rows, empty="Nothing takes part of it now.")


@budgets.command("set")
@_scope
@click.option("--cost", metavar="USD", default=None, help="Most that may be held and spent, for ever.")
@click.option("--month", is_flag=True, help="With --cost: in every calendar month (UTC) anew.")
@click.option(
    "--cost-per-hour", metavar="USD", default=None, help="Most that what exists at one time may cost an hour."
)
@click.option("--running", metavar="N", default=None, help="Most jobs and endpoints at one time; more wait in line.")
@yes_option
@json_option
def set_budget(
    scope: str,
    cost: str | None,
    month: bool,
    cost_per_hour: str | None,
    running: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Set limits of SCOPE; those not named stay as they are.

    A limit below what is taken already stops the newest jobs and endpoints until the rest fits: they save what they can. Says
    which, and asks first.

    \b
    mltoolbox budgets set project:churn --cost 100 --month
    mltoolbox budgets set all --cost-per-hour 5 --running 4
    """
    from ml_toolbox.features.costs import wanted_limits

    wanted = wanted_limits(scope, cost=cost, month=month, cost_per_hour=cost_per_hour, running=running)
    toolbox = Toolbox().adopted()
    budgets = toolbox.budgets
    for one in wanted:
        _say_what_it_means(toolbox, budgets.lowered(one), yes=yes)
    limits = [budgets.set(one) for one in wanted]
    if as_json:
        print_json([_shown(limit) for limit in limits])
        return
    for limit in limits:
        click.echo(f"budget {limit.name}: {limit.show(limit.most)}, {_taken(limit)} taken")


def _say_what_it_means(toolbox: Toolbox, lowered: Lowered, *, yes: bool) -> None:
    limit = lowered.limit
    if limit.taken <= limit.most:
        return
    click.echo(
        f"{click.style('Warning:', fg='yellow')} budget {limit.name}: {_taken(limit)} taken already, "
        f"more than {limit.show(limit.most)}",
        err=True,
    )
    if not lowered.stops:
        rest = "what was spent stays spent; " if limit.meter == "cost" else ""
        click.echo(f"         {rest}nothing is stopped, and nothing new begins until it fits", err=True)
        return
    for row_id in lowered.stops:
        row = toolbox.state.get(row_id)
        click.echo(f"         stops {row.kind} {row.name} ({row.id})", err=True)
    confirm(f"set it, and stop {len(lowered.stops)}?", yes=yes)


@budgets.command()
@_scope
@click.option("--cost", is_flag=True, help="Only the limit on cost for ever.")
@click.option("--month", is_flag=True, help="Only the monthly limit on cost.")
@click.option("--cost-per-hour", is_flag=True, help="Only the limit on cost per hour.")
@click.option("--running", is_flag=True, help="Only the limit on the number at one time.")
def remove(scope: str, cost: bool, month: bool, cost_per_hour: bool, running: bool) -> None:
    """Lift SCOPE's limits; with options only those named. What was spent stays in the ledger."""
    budgets = Toolbox().budgets
    removed: list[Limit] = []
    if not (cost or month or cost_per_hour or running):
        removed += budgets.remove(scope)
    removed += _removed(budgets, scope, cost=cost, month=month, cost_per_hour=cost_per_hour, running=running)
    for limit in removed:
        click.echo(f"budget {limit.name} is lifted")


def _removed(
    budgets: Budgets, scope: str, *, cost: bool, month: bool, cost_per_hour: bool, running: bool
) -> list[Limit]:
    found: list[Limit] = []
    if cost:
        found += budgets.remove(scope, meter="cost", period="")
    if month:
        found += budgets.remove(scope, meter="cost", period="month")
    if cost_per_hour:
        found += budgets.remove(scope, meter="cost-per-hour")
    if running:
        found += budgets.remove(scope, meter="running")
    return found


def _print_limits(limits: tuple[Limit, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([_shown(limit) for limit in limits])
        return
    rows = [
        (
            limit.scope,
            limit.meter + (" a month" if limit.period else ""),
            limit.show(limit.most),
            limit.show(limit.spent) if limit.meter == "cost" else "",
            limit.show(limit.held),
            limit.show(max(0, limit.most - limit.taken)),
            f"{limit.taken / limit.most:.0%}",
        )
        for limit in limits
    ]
    print_table(
        ("budget", "limit on", "limit", "spent", "held", "free", "taken"),
        rows,
        empty="No budgets. Set one: mltoolbox budgets set project:NAME --cost 100 --month",
    )


def _taken(limit: Limit) -> str:
    return limit.show(limit.taken)


def _shown(limit: Limit) -> dict[str, Any]:
    """For scripts: dollars, or a number of things."""
    unit = 1 if limit.meter == "running" else 1_000_000
    return {
        "scope": limit.scope,
        "meter": limit.meter,
        "period": limit.period,
        "unit": "things" if limit.meter == "running" else "usd",
        "limit": limit.most / unit,
        "spent": limit.spent / unit,
        "held": limit.held / unit,
        "free": max(0, limit.most - limit.taken) / unit,
        "month": limit.month,
    }
