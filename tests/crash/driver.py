"""A command that dies. ``python -m tests.crash.driver HOME SOURCE ACTION [LABEL]`` kills itself with -9 at the label."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ml_toolbox.domain.jobs import JobSpec, Limits
from ml_toolbox.engine import crash
from tests.crash.homes import Home


def die_at(label: str) -> None:
    def hook(passed: str) -> None:
        if passed == label:
            os.kill(os.getpid(), signal.SIGKILL)

    crash.arm(hook)


def act(home: Home, source: Path, action: str) -> None:
    """What the command does: each a sequence that a user's command goes through."""
    training = home.training
    if action in ("train", "stop", "delete"):
        limits = Limits(max_duration_s=60, stop_grace_s=1)
        register = "model" if action == "train" else None
        job = training.submit(
            JobSpec(name="crashing", script="train.py", source=str(source), register=register, limits=limits)
        )
        if action == "train":
            training.wait(job.id, timeout_s=60)
        elif action == "stop":
            training.stop(job.id)
            training.wait(job.id, timeout_s=60)
        else:
            training.delete(job.id)
    elif action == "tick":
        training.tick()
    elif action == "many":
        jobs = [
            training.submit(JobSpec(name=f"job-{number}", script="train.py", source=str(source))) for number in range(4)
        ]
        training.list()
        for job in jobs:
            training.wait(job.id, timeout_s=60)
        training.delete(jobs[0].id)


def main() -> None:
    root, source, action, *label = sys.argv[1:]
    home = Home(Path(root))
    if label:
        die_at(label[0])
    act(home, Path(source), action)


if __name__ == "__main__":
    main()
