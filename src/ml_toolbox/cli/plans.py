"""How a plan looks on paper."""

from __future__ import annotations

import json

import click

from ml_toolbox.cli.output import duration, print_fields, print_table, to_data
from ml_toolbox.domain.offers import Plan


def print_plan(plan: Plan) -> None:
    """Everything that would happen, and nothing has."""
    offer = plan.offer
    price = f"{plan.cost_per_hour} per hour" + (f" (price of {offer.price_as_of})" if offer.price_as_of else "")
    worst = "until deleted" if plan.max_duration_s is None else f"at most {duration(plan.max_duration_s)}"
    if plan.max_cost is not None:
        worst += f", so at most {plan.max_cost}"
    click.echo(click.style(plan.summary, bold=True))
    click.echo()
    shape = [f"{offer.vcpus:g} vCPU" if offer.vcpus else "", f"{offer.memory_gib:.0f} GiB" if offer.memory_gib else ""]
    place = ", ".join(part for part in (offer.instance_type, offer.region, *shape) if part)
    print_fields(
        [("creates", "\n".join(plan.creates)), ("where", f"{plan.backend}: {place}"), ("price", price), ("runs", worst)]
    )
    for warning in plan.warnings:
        click.echo(f"{click.style('Warning:', fg='yellow')} {warning}")
    for request in plan.requests:
        click.echo(f"\nrequest: {request.action} -> {request.target}")
        click.echo(json.dumps(to_data(request.body), indent=2, ensure_ascii=False))
    click.echo()
    rows = [
        (a.name, a.reason, f"{a.price_hourly}/h" if a.price_hourly is not None else "", a.price_as_of)
        for a in plan.alternatives
    ]
    print_table(("not taken", "because", "price", "as of"), rows, empty="No other place is installed.")
    click.echo("\nNothing was launched.")
