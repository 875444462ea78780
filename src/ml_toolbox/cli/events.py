"""``mltoolbox events``: what happened to jobs and endpoints, as it happens."""

from __future__ import annotations

import json
import time

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.clock import iso
from ml_toolbox.cli.output import to_data, when
from ml_toolbox.features.operations import Event, parse_since

_LOOK_EVERY_S = 0.5
LEVELS = ("info", "warning", "alarm")
_STYLES = {"warning": "yellow", "alarm": "red"}


@click.command()
@click.option("-f", "--follow", "go_on", is_flag=True, help="Go on until Ctrl-C; without --since from now on.")
@click.option(
    "--since", default=None, metavar="WHEN", help="30m, 12h, 7d, 2026-11, 2026-11-20 or an ISO time. Default: 1d."
)
@click.option(
    "--level", type=click.Choice(LEVELS), default="info", show_default=True, help="Only events that matter this much."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(go_on: bool, since: str | None, level: str, as_json: bool) -> None:
    """Print what happened to jobs and endpoints: each transition, warning and alarm. Looks, and drives nothing.

    A warning should be read (a budget is nearly used up); an alarm needs somebody (a deletion does not succeed).
    """
    from ml_toolbox.features.operations.events import follow

    toolbox = Toolbox()
    if not toolbox.has_state and not go_on:
        if not as_json:
            click.echo("Nothing has happened yet.", err=True)
        return
    stream, wanted = toolbox.events, LEVELS[LEVELS.index(level) :]
    begin = None if go_on and since is None else parse_since(since or "1d", toolbox.state.now())
    place = stream.end() if begin is None else stream.place_of(begin)
    try:
        for event in follow(stream, place, pause=_pause if go_on else lambda: False):
            if event.level in wanted and (begin is None or event.at >= begin):
                print_event(event, as_json=as_json)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _pause() -> bool:
    time.sleep(_LOOK_EVERY_S)
    return True


def print_event(event: Event, *, as_json: bool) -> None:
    """One line, at once."""
    if as_json:
        click.echo(json.dumps({**to_data(event), "at": iso(event.at)}, ensure_ascii=False))
        return
    mark = "" if event.level == "info" else click.style(event.level.upper(), fg=_STYLES[event.level], bold=True) + " "
    cause = f" [{event.cause}]" if event.cause else ""
    click.echo(f"{when(event.at)} {mark}{event.kind} {event.name} {event.state}: {event.message or event.step}{cause}")
