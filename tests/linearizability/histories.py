"""Histories of four clients with fifty operations each, recorded on a store: in turns, in threads, in processes."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from ml_toolbox.testing.linearizability import Operation
from tests.linearizability.clients import CLIENTS, OPERATIONS, Client
from tests.linearizability.turns import Turns, TurnsClock
from tests.unit.features.registry.support import Fault, FaultyStore

_ROOT = Path(__file__).parents[2]
_END_LIMIT_S = 60.0

Open = Callable[[int], ObjectStore]
"""Opens the same store for the n-th client, as a process of its own would."""


class Record:
    """What the clients of one history logged."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Operation]] = {}

    def log(self, operation: str, steps: list[Operation]) -> None:
        self._steps[operation] = steps

    @property
    def history(self) -> list[Operation]:
        return list(itertools.chain.from_iterable(self._steps.values()))

    @property
    def operations(self) -> int:
        return len(self._steps)


def in_turns(open_: Open, package: Path, seed: int, *, fault: Fault | None = None) -> Record:
    """Clients whose requests the seed interleaves: the same history whenever it is run again."""
    turns, record, lock = Turns(seed), Record(), threading.Lock()
    inner: Fault = fault or (lambda method, key, proceed: proceed())

    def scheduled(method: str, key: str, proceed: Callable[[], object]) -> object:
        turns.pass_on()
        with lock:  # what a fault remembers; only threads beside the clients ever wait here
            return inner(method, key, proceed)

    def client(name: int) -> Callable[[], None]:
        store = FaultyStore(open_(name), scheduled)
        registry = Registry(store, actor=f"client-{name}", clock=TurnsClock(turns))

        def run() -> None:
            with registry:
                Client(name, registry, package, turns.tick, record.log).run(seed)

        return run

    turns.run([client(name) for name in range(CLIENTS)])
    return record


def in_threads(open_: Open, package: Path, seed: int) -> Record:
    """Clients that race as the machine lets them."""
    record, barrier = Record(), threading.Barrier(CLIENTS)
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            with Registry(open_(name), actor=f"client-{name}") as registry:
                client = Client(name, registry, package, now, record.log)
                barrier.wait()
                client.run(seed)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return record


def now() -> float:
    """Milliseconds of the clock that all processes of one machine share."""
    return time.monotonic_ns() / 1e6


class Processes:
    """Four processes that race, one history after the other. ``kill``: one of them dies by SIGKILL in the middle, its last
    operation without an outcome, and is started anew for the next history."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._running = [self._start(name) for name in range(CLIENTS)]

    def _start(self, name: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.linearizability.histories", str(name), str(self._package)]
        return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def record(self, uri: str, seed: int, *, kill: bool) -> Record:
        record = Record()
        for process in self._running:
            _send(process, f"{uri} {seed}")
        assert [_line(process) for process in self._running] == [b"ready\n"] * CLIENTS
        for process in self._running:
            _send(process, "go")
        victim = seed % CLIENTS if kill else -1
        # Two lines an operation: dead in the middle of one, or between two.
        lines = random.Random(seed).randint(1, 2 * OPERATIONS - 10)
        listeners = [
            threading.Thread(target=self._listen, args=(name, record, lines if name == victim else 0))
            for name in range(CLIENTS)
        ]
        for listener in listeners:
            listener.start()
        for listener in listeners:
            listener.join()
        dead = [name for name, process in enumerate(self._running) if process.poll() is not None]
        assert dead == ([victim] if kill else []), "a client died by itself"
        for name in dead:
            self._end(self._running[name])
            self._running[name] = self._start(name)
        return record

    def _listen(self, name: int, record: Record, kill_after: int) -> None:
        process = self._running[name]
        heard = 0
        while (line := _line(process)) not in (b"end\n", b""):
            if line.endswith(b"\n"):  # else it died while it spoke
                record.log(*pickle.loads(base64.b64decode(line)))
            heard += 1
            if heard == kill_after:
                process.send_signal(signal.SIGKILL)
        if kill_after:
            process.wait(timeout=_END_LIMIT_S)

    def close(self) -> None:
        for process in self._running:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait(timeout=_END_LIMIT_S)
        process.stdin.close()
        process.stdout.close()


def _send(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def serve(name: int, package: Path) -> None:
    """One of the ``Processes``. Every line is out before the next step is taken: whatever was begun is known."""

    def log(operation: str, steps: list[Operation]) -> None:
        os.write(1, base64.b64encode(pickle.dumps((operation, steps))) + b"\n")

    for line in sys.stdin:
        uri, seed = line.split()
        with Registry(open_store(uri), actor=f"client-{name}") as registry:
            client = Client(name, registry, package, now, log)
            os.write(1, b"ready\n")
            sys.stdin.readline()
            client.run(int(seed))
        os.write(1, b"end\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
