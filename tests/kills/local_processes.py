"""What runs, and is killed, over real local training processes.

``agent HOME JOURNAL`` goes on for ever; ``train|stop|delete HOME SOURCE ORDER`` is one command of a user.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from ml_toolbox.base.errors import NotFound, NotYet, ToolboxError
from ml_toolbox.domain.jobs import JobSpec, Limits, RetryRule
from ml_toolbox.engine.agent import Agent
from ml_toolbox.engine.collection import Collector
from ml_toolbox.engine.owners import this_owner
from ml_toolbox.engine.runner import Runner
from ml_toolbox.runtime.guardian import die_with_parent
from tests.crash.homes import Home
from tests.kills.worker import Journal

LEASE_S = 2.0
SCRIPT = """
import os, subprocess, sys, time

fate, seconds = sys.argv[1], float(sys.argv[2])
with open(os.environ["RUNS"], "a") as file:
    file.write(" ".join([os.environ["MLTOOLBOX_JOB_NAME"], os.environ["MLTOOLBOX_ATTEMPT"], str(os.getpid())]) + "\\n")
if fate == "family":
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleeping)
    subprocess.Popen(sleeping, start_new_session=True)
if fate == "long":
    seconds = 600
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.02)
if fate == "fails":
    raise ValueError("as planned")
"""


class LocalPlanned(msgspec.Struct, frozen=True, kw_only=True):
    """One job, and what its user wants of it."""

    name: str
    fate: Literal["ok", "fails", "family", "long"]
    seconds: float
    lost: int
    """How many more attempts it gets when what watches it dies."""
    killed: int
    """How many more it gets for errors of its own."""
    wish: Literal["", "stop", "delete"] = ""
    wish_after_s: float = 0.0


def spec_of(planned: LocalPlanned, source: str) -> JobSpec:
    return JobSpec(
        name=planned.name,
        script="train.py",
        arguments=(planned.fate, f"{planned.seconds:.2f}"),
        source=source,
        retry=RetryRule(lost=planned.lost, user_error=planned.killed),
        limits=Limits(max_duration_s=60, stop_grace_s=1),
    )


def agent(home: Home, journal: Journal) -> None:
    """The loop that goes on by itself."""
    owner = this_owner()
    runner = Runner(home.store, [home.training.workflow], lease_s=LEASE_S, owner=owner)
    collector = Collector(home.store, [home.training.workflow], owner=owner, lease_s=LEASE_S)
    journal.say(what="up", owner=owner)

    def on_error(error: ToolboxError) -> None:
        journal.say(what="error", message=str(error))

    with ThreadPoolExecutor(4) as executor:
        loop = Agent(home.store, runner, [home.training.workflow], collector, executor=executor, every_s=1.5)
        loop.run(threading.Event(), on_error=on_error)


def command(home: Home, action: str, source: str, planned: LocalPlanned) -> None:
    """As the command line does it."""
    training = home.training
    if action == "train":
        job = training.submit(spec_of(planned, source))
        training.wait(job.id, timeout_s=100)
    elif action == "stop":
        training.stop(planned.name)
    else:
        try:
            training.delete(planned.name)
        except (NotYet, NotFound):  # under way, and never given up; or done already by the command that was killed
            return


def main() -> None:
    die_with_parent()  # stopped or not: a driver that is killed leaves nothing behind
    action, root, *more = sys.argv[1:]
    home = Home(Path(root))
    if action == "agent":
        agent(home, Journal(more[0]))
    else:
        command(home, action, more[0], msgspec.json.decode(more[1], type=LocalPlanned))


if __name__ == "__main__":
    main()
