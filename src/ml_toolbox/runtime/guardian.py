"""The process that outlives its supervisor's death, by whatever signal, and leaves nothing running.

``start`` forks: the parent becomes the guardian, the child goes on as the supervisor. Both are reapers of every orphan
below them (``PR_SET_CHILD_SUBREAPER``, prctl(2)), so a training process cannot escape by making its own session or by
its parent's death. Three lines of defence, each enough alone:

1. the supervisor dies - the guardian, its parent, knows at once and kills all its descendants;
2. the guardian dies - the supervisor sees its parent change within a tick and ends the job;
3. both die together - the script itself is killed by the kernel (``PR_SET_PDEATHSIG``), and whatever carries the job's
   mark in its environment is swept at the next look.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from ml_toolbox.base.processes import kill_until_gone
from ml_toolbox.runtime.ending import record_lost
from ml_toolbox.runtime.job import Layout

NOT_MINE = 75
"""Exit status of a supervisor that found another one in its place."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def start(layout: Layout, mark: str, supervise: Callable[[], int]) -> int:
    """Split in two. In the guardian: returns the exit status for the entry point once everything has ended. In the
    supervisor: runs ``supervise`` and never returns."""
    _adopt_orphans()
    supervisor = os.fork()
    if supervisor == 0:
        _leave(supervise)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: _forward(supervisor, got))
    status = _wait_for(supervisor)
    if status == NOT_MINE:
        return 0  # the folder and everything that carries its mark belong to the other one
    kill_until_gone(mark, parents=(os.getpid(),))
    if status != 0:
        record_lost(layout, f"signal {-status}" if status < 0 else f"exit status {status}")
    return 0 if status == 0 else 1


def die_with_parent() -> None:
    """In a fresh child: be killed when the parent dies, whatever the parent's own end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _adopt_orphans() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _leave(supervise: Callable[[], int]) -> NoReturn:
    _adopt_orphans()  # not inherited through fork
    status = 70
    try:
        status = supervise()
    except BaseException:  # noqa: BLE001 - the process's edge: the supervisor's own log gets the traceback, the guardian the status
        import traceback

        traceback.print_exc()
    finally:
        # Not sys.exit: the stack below belongs to the guardian.
        os._exit(status)


def _forward(supervisor: int, number: int) -> None:
    try:
        os.kill(supervisor, number)
    except ProcessLookupError:
        pass


def _wait_for(supervisor: int) -> int:
    """Reap orphans until the supervisor itself ends; its exit status, negative for a signal."""
    while True:
        pid, status = os.wait()
        if pid == supervisor:
            return os.waitstatus_to_exitcode(status)
