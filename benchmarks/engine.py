"""The durable loop beside DBOS, on SQLite and PostgreSQL, every write durable.

    python benchmarks/engine.py [--quick] [--rounds 7] [--output docs/benchmarks/engine.md]

One workflow is four steps that do nothing, each recorded before the next begins. Ours writes besides what it writes for every
job: a line of history for each step, the ledger's reservation when it is made and its settlement when it ends, both checked
against a budget. DBOS (``dbos==3.4.*``) lives in an environment of its own (``$XDG_CACHE_HOME/ml-toolbox-benchmarks``, made on
first use). Contestants take turns, each in processes of its own on a fresh database; the tables show medians of rounds.

DBOS is given its best case: its queue is polled ten times a second instead of once, its SQLite file is in WAL mode, and the
latency is that of calling the workflow, without any queue. The PostgreSQL server (of the system's binaries, with its durable
defaults) is started for the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.postgres import binaries, started  # noqa: E402

from ml_toolbox.base.ids import new_ulid  # noqa: E402
from ml_toolbox.engine.charges import Charge, reserve, settle  # noqa: E402
from ml_toolbox.engine.ledger import Posting  # noqa: E402
from ml_toolbox.engine.pacing import Pacer  # noqa: E402
from ml_toolbox.engine.rows import Change, Row  # noqa: E402
from ml_toolbox.engine.runner import Runner  # noqa: E402
from ml_toolbox.engine.store import Store  # noqa: E402
from ml_toolbox.engine.workflow import Claimed, Decision, Done, Effect, Event, Inserted  # noqa: E402

DBOS = "dbos==3.4.*"
WORKERS = 16
STEPS = 4

# What one DBOS process does, in its own environment: told on standard input, answers on standard output.
DBOS_WORKER = """
import json, os, sys, threading, time
url, release = sys.argv[1:3]
from dbos import DBOS
WORKERS = 16
done, hanging = [], []

@DBOS.step()
def step(number, hangs):
    if hangs and number == 1 and not os.path.exists(release):
        hanging.append(1)
        time.sleep(3600)
    return number

@DBOS.workflow()
def workflow(hangs):
    for number in range(4):
        step(number, hangs)
    done.append(1)

DBOS(config={"name": "bench", "system_database_url": url, "log_level": "CRITICAL", "enable_otlp": False})
DBOS.launch()
DBOS.register_queue("bench", worker_concurrency=WORKERS, polling_interval_sec=0.1)

def answer(value):
    print(json.dumps(value), flush=True)

def succeeded(count):
    while len(done) < count:
        time.sleep(0.002)
    while len(DBOS.list_workflows(status="SUCCESS", load_input=False, load_output=False)) < count:
        time.sleep(0.005)

answer("ready")
for line in sys.stdin:
    task = json.loads(line)
    count, value = task.get("count", 0), None
    if task["do"] == "many":
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            DBOS.enqueue_workflow("bench", workflow, False)
        succeeded(count)
        value = [time.perf_counter() - began, time.process_time() - cpu]
    elif task["do"] == "one":
        value = []
        for _ in range(count):
            began = time.perf_counter()
            workflow(False)
            value.append(time.perf_counter() - began)
    elif task["do"] == "hang":
        for _ in range(count):
            DBOS.enqueue_workflow("bench", workflow, True)
        while len(hanging) < count:
            time.sleep(0.002)
    elif task["do"] == "recover":
        succeeded(count)
    elif task["do"] == "rss":
        value = next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
    answer(value)
os._exit(0)
"""


class FourSteps:
    """Ours: what :mod:`ml_toolbox.features.training` does for a job, with steps that do nothing."""

    kind = "bench"
    effects = tuple(f"step-{number}" for number in range(STEPS))

    def __init__(self, release: Path) -> None:
        self.release = release
        self.hanging: list[str] = []
        self.last_steps: list[str] = []

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        match event:
            case Inserted() | Claimed():
                number = int(row.phase.removeprefix("step-"))
                return self._to(number, row, now)
            case Done(effect=effect):
                number = int(effect.name.removeprefix("step-")) + 1
                return self._to(number, row, now) if number < STEPS else self._end(row)
        raise AssertionError(event)

    def _to(self, number: int, row: Row, now: float) -> Decision:
        data = {**row.data, "results": list(range(number))}
        change = Change(phase=f"step-{number}", state="running", data=data, due_at=row.due_at)
        return Decision(change=change, effect=Effect(f"step-{number}", {"number": number}))

    def _end(self, row: Row) -> Decision:
        charge = Charge(**row.data["charge"])
        _, postings = settle(1, charge, billed_s=1.0, reason="ended")
        data = {**row.data, "results": list(range(STEPS))}
        return Decision(change=Change(phase="ended", state="succeeded", data=data, ended=True, postings=postings))

    def observe(self, row: Row) -> None:
        raise AssertionError("nothing to look at")

    def observe_many(self, rows: Sequence[Row]) -> Sequence[Any]:
        raise AssertionError("nothing to look at")

    def perform(self, row: Row, effect: Effect) -> Any:
        if row.spec["hangs"] and effect.arguments["number"] == 1 and not self.release.exists():
            self.hanging.append(row.id)
            time.sleep(3600)
        if effect.arguments["number"] == STEPS - 1:
            self.last_steps.append(row.id)
        return effect.arguments["number"]


class Unpaced(Pacer):
    """These steps call no platform that would have to be spared."""

    def wait(self, key: str, calls: int = 1) -> float:
        return 0.0


def new_row(now: float, *, hangs: bool = False) -> tuple[Row, tuple[Posting, ...]]:
    charge, posting = reserve(1, hourly=360_000, seconds=3600.0, now=now)
    kept = {"hourly": charge.hourly, "held": charge.held, "month": charge.month, "open": True}
    row = Row(
        id=new_ulid(),
        kind=FourSteps.kind,
        name="bench",
        phase="step-0",
        state="queued",
        place="nowhere",
        scopes=("all", "user:bench"),
        spec={"hangs": hangs},
        data={"charge": kept, "results": []},
        due_at=now,
    )
    return row, (posting,)


def own_worker(place: str, release: Path) -> None:
    from ml_toolbox.state.opening import open_store

    store = open_store(place)
    workflow = FourSteps(release)
    runner = Runner(store, [workflow], pacer=Unpaced())
    store.set_limit("all", "cost", "", 10**15)
    executor = ThreadPoolExecutor(WORKERS)
    wake = threading.Event()

    def drive() -> None:
        while True:
            if not runner.tick(executor=executor, linger_s=0.05):
                wake.wait(0.1)
                wake.clear()

    def enqueue(count: int, *, hangs: bool) -> None:
        for _ in range(count):
            row, postings = new_row(store.now(), hangs=hangs)
            store.insert(row, postings=postings)
            wake.set()

    def succeeded(count: int) -> None:
        while len(workflow.last_steps) < count:
            time.sleep(0.002)
        while len(store.find(FourSteps.kind, states=["succeeded"])) < count:
            time.sleep(0.005)

    def answer(value: Any) -> None:
        print(json.dumps(value), flush=True)

    answer("ready")
    for line in sys.stdin:
        task = json.loads(line)
        count = task.get("count", 0)
        value: Any = None
        if task["do"] in ("many", "hang", "recover"):
            threading.Thread(target=drive, daemon=True).start()
        if task["do"] == "many":
            began, cpu = time.perf_counter(), time.process_time()
            enqueue(count, hangs=False)
            succeeded(count)
            value = [time.perf_counter() - began, time.process_time() - cpu]
        elif task["do"] == "one":
            value = []
            for _ in range(count):
                row, postings = new_row(store.now())
                began = time.perf_counter()
                assert runner.insert(row, postings).state == "succeeded"
                value.append(time.perf_counter() - began)
        elif task["do"] == "hang":
            enqueue(count, hangs=True)
            while len(workflow.hanging) < count:
                time.sleep(0.002)
        elif task["do"] == "recover":
            succeeded(count)
        elif task["do"] == "check":
            value = check(store)
        elif task["do"] == "rss":
            value = peak_mib(os.getpid())
        answer(value)
    os._exit(0)


def check(store: Store) -> int:
    """That every workflow has its whole history, and how many lines that is for each."""
    rows = store.find(FourSteps.kind, limit=100_000)
    lines = {len(store.history(row.id)) for row in rows}
    assert all(row.state == "succeeded" and row.data["results"] == list(range(STEPS)) for row in rows)
    assert len(lines) == 1, lines
    return lines.pop()


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


# -- one process spoken to --------------------------------------------------------------------------------------------


@dataclass
class Worker:
    process: subprocess.Popen[str]
    errors: IO[bytes]

    def tell(self, **task: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"a worker died: {self.errors.read().decode()[-3000:]}")
        return json.loads(line)

    def ask(self, **task: Any) -> Any:
        self.tell(**task)
        return self.hear()


@contextlib.contextmanager
def worker(command: list[str]) -> Iterator[tuple[Worker, float]]:
    """A process that is ready, and how long that took."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        one = Worker(process, errors)
        try:
            one.hear()
            yield one, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()


@dataclass
class Contestant:
    title: str
    database: str
    command: Callable[[str, Path], list[str]]
    """From the place of the state and the file whose presence lets steps go on."""
    fresh: Callable[[], str]
    """The place of an empty database."""
    results: list[dict[str, float]] = field(default_factory=list)


def measure(contestant: Contestant, folder: Path, *, workflows: int, singles: int) -> dict[str, float]:
    place, release = contestant.fresh(), folder / f"release-{new_ulid()}"
    command = contestant.command(place, release)
    with worker(command):
        pass  # makes the tables
    result = {}
    with worker(command) as (one, start_s):
        result["start"] = start_s
        wall, cpu = one.ask(do="many", count=workflows)
        result |= {"rate": workflows / wall, "cpu": 1000 * cpu / workflows, "rss": one.ask(do="rss")}
        if contestant.title.startswith("ML Toolbox"):
            result["lines"] = one.ask(do="check")
    place = contestant.fresh()
    command = contestant.command(place, release)
    with worker(command) as (one, _):
        one.ask(do="one", count=3)
        result["latency"] = 1000 * statistics.median(one.ask(do="one", count=singles))
    place = contestant.fresh()
    command = contestant.command(place, release)
    with worker(command) as (one, _):
        one.ask(do="hang", count=WORKERS)
        one.process.send_signal(signal.SIGKILL)
        one.process.wait()
    release.touch()
    began = time.perf_counter()
    with worker(command) as (one, _):
        one.ask(do="recover", count=WORKERS)
        result["recovery"] = time.perf_counter() - began
    return result


# -- contestants ------------------------------------------------------------------------------------------------------


def dbos_python() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "ml-toolbox-benchmarks" / "dbos"
    python = cache / "bin" / "python"
    if not (cache / "complete").exists():
        print(f"installing {DBOS} into {cache}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", DBOS, "psycopg[binary]"], check=True)
        (cache / "complete").touch()
    return python


def contestants(folder: Path, server_url: str | None) -> list[Contestant]:
    python = str(dbos_python())

    def ours(place: str, release: Path) -> list[str]:
        return [sys.executable, __file__, "--worker", place, str(release)]

    def theirs(place: str, release: Path) -> list[str]:
        return [python, "-c", DBOS_WORKER, place, str(release)]

    def file() -> str:
        return str(folder / f"{new_ulid()}.db")

    def file_in_wal_mode() -> str:
        path = file()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        return f"sqlite:///{path}"

    found = [Contestant("ML Toolbox", "SQLite", ours, file), Contestant("DBOS", "SQLite", theirs, file_in_wal_mode)]
    if server_url is not None:

        def database() -> str:
            import psycopg

            name = f"b_{new_ulid().lower()}"
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{name}"'.encode())
            return server_url.rpartition("/")[0] + f"/{name}"

        found.append(Contestant("ML Toolbox", "PostgreSQL", ours, database))
        found.append(Contestant("DBOS", "PostgreSQL", theirs, database))
    return found


COLUMNS: dict[str, tuple[str, str]] = {
    "rate": ("workflows/s", ".0f"),
    "cpu": ("CPU ms per workflow", ".1f"),
    "latency": ("one workflow, ms", ".1f"),
    "start": ("process start, s", ".2f"),
    "rss": ("peak RSS, MiB", ".0f"),
    "recovery": ("recovery after kill -9, s", ".2f"),
}


def table(found: list[Contestant]) -> list[str]:
    heads = ["", "state in", *(head for head, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for contestant in found:
        cells = []
        for name, (_, shape) in COLUMNS.items():
            values = [result[name] for result in contestant.results]
            spread = f"{min(values):{shape}}-{max(values):{shape}}"
            cells.append(f"{statistics.median(values):{shape}} ({spread})")
        lines.append(f"| {contestant.title} | {contestant.database} | {' | '.join(cells)} |")
    return lines


def ratios(found: list[Contestant]) -> list[str]:
    """Of each round by itself, since its contestants met the same machine."""
    lines = []
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        each = sorted(mine["rate"] / other["rate"] for mine, other in zip(ours.results, theirs.results, strict=True))
        lines.append(
            f"- {ours.database}: {statistics.median(each):.1f} times DBOS's workflows a second"
            f" ({each[0]:.1f} to {each[-1]:.1f} in single rounds)"
        )
    return lines


def page(found: list[Contestant], options: argparse.Namespace) -> str:
    lines = found[0].results[0]["lines"]
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    text = f"""
# The durable loop

`python benchmarks/engine.py --rounds {options.rounds}` on {platform.system()}, {os.cpu_count()} cores,
Python {platform.python_version()}; load averages at the end {loads}.
Medians (smallest to largest) of {options.rounds} interleaved rounds.

{options.workflows} workflows of {STEPS} durable steps that do nothing, {WORKERS} at a time, put into the queue one by one,
each durably; the time runs from the first put to the last recorded end. ML Toolbox writes what it writes for a job:
{lines:.0f} lines of history for each workflow, its reservation and its settlement in the ledger, against a budget.
DBOS writes its step results; its queue is polled ten times a second (its default is once), its SQLite file is in WAL mode.

*One workflow*: made, driven and ended in the calling process, each step durable. *CPU* is the worker's, without the server's.
*Recovery*: {WORKERS} workflows hang in their second step, their process is killed; the time from the start of the next process
until all have ended.
"""
    return "\n".join([text.lstrip(), *table(found), "", *ratios(found), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it works; writes no page")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workflows", type=int, default=250)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this one; writes no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "engine.md")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        own_worker(options.worker[0], Path(options.worker[1]))
        return
    if options.quick:
        options.rounds, options.workflows = 1, 100
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = None
        if options.database != "sqlite" and binaries() is None:
            print("PostgreSQL is not installed: its rows are left out", file=sys.stderr)
        elif options.database != "sqlite":
            server = stack.enter_context(contextlib.contextmanager(started)(durable=True)).url
        found = [
            contestant
            for contestant in contestants(folder, server)
            if options.database in (None, contestant.database.lower())
        ]
        for _ in range(options.rounds):
            for contestant in found:
                result = measure(contestant, folder, workflows=options.workflows, singles=5 if options.quick else 20)
                contestant.results.append(result)
                shown = {name: round(value, 2) for name, value in result.items()}
                print(contestant.title, contestant.database, shown, file=sys.stderr)
    text = page(found, options)
    print(text)
    if not options.quick and options.database is None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
