"""``ml-toolbox-runtime train --root DIR``: supervises one attempt of a job from its folder to its final status.

The folder is the whole interface: ``job.json`` says what to run, ``status.json`` always holds the state, ``log`` the output,
``stop`` (when somebody creates it) the wish to end. So the same entry point serves a local job and a container, and
whoever looks from outside needs no connection to it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any

from ml_toolbox.base import processes
from ml_toolbox.runtime import dialects, digest, guardian, mlflow_files, staging
from ml_toolbox.runtime.child import Child, Ended
from ml_toolbox.runtime.ending import why_lost
from ml_toolbox.runtime.job import Layout, RuntimeJob, read_json, write_json
from ml_toolbox.runtime.output import Log
from ml_toolbox.runtime.places import Held, Line
from ml_toolbox.runtime.progress import Progress
from ml_toolbox.runtime.watch import Watch

_WAIT_S = 0.05
"""Between two looks at the queue; a job that finds a free place never waits."""


def main(arguments: list[str]) -> int:
    """Run the attempt in the folder. Started twice on one folder: the second leaves at once and changes nothing.

    ``--standby`` instead of ``--root DIR``: everything is loaded now, and the folder is read from standard input when it is
    known; a closed input means that there will be none.
    """
    match arguments:
        case ["--root", root]:
            pass
        case ["--standby"]:
            root = _told_root()
            if not root:
                return 0
        case _:
            sys.stderr.write("usage: ml-toolbox-runtime train --root DIR | --standby\n")
            return 2
    layout = Layout(os.path.abspath(root))
    if os.path.exists(layout.supervisor):
        return 0
    job = RuntimeJob.read(layout.job)
    return guardian.start(layout, job.mark, lambda: Supervisor(job, layout).run())


def _told_root() -> str:
    root = sys.stdin.readline().strip()
    if root:
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(os.path.join(root, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        os.close(null)
        os.close(log)
    return root


class NotStarted(Exception):
    """The attempt ended before the script ran: why, and in which state."""

    def __init__(self, state: str, failure: digest.Digest | None) -> None:
        super().__init__(state)
        self.state = state
        self.failure = failure


class Supervisor:
    """One attempt: queue, prepare, run, package, record."""

    def __init__(self, job: RuntimeJob, layout: Layout) -> None:
        self.job = job
        self.layout = layout
        self.guardian = os.getppid()
        self.status: dict[str, Any] = {"state": "queued", "attempt": job.attempt, "created_at": time.time()}
        self.log: Log

    def run(self) -> int:
        if not self._claim():
            return guardian.NOT_MINE
        self.log = Log(self.layout.log)
        self.progress = Progress(self.job.metrics)
        self.watch = Watch(self.job, self.layout, self.log, self.guardian)
        try:
            self._finish(*self._attempt())
        except NotStarted as ended:
            self._finish(ended.state, ended.failure, {})
        return 0

    def _claim(self) -> bool:
        """Become the one supervisor of this folder: the first to link the file is."""
        mine = f"{self.layout.supervisor}.{os.getpid()}"
        write_json(mine, {"supervisor": str(processes.identity()), "guardian": str(processes.identity(self.guardian))})
        try:
            os.link(mine, self.layout.supervisor)
        except FileExistsError:
            return False
        finally:
            os.unlink(mine)
        return True

    def _attempt(self) -> tuple[str, digest.Digest | None, dict[str, Any]]:
        place = self._wait_for_place()
        self._note(state="provisioning")
        devices = self._take_devices()
        interpreter = self._prepare()
        self.layout.make(self.job.checkpoints)
        channels = self._stage()
        for path, value in dialects.files(self.job, self.layout, channels).items():
            write_json(path, value)
        self.watch.hash_inputs(self.job.inputs, self.job.identities)
        command = self._command(interpreter, channels)
        try:
            child = Child(
                command,
                cwd=self.layout.code,
                environment=self._environment(interpreter, channels, devices),
                cpus=_cpu_set(self.job.cpus, place),
            )
        except OSError as error:
            failure = digest.of_environment(f"{command[0]} cannot be started: {error.strerror}")
            raise NotStarted("failed", failure) from error
        self._note(state="running", started_at=time.time())
        self.watch.begin(self.job.max_duration_s)
        ended = self.watch.follow(child, self.progress, self.status)
        outcome = self._outcome(ended, interpreter)
        for held in (place, devices):
            held.release()
        return outcome

    def _wait_for_place(self) -> Held:
        if self.job.queue is None:
            return Held([], [])
        line = Line(self.job.queue, 1, _ticket(self.job))
        held = line.try_take()
        if held is None:
            self._note(state="queued", message=f"waiting for one of {self.job.queue.total} places")
            self.log.say(f"waiting: {self.job.queue.total} jobs run already")
        while held is None:
            self._leave_when_asked()
            time.sleep(_WAIT_S)
            held = line.try_take()
        return held

    def _take_devices(self) -> Held:
        if self.job.devices is None or not self.job.gpus:
            return Held([], [])
        line = Line(self.job.devices, self.job.gpus, _ticket(self.job))
        while (held := line.try_take()) is None:
            self._note(state="queued", message=f"waiting for {self.job.gpus} of {self.job.devices.total} GPUs")
            self._leave_when_asked()
            time.sleep(_WAIT_S)
        return held

    def _leave_when_asked(self) -> None:
        if self.watch.stop_wanted():
            raise NotStarted("stopped", None)
        if self.watch.preempt_wanted():
            raise NotStarted("failed", digest.of_preemption())
        if os.getppid() != self.guardian:
            raise NotStarted("failed", why_lost(self.layout, "its guardian was killed"))

    def _prepare(self) -> str:
        """The interpreter to use, after the command that makes its environment has run."""
        if self.job.prepare is None:
            return self.job.interpreter
        self.log.say("preparing the environment")
        child = Child(self.job.prepare, cwd=self.layout.root, environment=self._marked(dict(os.environ)), cpus=None)
        self.watch.begin(self.job.max_duration_s)
        ended = self.watch.follow(child, Progress({}), None, stream="s")
        if ended.reason == "stop":
            raise NotStarted("stopped", None)
        if ended.reason == "preempt":
            raise NotStarted("failed", digest.of_preemption())
        if ended.exit_code != 0 or not ended.last_line:
            cause = ended.last_line or f"the environment could not be made (exit status {ended.exit_code})"
            raise NotStarted("failed", digest.of_environment(cause))
        return ended.last_line

    def _stage(self) -> dict[str, dialects.Channel]:
        try:
            return staging.stage(self.job, self.layout, self.log.say)
        except FileNotFoundError as error:
            failure = digest.of_exception(error, self.layout.code)
            raise NotStarted("failed", {**failure, "kind": "missing-file", "cause": str(error)}) from error
        except OSError as error:
            raise NotStarted("failed", digest.of_environment(str(error))) from error

    def _command(self, interpreter: str, channels: dict[str, dialects.Channel]) -> list[str]:
        if self.job.script is None:
            words = [*(self.job.command or []), *self.job.arguments]
            return dialects.substituted(words, self.job, self.layout, channels)
        vector = dialects.arguments(self.job, self.layout, channels)
        return [*_runner(interpreter), self.layout.root, self.job.script, *vector]

    def _environment(self, interpreter: str, channels: dict[str, dialects.Channel], devices: Held) -> dict[str, str]:
        cpus = math.ceil(self.job.cpus) if self.job.cpus else len(os.sched_getaffinity(0))
        environment = dict(os.environ)
        if self.job.cpus:
            threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
            environment |= dict.fromkeys(threads, str(cpus))
        if self.job.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in devices.numbers)
        host = dialects.Host(cpus=cpus, gpus=len(devices.numbers))
        environment |= dialects.variables(self.job, self.layout, channels, host)
        if "MLFLOW_TRACKING_URI" not in environment:
            environment |= mlflow_files.variables(self.layout.mlruns)
        environment["PYTHONUNBUFFERED"] = "1"
        environment["PATH"] = os.pathsep.join([os.path.dirname(interpreter), environment.get("PATH", os.defpath)])
        return self._marked(environment | self.job.variables)

    def _marked(self, environment: dict[str, str]) -> dict[str, str]:
        return {**environment, processes.MARK_VARIABLE: self.job.mark}

    def _outcome(self, ended: Ended, interpreter: str) -> tuple[str, digest.Digest | None, dict[str, Any]]:
        self.status["exit_code"] = ended.exit_code
        result = read_json(self.layout.result) or {}
        match ended.reason:
            case "memory":
                return "failed", digest.of_memory_limit(self.job.memory_bytes or 0, ended.used_bytes), {}
            case "timeout":
                return "failed", digest.of_timeout(self.job.max_duration_s), {}
            case "guardian":
                return "failed", why_lost(self.layout, "its guardian was killed"), {}
            case "stop":
                return "stopped", None, result
            case "preempt" if not self._finished(ended, result):
                return "failed", digest.of_preemption(), {}
        if ended.exit_code == 0:
            if "model" not in result and self.layout_has_model():
                return self._package(interpreter)
            return "succeeded", None, result
        failure = result.get("failure") or digest.of_ending(
            digest.Ending(ended.exit_code, list(self.log.tail), ended.oom_kills, ended.peak_bytes), self.layout.code
        )
        return "failed", self._with_failure_file(failure), {}

    def _finished(self, ended: Ended, result: dict[str, Any]) -> bool:
        """Whether a script that was given notice came to its own end all the same. An exit status of 0 alone does not tell:
        a script that saves and leaves when it is asked to gives the same. In doubt it did not, and another attempt ends at
        once where this one had finished."""
        return ended.exit_code == 0 and "model" in result and not result.get("left_early")

    def layout_has_model(self) -> bool:
        return any(files for _, _, files in os.walk(self.layout.model))

    def _package(self, interpreter: str) -> tuple[str, digest.Digest | None, dict[str, Any]]:
        """Package in a process of its own what a command, or a script that left by ``os._exit``, wrote."""
        self.watch.finish_hashing()
        environment = self._environment(interpreter, {}, Held([], []))
        child = Child(
            [*_runner(interpreter), self.layout.root], cwd=self.layout.code, environment=environment, cpus=None
        )
        ended = self.watch.follow(child, self.progress, self.status)
        result = read_json(self.layout.result)
        if result is None and ended.reason == "preempt":
            return "failed", digest.of_preemption(), {}
        return "succeeded", None, result or {"model": None, "problem": "the packaging process died"}

    def _with_failure_file(self, failure: digest.Digest) -> digest.Digest:
        """SageMaker's ``output/failure``: when a script wrote one and raised nothing, its first line is the better cause."""
        if failure["kind"] != "exit-code" or not os.path.isfile(self.layout.failure):
            return failure
        with open(self.layout.failure, encoding="utf-8", errors="replace") as file:
            first = file.read(1024).strip().partition("\n")[0]
        return {**failure, "cause": first, "evidence": failure["cause"]} if first else failure

    def _finish(self, state: str, failure: digest.Digest | None, result: dict[str, Any]) -> None:
        processes.kill_until_gone(self.job.mark, parents=(os.getpid(),))
        if failure is not None:
            self.log.say(f"failed: {failure['cause']}" + (f" at {failure['where']}" if failure["where"] else ""))
        elif result.get("problem"):
            self.log.say(f"no model package: {result['problem']}")
        for note in result.get("notes", ()):
            self.log.say(f"model: {note}")
        self.log.close()
        self.watch.note_progress(self.progress, self.status)
        self._note(
            durable=True,
            state=state,
            failure=failure,
            model=result.get("model"),
            message=result.get("problem", ""),
            ended_at=time.time(),
        )

    def _note(self, *, durable: bool = False, **values: Any) -> None:
        changed = {**self.status, "message": "", **values}
        if changed != self.status or durable:
            self.status.clear()
            self.status.update(changed)
            write_json(self.layout.status, self.status, durable=durable)


def _runner(interpreter: str) -> list[str]:
    # -P: the current folder (the user's sources) stays off the path until our own imports are done.
    return [interpreter, "-P", "-m", "ml_toolbox.runtime.script"]


def _ticket(job: RuntimeJob) -> str:
    """Position in a line: jobs sort by their time-ordered ids."""
    return f"{job.job}-{job.attempt:04d}"


def _cpu_set(cpus: float | None, place: Held) -> set[int] | None:
    """Whole cores for the job, spread by its place in the queue so that neighbours get different ones."""
    if cpus is None:
        return None
    allowed = sorted(os.sched_getaffinity(0))
    count = min(len(allowed), math.ceil(cpus))
    first = (place.numbers[0] if place.numbers else 0) * count
    return {allowed[(first + index) % len(allowed)] for index in range(count)}
