"""``mltoolbox backends``: where jobs and endpoints can run."""

from __future__ import annotations

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid
from ml_toolbox.cli.output import json_option, print_json, print_table
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
    results = [(p.name, c) for p in chosen for c in p.check(toolbox.provider_context(p))]
    results += [
        (name, Check(name="import", ok=False, message=reason, hint="reinstall or uninstall its package"))
        for name, reason in toolbox.broken_providers.items()
    ]
    if as_json:
        print_json([{"provider": name, "check": c} for name, c in results])
    else:
        rows = [(name, "ok" if c.ok else "MISSING", c.name, c.message, c.hint) for name, c in results]
        print_table(("provider", "state", "check", "finding", "what to do"), rows, empty="Nothing to check.")
    if any(not c.ok for _, c in results):
        raise SystemExit(1)
