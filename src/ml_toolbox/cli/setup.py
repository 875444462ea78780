"""``mltoolbox init`` and ``mltoolbox doctor``."""

from __future__ import annotations

import click

from ml_toolbox.app import SETTINGS_FILE, SETTINGS_TEMPLATE, Toolbox
from ml_toolbox.cli.output import json_option, print_json, print_table


@click.command()
def init() -> None:
    """Create the home folder ($MLTOOLBOX_HOME, default ~/.mltoolbox) and a commented settings file.

    Not needed: every command creates what it uses. Run again, it changes nothing.
    """
    toolbox = Toolbox()
    path = toolbox.home / SETTINGS_FILE
    toolbox.home.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(SETTINGS_TEMPLATE.format(home=toolbox.home))
        click.echo(f"wrote {path}")
    except FileExistsError:
        click.echo(f"{path} is there already: left as it is")
    click.echo(f"installation {toolbox.install}")


@click.command()
@click.option(
    "--fix", is_flag=True, help="First drive what is due, enforce budgets and remove strays, as the agent does."
)
@json_option
def doctor(fix: bool, as_json: bool) -> None:
    """Check this machine, this installation and the loop; says what to do about each finding.

    Finds orphans (resources of ours that nothing owns), stale leases, outcomes that are not known, overdrawn budgets, alarms,
    and clocks that disagree. Changes nothing without --fix.
    """
    from ml_toolbox.cli.diagnosis import diagnose

    findings = diagnose(Toolbox(), fix=fix)
    if as_json:
        print_json(findings)
    else:
        rows = [(f.state, f.subject, f.finding, f.remedy) for f in findings]
        print_table(("state", "what", "finding", "what to do"), rows, empty="")
    if any(f.state == "error" for f in findings):
        raise SystemExit(1)
