"""``python -m ml_toolbox.providers.local.endpoint_supervisor FOLDER``: keeps one endpoint's servers as they are wished.

Holds the listening sockets itself and hands each server its own: a server that is killed, restarted or taken away loses no
connection that waits to be accepted, and the port stays ours in between. Standard library only; one thread.

When it dies, by whatever signal, its servers die at once: the kernel closes their lifeline (and sends SIGKILL where it
can). The next look at the endpoint starts it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ml_toolbox.base.processes import MARK_VARIABLE, identity, kill_until_gone, resident_bytes
from ml_toolbox.providers.local.endpoint_folder import EndpointFolder, LogWriter
from ml_toolbox.providers.local.endpoint_sockets import SharedPort
from ml_toolbox.runtime.job import read_json, write_json
from ml_toolbox.runtime.output import Pipe

TICK_S = 0.1
SILENCE_READY_S = 15.0
"""A ready server reports every second from its event loop; one that is silent this long hangs and is killed."""
SILENCE_LOADING_S = 120.0
"""While a model loads, foreign code may hold the interpreter."""
DRAIN_S = 27.0
"""From SIGTERM to SIGKILL; the server's own limit is 25."""
STEADY_S = 10.0
"""A server that was ready this long starts with a clean record when it crashes next."""


def restart_delay_s(failures: int) -> float:
    """Pause before the next start: at once after the first crash, then doubling up to 15 seconds."""
    return 0.0 if failures <= 1 else min(15.0, 0.25 * 2.0 ** min(failures - 2, 10))


class Replica:
    """One server process and what it last said."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.process: subprocess.Popen[bytes] | None = None
        self.status: dict[str, Any] = {}
        self.pipes: list[Pipe] = []
        self.failures = 0
        self.restarts = -1
        self.start_at = 0.0
        self.heard_at = 0.0
        self.ready_since: float | None = None
        self.kill_at: float | None = None
        """Set once it was asked to leave."""
        self.error = ""

    @property
    def ready(self) -> bool:
        return self.process is not None and self.kill_at is None and bool(self.status.get("ready"))

    def hear(self, lines: list[str]) -> bool:
        """Take status lines; whether anything but the time changed."""
        now = time.monotonic()
        self.heard_at = now
        before = self.status
        for line in lines:
            with contextlib.suppress(ValueError):
                self.status = json.loads(line)
        if self.status.get("ready") and self.ready_since is None:
            self.ready_since = now
        self.error = str(self.status.get("error") or "")
        return before != self.status

    def seen(self) -> dict[str, Any]:
        """For ``observed.json``."""
        return {
            "slot": self.slot,
            "pid": self.process.pid if self.process else None,
            "ready": self.ready,
            "revision": self.status.get("revision", ""),
            "wanted": self.status.get("wanted", ""),
            "variants": self.status.get("variants", []),
            "error": self.error,
            "failures": self.failures,
            "restarts": max(0, self.restarts),
        }


class Supervisor:
    """The loop. Every method is called from it."""

    def __init__(self, folder: EndpointFolder) -> None:
        self._folder = folder
        self._log = LogWriter(folder.logs)
        self._selector = selectors.DefaultSelector()
        self._replicas: dict[int, Replica] = {}
        self._request: dict[str, Any] = {}
        self._mark_seen: tuple[int, int, int] | None = None
        self._shared: SharedPort | None = None
        self._lifeline = os.pipe()
        self._leaving = False
        self._served = bool(folder.read_observed().get("served"))
        self._port: int | None = folder.read_observed().get("port")
        self._error = ""
        self._unrouted_said = False
        self._written: dict[str, Any] | None = None

    def run(self) -> int:
        """Until asked to leave (SIGTERM, or the mark of deletion) and all servers are gone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._leave())
        while True:
            self._look_at_wish()
            if self._leaving and not self._replicas:
                self._record()
                return 0
            if not self._leaving:
                self._listen()
                self._scale()
            self._reap()
            self._judge()
            self._route()
            self._record()
            for key, _ in self._selector.select(TICK_S):
                if not key.data.read():
                    self._selector.unregister(key.fileobj)

    # -- the wish -----------------------------------------------------------------------------------------------------

    def _look_at_wish(self) -> None:
        if self._folder.deleting.exists() and not self._leaving:
            self._leave()
        mark = _mark(self._folder.request)
        if mark == self._mark_seen:
            return
        self._mark_seen = mark
        request = self._folder.read_request()
        if request is None:
            self._leave()
            return
        self._request = request
        body = request["body"]
        write_json(
            str(self._folder.serve),
            {"name": body["name"], "revision": request["revision"], "variants": body["variants"]},
        )
        self._log.say(f"wish {request['revision'][:12]}: {body['replicas']} replica(s), {_shares(body)}")

    def _leave(self) -> None:
        self._leaving = True
        for replica in self._replicas.values():
            self._dismiss(replica)
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _listen(self) -> None:
        fixed = self._request["body"].get("port")
        if self._shared is not None and fixed in (None, self._shared.port):
            return
        for port in [fixed] if fixed else [self._port, None]:
            try:
                shared = SharedPort(port)
            except OSError as error:
                self._error = f"cannot listen on port {port}: {error.strerror}"
                continue
            if self._shared is not None:
                # Another port was wished. Servers get their socket at their start only, so all are replaced.
                self._log.say(f"moving to port {shared.port}")
                for replica in self._replicas.values():
                    self._dismiss(replica)
                self._shared.close()
            self._shared, self._port, self._error = shared, shared.port, ""
            return

    def _route(self) -> None:
        """Let the kernel give new connections to ready servers only, and forget the sockets of slots that are gone."""
        if self._shared is None:
            return
        self._shared.keep(max(self._replicas, default=0) + 1)
        ready = [slot for slot, replica in sorted(self._replicas.items()) if replica.ready]
        if not self._shared.choose(ready) and not self._unrouted_said:
            self._unrouted_said = True
            self._log.say("this system cannot route by health: a server that restarts may delay new connections")

    # -- processes ----------------------------------------------------------------------------------------------------

    def _scale(self) -> None:
        wanted = int(self._request["body"]["replicas"])
        for slot in range(wanted):
            if slot not in self._replicas:
                self._replicas[slot] = Replica(slot)
        for slot, replica in list(self._replicas.items()):
            if slot >= wanted:
                if replica.process is None:
                    del self._replicas[slot]
                else:
                    self._dismiss(replica)
        now = time.monotonic()
        for replica in self._replicas.values():
            if replica.process is None and now >= replica.start_at and self._shared is not None:
                self._start(replica, self._shared.socket_of(replica.slot))

    def _start(self, replica: Replica, listening: socket.socket) -> None:
        status_read, status_write = os.pipe()
        inherited = (listening.fileno(), status_write, self._lifeline[0])
        command = [
            sys.executable, "-m", "ml_toolbox.runtime.serve", "--spec", str(self._folder.serve),
            "--replica", str(replica.slot), "--listen-fd", str(inherited[0]), "--status-fd", str(inherited[1]),
            "--lifeline-fd", str(inherited[2]),
        ]  # fmt: skip
        cpus = self._request["body"]["resources"].get("cpus")
        if cpus:
            command += ["--threads", str(max(1, int(cpus)))]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            env={**os.environ, MARK_VARIABLE: self._folder.mark, "PYTHONUNBUFFERED": "1"},
        )
        os.close(status_write)
        replica.process = process
        replica.restarts += 1
        replica.status, replica.ready_since, replica.kill_at = {}, None, None
        replica.heard_at = time.monotonic()
        self._attach(replica, status_read, lambda lines: replica.hear(lines))
        for stream, name in ((process.stdout, "o"), (process.stderr, "e")):
            if stream is not None:
                self._attach(replica, os.dup(stream.fileno()), lambda lines, name=name: self._log.write(name, lines))
                stream.close()

    def _attach(self, replica: Replica, descriptor: int, take: Any) -> None:
        pipe = Pipe(descriptor, take)
        replica.pipes.append(pipe)
        self._selector.register(descriptor, selectors.EVENT_READ, pipe)

    def _dismiss(self, replica: Replica) -> None:
        if replica.process is not None and replica.kill_at is None:
            replica.kill_at = time.monotonic() + DRAIN_S
            replica.process.terminate()

    def _reap(self) -> None:
        now = time.monotonic()
        for slot, replica in list(self._replicas.items()):
            process = replica.process
            if process is None and self._leaving:
                del self._replicas[slot]
            if process is None or process.poll() is None:
                continue
            self._detach(replica)
            replica.process = None
            dismissed = replica.kill_at is not None
            replica.kill_at = None
            if dismissed and (self._leaving or slot >= int(self._request["body"]["replicas"])):
                del self._replicas[slot]
                continue
            if dismissed:
                replica.start_at = now
                continue
            steady = replica.ready_since is not None and now - replica.ready_since > STEADY_S
            replica.failures = 1 if steady else replica.failures + 1
            replica.start_at = now + restart_delay_s(replica.failures)
            replica.error = replica.error or f"server {slot} ended with {_how(process.returncode)}"
            replica.status = {}
            self._log.say(f"server {slot} (pid {process.pid}) ended with {_how(process.returncode)}")
            if self._leaving:
                del self._replicas[slot]

    def _detach(self, replica: Replica) -> None:
        """Read what the dead process still said, then let go of its pipes."""
        for pipe in replica.pipes:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(pipe.descriptor)
            pipe.drain(0.5)
        replica.pipes = []

    def _judge(self) -> None:
        now = time.monotonic()
        limit = self._request["body"]["resources"].get("memory_gib") if self._request else None
        for replica in self._replicas.values():
            process = replica.process
            if process is None:
                continue
            if replica.ready_since is not None and replica.failures and now - replica.ready_since > STEADY_S:
                replica.failures = 0
            silence = now - replica.heard_at
            if replica.kill_at is not None:
                if now > replica.kill_at:
                    process.kill()
            elif silence > (SILENCE_READY_S if replica.ready else SILENCE_LOADING_S):
                self._log.say(f"server {replica.slot} has said nothing for {silence:.0f} s: killed")
                replica.error = "the server hung"
                process.kill()
            elif limit and resident_bytes([process.pid]) > limit * 2**30:
                self._log.say(f"server {replica.slot} took more than {limit:g} GiB: killed")
                replica.error = f"the server took more than {limit:g} GiB of memory"
                process.kill()

    # -- what is seen -------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        replicas = [replica.seen() for _, replica in sorted(self._replicas.items())]
        self._served = self._served or any(replica["ready"] for replica in replicas)
        observed = {
            "supervisor": str(identity()),
            "port": self._port,
            "served": self._served,
            "error": self._error,
            "replicas": replicas,
        }
        if observed != self._written:
            write_json(str(self._folder.observed), observed)
            self._written = observed


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _shares(body: dict[str, Any]) -> str:
    return ", ".join(f"{variant['name']} {variant['weight']:g} %" for variant in body["variants"])


def _how(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"status {returncode}"


def main(argv: list[str]) -> int:
    """Supervise the endpoint in the folder ``argv[0]``, unless another process already does."""
    folder = EndpointFolder(Path(argv[0]))
    lock = os.open(folder.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    # Servers of a supervisor that was killed die by themselves within a second; nothing of theirs may meet ours.
    kill_until_gone(folder.mark, spare=(os.getppid(),))
    if read_json(str(folder.request)) is None:
        return 0
    return Supervisor(folder).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
