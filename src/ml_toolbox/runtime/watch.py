"""Watches one child process: its output, its progress, its limits, and the wish to stop."""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import threading
import time
from typing import Any

from ml_toolbox.base import processes
from ml_toolbox.runtime import mlflow_files, staging
from ml_toolbox.runtime.child import Child, Ended, Reason
from ml_toolbox.runtime.job import Layout, RuntimeJob, read_json, write_json
from ml_toolbox.runtime.output import Log, Pipe
from ml_toolbox.runtime.progress import Progress
from ml_toolbox.runtime.script import sentinel

_TICK_S = 0.1
"""Longest time between two looks at limits, progress and the stop file."""
_STATUS_S = 0.2
"""Shortest time between two writes of progress to the status file."""
_TRACKED_S = 1.0
"""Shortest time between two looks into MLflow's files."""


class Watch:
    """The supervisor's eyes. ``follow`` returns when the child has ended, by itself or by us."""

    def __init__(self, job: RuntimeJob, layout: Layout, log: Log, guardian: int) -> None:
        self._job = job
        self._layout = layout
        self._log = log
        self._guardian = guardian
        self._deadline = float("inf")
        self._signalled = False
        self._identities: dict[str, str] = {}
        self._hashing: threading.Thread | None = None
        self._progress_at = 0
        self._written_at = 0.0
        self._tracked_at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def begin(self, limit_s: float) -> None:
        """Start the clock of the attempt's time limit."""
        self._deadline = time.monotonic() + limit_s

    def finish_hashing(self) -> None:
        """Wait for the checksums. Also before another child is started: forking wants a process of one thread."""
        if self._hashing is not None and self._hashing.is_alive():
            self._hashing.join()

    def stop_wanted(self) -> bool:
        """Whether somebody asked for the end: the stop file, or the platform's own signal."""
        return self._signalled or os.path.exists(self._layout.stop)

    def preempt_wanted(self) -> bool:
        """Whether the capacity is being taken away."""
        return os.path.exists(self._layout.preempt)

    def hash_inputs(self, inputs: dict[str, str], identities: dict[str, str]) -> None:
        """Take the inputs' checksums beside the running script, for the model's lineage."""
        self._identities = {name: f"{inputs[name]}@{known}" for name, known in identities.items() if name in inputs}
        local = {
            name: location.removeprefix("file://")
            for name, location in inputs.items()
            if name not in self._identities and ("://" not in location or location.startswith("file://"))
        }
        self._identities |= {
            name: inputs[name] for name in inputs if name not in local and name not in self._identities
        }

        def take() -> None:
            for name, path in local.items():
                self._identities[name] = f"{path}@{staging.identity(path)}"

        if local:
            self._hashing = threading.Thread(target=take, daemon=True)

    def follow(self, child: Child, progress: Progress, status: dict[str, Any] | None, *, stream: str = "") -> Ended:
        """Log what it prints (as ``stream`` when given), enforce the limits, keep ``status`` up to date."""
        kills_before = _oom_kills()
        last = [""]
        pipes = self._pipes(child, progress, stream, last)
        if self._hashing is not None and self._hashing.ident is None:
            self._hashing.start()
        reason: Reason = ""
        used, kill_at, memory_at = 0, float("inf"), 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(child.end, selectors.EVENT_READ)
            for pipe in pipes:
                selector.register(pipe.descriptor, selectors.EVENT_READ, pipe)
            running = True
            while running:
                for key, _ in selector.select(_TICK_S):
                    if key.data is None:
                        running = False
                    elif not _read(key.data):
                        selector.unregister(key.fd)
                now = time.monotonic()
                _reap_orphans(child.pid)
                if status is not None:
                    tracked = now - self._tracked_at >= _TRACKED_S
                    self._tracked_at = now if tracked else self._tracked_at
                    self._take_reports(progress, tracked=tracked)
                    if progress.changed and now - self._written_at >= _STATUS_S:
                        self._written_at = now
                        self.note_progress(progress, status)
                        write_json(self._layout.status, status)
                wish = self._reason_to_end(now)
                if wish and (not reason or (reason == "preempt" and wish in ("stop", "guardian"))):
                    grace = self._grace_s(wish, now)
                    kill_at = min(kill_at, now + grace)
                    self._log.say(_ENDING[wish].format(grace=grace))
                    if not reason:
                        child.terminate()
                    reason = wish
                if self._job.memory_bytes and status is not None and now - memory_at >= _TICK_S and reason != "memory":
                    memory_at = now
                    used = self._memory_used()
                    if used > self._job.memory_bytes:
                        # While the capacity goes anyway, that is why it ended: the next attempt shows whether it is enough.
                        reason, kill_at = reason if reason == "preempt" else "memory", now
                if now >= kill_at and running:
                    self._kill_all()
        code = child.wait()
        # What the script left behind ends with it; only then are the pipes sure to reach their end.
        self._kill_all()
        for pipe in pipes:
            pipe.drain(within_s=5.0)
        self._take_reports(progress, tracked=status is not None)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return Ended(code, reason, last[0], used, peak, _oom_kills() - kills_before)

    def note_progress(self, progress: Progress, status: dict[str, Any]) -> None:
        progress.changed = False
        status.update(epoch=progress.epoch, progress=progress.share, metrics=dict(progress.metrics))

    def _pipes(self, child: Child, progress: Progress, stream: str, last: list[str]) -> list[Pipe]:
        end = sentinel(self._job.mark).decode().rstrip("\n")

        def take(name: str, lines: list[str]) -> None:
            kept = [line.removesuffix(end) for line in lines if line != end]
            self._take_printed(progress, kept)
            if any(line.endswith(end) for line in lines):
                self._answer(progress)
            if kept:
                last[0] = kept[-1].strip() or last[0]
                self._log.write(stream or name, kept)

        out, err = child.streams
        return [Pipe(out, lambda lines: take("o", lines)), Pipe(err, lambda lines: take("e", lines))]

    def _take_printed(self, progress: Progress, lines: list[str]) -> None:
        if not self._job.metrics:
            return
        for line in lines:
            found = progress.printed(line)
            if found:
                text = json.dumps({"at": time.time(), "metrics": found, "printed": True}) + "\n"
                with open(self._layout.progress, "a", encoding="utf-8") as file:
                    file.write(text)

    def _take_reports(self, progress: Progress, *, tracked: bool = False) -> None:
        """New reports; with ``tracked`` also MLflow's files, which takes a walk through them."""
        if tracked and os.path.isdir(self._layout.mlruns):
            progress.measure(mlflow_files.latest(self._layout.mlruns))
        try:
            size = os.stat(self._layout.progress).st_size
        except FileNotFoundError:
            return
        if size <= self._progress_at:
            return
        with open(self._layout.progress, "rb") as file:
            file.seek(self._progress_at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._progress_at += len(whole)
        for line in whole.splitlines():
            progress.report(line.decode("utf-8", "replace"))

    def _answer(self, progress: Progress) -> None:
        """The script has ended and waits to package its model: tell it the lineage that only we know."""
        self._take_reports(progress, tracked=True)
        self.finish_hashing()
        write_json(self._layout.lineage, {"data": self._identities, "metrics": progress.metrics})

    def _reason_to_end(self, now: float) -> Reason:
        if os.getppid() != self._guardian:
            return "guardian"
        if now >= self._deadline:
            return "timeout"
        if self.stop_wanted():
            return "stop"
        return "preempt" if self.preempt_wanted() else ""

    def _grace_s(self, reason: Reason, now: float) -> float:
        if reason == "guardian":
            return 0.0
        if reason == "preempt":
            notice = float((read_json(self._layout.preempt) or {}).get("notice_s", 0.0))
            # A long notice does not lengthen the attempt: its time limit is what a budget has reserved.
            return min(notice, max(0.0, self._deadline - now) + self._job.stop_grace_s)
        asked = read_json(self._layout.stop) if os.path.exists(self._layout.stop) else None
        return float((asked or {}).get("grace_s", self._job.stop_grace_s))

    def _memory_used(self) -> int:
        pids = processes.descendants(os.getpid())
        used = processes.resident_bytes(pids)
        # The cheap sum counts shared pages often; only when it is too much is the exact one worth its time.
        return processes.proportional_bytes(pids) if used > (self._job.memory_bytes or used) else used

    def _kill_all(self) -> None:
        processes.kill_until_gone(self._job.mark, parents=(os.getpid(),))

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signalled = True


_ENDING = {
    "stop": "stopping: asked to end, killed in {grace:g} s",
    "preempt": "preempted: the capacity is taken away in {grace:g} s",
    "timeout": "stopping: time limit reached, killed in {grace:g} s",
    "guardian": "stopping: the guardian process was killed",
}


def _read(pipe: Pipe) -> bool:
    return pipe.read()


def _reap_orphans(child: int) -> None:
    """Take the exit status of orphans that ended (we are their reaper); the child's own is left for ``Child.wait``."""
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None or ended.si_pid == child:
            return
        os.waitpid(ended.si_pid, 0)


def _oom_kills() -> int:
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
