"""One process of the user's, in its own session, with its pipes and limits."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Literal, NamedTuple

from ml_toolbox.base.errors import Bug
from ml_toolbox.runtime.guardian import die_with_parent

Reason = Literal["", "stop", "preempt", "timeout", "memory", "guardian"]
"""Why the supervisor ended the process; "" when it ended by itself."""


class Ended(NamedTuple):
    """How it ended."""

    exit_code: int
    reason: Reason
    last_line: str = ""
    used_bytes: int = 0
    """Memory in use when a limit was passed."""
    peak_bytes: int = 0
    oom_kills: int = 0
    """Processes the kernel killed on this host for want of memory in the meantime."""


class Child:
    """Started at once. Its group is its own, so that the terminal's Ctrl-C does not reach it and a stop reaches all of it."""

    def __init__(self, command: list[str], *, cwd: str, environment: dict[str, str], cpus: set[int] | None) -> None:
        supervisor = os.getpid()

        def confine() -> None:
            die_with_parent()
            if os.getppid() != supervisor:  # it died before the line above took effect
                os._exit(1)
            # When memory runs out, let the kernel choose the training process and not those that watch it (proc(5)).
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("500")
            if cpus:
                os.sched_setaffinity(0, cpus)

        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            # Safe here: the supervisor has one thread when it starts a child.
            preexec_fn=confine,
        )
        self.pid = self._process.pid
        self.end = os.pidfd_open(self.pid)
        """Readable as soon as the process has ended (pidfd_open(2))."""

    @property
    def streams(self) -> tuple[int, int]:
        """File descriptors of standard output and standard error."""
        out, err = self._process.stdout, self._process.stderr
        if out is None or err is None:
            raise Bug("a child is always started with pipes")
        return os.dup(out.fileno()), os.dup(err.fileno())

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        self.signal_group(signal.SIGTERM)

    def wait(self) -> int:
        code = self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.end)
        return code
