"""An agent that will be killed or stopped. ``python -m tests.kills.worker SETTING JOURNAL HOST FATE``

Writes into its journal when it is up and when it first acts on a row, by the clock that all processes share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.engine import crash
from ml_toolbox.engine.agent import Agent
from ml_toolbox.runtime.guardian import die_with_parent
from tests.kills.setting import COLLECT_EVERY_S, Parts, Setting


class Journal:
    """Lines that outlive a kill: each is one append."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def say(self, **what: object) -> None:
        os.write(self._file, f"{json.dumps({**what, 'at': time.monotonic()})}\n".encode())


class Doom:
    """Counts the crash points passed, and dies or stands still at the one named: ``SIGNAL LABEL TIMES``, or "" for none."""

    def __init__(self, journal: Journal, fate: str) -> None:
        self._journal = journal
        self._signal, self._label, times = fate.split() if fate else ("", "", "0")
        self._left = int(times)
        self._acted = False
        self._lock = threading.Lock()

    def __call__(self, label: str) -> None:
        with self._lock:
            if not self._acted and not label.startswith("collect"):
                self._acted = True
                self._journal.say(what="acted", label=label)
            if label == self._label:
                self._left -= 1
                if not self._left:
                    self._journal.say(what=self._signal, label=label)
                    os.kill(os.getpid(), signal.Signals[self._signal])


def main() -> None:
    die_with_parent()  # stopped or not: a driver that is killed leaves nothing behind
    text, path, host, fate = sys.argv[1:]
    journal = Journal(path)
    parts = Parts(msgspec.json.decode(text, type=Setting), host)
    crash.arm(Doom(journal, fate))
    journal.say(what="up", owner=parts.owner)

    def on_error(error: ToolboxError) -> None:
        journal.say(what="error", message=str(error))

    with ThreadPoolExecutor(8) as executor:
        agent = Agent(
            parts.store, parts.runner, parts.workflows, parts.collector, executor=executor, every_s=COLLECT_EVERY_S
        )
        agent.run(threading.Event(), on_error=on_error)


if __name__ == "__main__":
    main()
