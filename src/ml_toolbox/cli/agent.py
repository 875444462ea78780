"""``mltoolbox agent``: the loop, for as long as it is wanted."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.cli.events import print_event
from ml_toolbox.cli.output import to_data, when

if TYPE_CHECKING:
    from ml_toolbox.engine.agent import Round
    from ml_toolbox.features.operations import Events


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 256), default=8, show_default=True, help="Platform calls under way at once."
)
@click.option("--once", is_flag=True, help="One round: drive what is due, enforce budgets, collect strays; then leave.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def agent(workers: int, once: bool, as_json: bool) -> None:
    """Drive everything that is due, enforce budgets and collect strays, until SIGTERM or Ctrl-C.

    Not needed on one machine, where every command does the same in passing; with it, things go on when nobody looks. Any
    number may run on one state. Told to stop, it finishes the calls that are under way and gives its leases back; killed, it
    leaves nothing that the next one would not take up at once.
    """
    toolbox = Toolbox()
    tell = _Teller(toolbox.events, as_json=as_json)
    with _told_to_stop() as stop, ThreadPoolExecutor(workers, thread_name_prefix="agent") as executor:
        loop = toolbox.agent(executor)
        tell.line("began", f"installation {toolbox.install}, state {toolbox.state_shown}, {workers} workers")
        if once:
            tell.round(loop.round())
        else:
            loop.run(stop, on_round=tell.round, on_error=tell.error)
        tell.events()
        tell.line("ended", "nothing is under way here any more")
    toolbox.state.close()


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by the first SIGTERM or SIGINT; the second ends the process as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def told(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in before:
        signal.signal(number, told)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Teller:
    """Prints what happens: every event of the store, and what a round did besides."""

    def __init__(self, events: Events, *, as_json: bool) -> None:
        self._events = events
        self._as_json = as_json
        self._place = events.end()
        self._unseen: dict[str, str] = {}
        self._trouble = ""

    def line(self, what: str, text: str, **values: Any) -> None:
        now = time.time()
        if self._as_json:
            click.echo(json.dumps({"at": iso(now), "agent": what, "message": text, **values}, ensure_ascii=False))
        else:
            click.echo(f"{when(now)} agent {what}: {text}")

    def events(self) -> None:
        try:
            for event in self._events.after(self._place):
                self._place = event.seq
                print_event(event, as_json=self._as_json)
        except ToolboxError as error:
            self.error(error)

    def round(self, done: Round) -> None:
        self._trouble = ""
        self.events()
        if done.stopped:
            self.line("round", f"told {done.stopped} to stop that budgets no longer pay for", stopped=done.stopped)
        if done.comparison is None:
            return
        for stray in done.comparison.strays:
            became = "removed" if stray.removed else f"not removed: {stray.problem}"
            text = f"{stray.kind} {stray.resource} on {stray.place}: {stray.why}; {became}"
            self.line("stray", text, stray=to_data(stray))
        unseen = dict(done.comparison.unseen)
        for place, why in unseen.items():
            if self._unseen.get(place) != why:
                self.line("unseen", f"{place} could not be asked: {why}", place=place)
        for place in self._unseen.keys() - unseen.keys():
            self.line("seen", f"{place} answers again", place=place)
        self._unseen = unseen

    def error(self, error: ToolboxError) -> None:
        """Said once for as long as it is the same."""
        if error.message != self._trouble:
            self.line("waits", f"{error.message}; trying again", error=error.code)
        self._trouble = error.message
