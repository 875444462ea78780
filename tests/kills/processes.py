"""The processes of one run, as the driver holds them."""

from __future__ import annotations

import heapq
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.kills.cloud import Order
from tests.kills.setting import Planned, Served, Setting

REPOSITORY = Path(__file__).parents[2]


def start(module: str, *arguments: str, errors: Path, talks: bool = False) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE if talks else subprocess.DEVNULL
    with errors.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=file, text=True
        )


@contextmanager
def pretended_cloud(order: Order, folder: Path) -> Iterator[int]:
    """The port of a running cloud."""
    process = start("tests.kills.cloud", msgspec.json.encode(order).decode(), errors=folder / "cloud.err", talks=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=20)


class Worker:
    """One life of one worker."""

    def __init__(self, setting: Setting, folder: Path, number: int, fate: str) -> None:
        self.journal = folder / f"worker-{number}.jsonl"
        self.errors = folder / f"worker-{number}.err"
        self.fate = fate
        self.was_stopped = False
        self.host = f"host-{number}" if setting.elsewhere else ""
        self.began = time.monotonic()
        text = msgspec.json.encode(setting).decode()
        self.process = start("tests.kills.worker", text, str(self.journal), self.host, fate, errors=self.errors)

    def lines(self, what: str) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        told = [json.loads(line) for line in self.journal.read_text().splitlines() if line.endswith("}")]
        return [line for line in told if line["what"] == what]

    def wait_until_up(self, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while self.process.poll() is None and not self.lines("up"):
            assert time.monotonic() < deadline, f"a worker does not come up: {self.errors.read_text()}"
            time.sleep(0.01)

    @property
    def owner(self) -> str:
        told = self.lines("up")
        return str(told[0]["owner"]) if told else ""

    @property
    def restart_s(self) -> float | None:
        """From the start of the process to its first act on a row; ``None``: it has not acted."""
        told = self.lines("acted")
        return told[0]["at"] - self.began if told else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Client(threading.Thread):
    """Does what users want, one thing after the other; what a killed command did not answer is asked for again.

    Args:
        answered: is told every answer.
        fate: of the next process: see ``worker.Doom``.
    """

    def __init__(
        self,
        setting: Setting,
        folder: Path,
        answered: Callable[[str, Planned | Served, str], None],
        fate: Callable[[], str],
    ) -> None:
        super().__init__(name="client", daemon=True)
        self._setting = msgspec.json.encode(setting).decode()
        self._errors = folder / "client.err"
        self._journal = folder / "client.jsonl"
        self._answered = answered
        self._fate = fate
        self._stops = 0
        self._todo: list[tuple[float, int, str, Planned | Served]] = []
        self._asked = 0
        self._busy = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self.process: subprocess.Popen[str] | None = None
        self.deaths: list[int] = []
        """Return codes of those that ended by themselves or by us."""

    def ask(self, what: str, planned: Planned | Served, after_s: float = 0.0) -> None:
        with self._lock:
            self._asked += 1
            heapq.heappush(self._todo, (time.monotonic() + after_s, self._asked, what, planned))

    @property
    def is_idle(self) -> bool:
        with self._lock:
            return not self._todo and not self._busy

    @property
    def deaths_at_points(self) -> int:
        return self._journal.read_text().count("SIGKILL") if self._journal.exists() else 0

    def stands_still(self) -> bool:
        """Whether it has come to a stop at a point since the last time this was asked."""
        stops = self._journal.read_text().count("SIGSTOP") if self._journal.exists() else 0
        before, self._stops = self._stops, stops
        return stops > before

    def go_on(self) -> None:
        process = self.process
        if process is not None:
            process.send_signal(signal.SIGCONT)

    def kill(self) -> bool:
        process = self.process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        return True

    def end(self) -> None:
        self._end.set()
        self.join(30)
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=20)

    def run(self) -> None:
        while not self._end.wait(0.005):
            with self._lock:
                if not self._todo or self._todo[0][0] > time.monotonic():
                    continue
                _, _, what, planned = heapq.heappop(self._todo)
                self._busy = True
            while not self._end.is_set():
                answer = self._try(what, planned)
                if answer is not None:
                    self._answered(what, planned, answer)
                    break
            with self._lock:
                self._busy = False

    def _try(self, what: str, planned: Planned | Served) -> str | None:
        process = self._living()
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{what} {msgspec.json.encode(planned).decode()}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        line = process.stdout.readline()
        return str(json.loads(line)["answer"]) if line.endswith("}\n") else None

    def _living(self) -> subprocess.Popen[str] | None:
        if self.process is not None:
            if self.process.stdin is not None and self.process.poll() is None:
                return self.process
            self.deaths.append(self.process.wait())
            self._close(self.process)
        self.process = start(
            "tests.kills.client", self._setting, str(self._journal), self._fate(), errors=self._errors, talks=True
        )
        assert self.process.stdout is not None
        return self.process if self.process.stdout.readline() else None

    def _close(self, process: subprocess.Popen[str]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what it was not told is told to the next
                    continue
