"""``mltoolbox backends``: where jobs and endpoints can run."""

from __future__ import annotations

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Conflict, Invalid, NotFound, ToolboxError
from ml_toolbox.cli.output import json_option, print_json, print_table
from ml_toolbox.cli.parameters import confirm, yes_option
from ml_toolbox.ports.lacks import Lacking
from ml_toolbox.ports.provider import Check


@click.group()
def backends() -> None:
    """Where jobs and endpoints can run, and what each place cannot do."""


@backends.command("list")
@json_option
def list_backends(as_json: bool) -> None:
    """List every installed backend and what it lacks. Needs no credentials."""
    known = sorted(Toolbox().backends().items())
    if as_json:
        print_json([{"provider": provider.name, "backend": info} for _, (provider, info) in known])
        return
    rows = [
        (name, provider.name, info.title, _can(info.jobs), _can(info.endpoints)) for name, (provider, info) in known
    ]
    print_table(("backend", "provider", "title", "jobs", "endpoints"), rows, empty="No backend is installed.")


def _can(lacks: Lacking | None) -> str:
    if lacks is None:
        return "no"
    return f"yes, without {', '.join(lacks)}" if lacks else "yes"


@backends.command()
@click.argument("provider", required=False)
@json_option
def check(provider: str | None, as_json: bool) -> None:
    """Check PROVIDER (default: all): who we are there, and what is missing for what."""
    toolbox = Toolbox()
    if provider is not None and provider not in toolbox.providers:
        raise Invalid.choice("provider", provider, toolbox.providers)
    chosen = [p for name, p in sorted(toolbox.providers.items()) if provider in (None, name)]
    results = [(p.name, c) for p in chosen for c in p.check(toolbox.installed.context(p))]
    results += [
        (name, Check(name="import", ok=False, message=reason, hint="reinstall or uninstall its package"))
        for name, reason in toolbox.installed.broken.items()
    ]
    if as_json:
        print_json([{"provider": name, "check": c} for name, c in results])
    else:
        rows = [(name, "ok" if c.ok else "MISSING", c.name, c.message, c.hint) for name, c in results]
        print_table(("provider", "state", "check", "finding", "what to do"), rows, empty="Nothing to check.")
    if any(not c.ok for _, c in results):
        raise SystemExit(1)


def _complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    toolbox = Toolbox()
    return [place for place in toolbox.state.places() if place.startswith(incomplete)] if toolbox.has_state else []


@backends.command()
@click.argument("name", shell_complete=_complete_place)
@click.option("--unasked", is_flag=True, help="Also when it cannot be asked what lives there, as long as no row does.")
@yes_option
def forget(name: str, unasked: bool, yes: bool) -> None:
    """Look at NAME for strays no more: a backend (all its regions), or one BACKEND@REGION.

    Refused while anything of ours lives there, and when it cannot be asked: what is not looked at can cost money unseen.
    It is looked at again as soon as something is started there again. Its provider's package is not uninstalled.
    """
    toolbox = Toolbox()
    known = toolbox.state.places() if toolbox.has_state else ()
    places = [place for place in known if name in (place, place.partition("@")[0])]
    if not places:
        raise NotFound(
            f"nothing was ever started on {name}", hint=f"places: {', '.join(known) or 'none'}", resource=name
        )
    for place in places:
        _refuse_living(toolbox, place, unasked=unasked)
    confirm(f"look at {', '.join(places)} no more?", yes=yes)
    for place in places:
        if not toolbox.state.forget_place(place):
            raise Conflict(f"something was started on {place} just now", resource=place)
        click.echo(f"{place} is forgotten")


def _refuse_living(toolbox: Toolbox, place: str, *, unasked: bool) -> None:
    from ml_toolbox.features.operations import living as living_rows

    try:
        living = toolbox.collector.living(place)
    except ToolboxError as error:
        if unasked:
            living = sum(1 for _ in living_rows(toolbox.state, place=place))
        else:
            raise Conflict(
                f"{place} cannot be asked what lives there: {error.message}",
                hint="install or mend its provider and try again; --unasked trusts that nothing does",
                resource=place,
            ) from error
    if living:
        raise Conflict(
            f"{living} jobs, endpoints or resources of ours live on {place}",
            hint="delete them first (mltoolbox jobs list, endpoints list, doctor --fix), so that nothing costs money unseen",
            resource=place,
        )
