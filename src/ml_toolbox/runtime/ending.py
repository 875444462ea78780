"""The end of an attempt as its folder tells it, for those who look from outside as much as for its own processes."""

from __future__ import annotations

import os
import time

from ml_toolbox.runtime.job import Layout, read_json, write_json

FINAL_STATES = ("succeeded", "failed", "stopped")


def record_lost(layout: Layout, what: str) -> None:
    """Write the final status of an attempt whose supervisor died, unless it had written one itself."""
    from ml_toolbox.runtime import digest

    status = read_json(layout.status) or {}
    if status.get("state") not in FINAL_STATES and os.path.isdir(layout.root):
        # Whoever was told that the capacity goes may die of it, the supervisor too.
        preempted = os.path.exists(layout.preempt) and not os.path.exists(layout.stop)
        failure = digest.of_preemption() if preempted else digest.of_lost(what)
        ended = {"state": "failed", "failure": failure, "ended_at": time.time()}
        write_json(layout.status, {**status, **ended}, durable=True)
