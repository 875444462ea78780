"""The end of an attempt as its folder tells it, for those who look from outside as much as for its own processes."""

from __future__ import annotations

import os
import time

from ml_toolbox.runtime.job import Layout, read_json, write_json

FINAL_STATES = ("succeeded", "failed", "stopped")


def record_lost(layout: Layout, what: str) -> None:
    """Write the final status of an attempt whose supervisor died, unless it had written one itself."""
    status = read_json(layout.status) or {}
    if status.get("state") not in FINAL_STATES and os.path.isdir(layout.root):
        ended = {"state": "failed", "failure": why_lost(layout, what), "ended_at": time.time()}
        write_json(layout.status, {**status, **ended}, durable=True)


def why_lost(layout: Layout, what: str) -> dict[str, str]:
    """The failure of an attempt whose watchers died. Where the capacity was being taken away, that is the cause."""
    from ml_toolbox.runtime import digest

    preempted = os.path.exists(layout.preempt) and not os.path.exists(layout.stop)
    return digest.of_preemption() if preempted else digest.of_lost(what)
