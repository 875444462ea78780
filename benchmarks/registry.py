"""The model registry beside MLflow's, on this machine, every commit durable.

    python benchmarks/registry.py [--quick] [--output docs/benchmarks/registry.md]
    python benchmarks/registry.py --writers 1 8     only registering, with so many writers; prints, writes no page

MLflow is installed into an environment of its own (``$XDG_CACHE_HOME/ml-toolbox-benchmarks``, made on first use) and
driven through ``MlflowClient`` straight on its SQL store: no HTTP, its best case. Its PostgreSQL rows need the programs
``initdb`` and ``postgres`` on the PATH; the server runs in a temporary folder, with its default (durable) settings, as
user ``nobody`` when this is run by root. Rounds of all contestants are interleaved; the tables show medians of rounds.

Everything lies in ``$TMPDIR``. ext4 without a journal passes over inodes deleted in the last minutes, so where thousands of
files were just deleted every new one costs up to 0.2 ms more: point ``TMPDIR`` to another part of the disk, or wait.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
MLFLOW = "mlflow==3.*"
LIMIT_S = 900

# What one MLflow process does, in its own environment: told on standard input, answers on standard output.
MLFLOW_WORKER = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    name, answer = task["name"], None
    if task["do"] == "create":
        client.create_registered_model(name)
    elif task["do"] == "register":
        answer = []
        for _ in range(task["count"]):
            began = time.perf_counter()
            version = client.create_model_version(
                name, source="/models/churn", tags={"team": "risk"}, description="nightly retrain"
            )
            answer.append((time.perf_counter() - began, int(version.version)))
    elif task["do"] == "stage":
        client.transition_model_version_stage(name, str(task["version"]), "Production")
    else:
        calls = {
            "latest by stage": lambda: client.get_latest_versions(name, stages=["Production"]),
            "one version": lambda: client.get_model_version(name, str(task["version"])),
            "newest 100": lambda: client.search_model_versions(
                f"name='{name}'", max_results=100, order_by=["version_number DESC"]
            ),
            "list all": lambda: client.search_model_versions(f"name='{name}'", max_results=200000),
        }
        answer = []
        for _ in range(task["count"]):
            began = time.perf_counter()
            found = calls[task["do"]]()
            answer.append(time.perf_counter() - began)
        if task["do"] == "list all":
            assert len(found) == task["expect"], len(found)
    print(json.dumps(answer), flush=True)
"""


def own_worker(uri: str) -> None:
    """One process of ours, spoken to like the other."""
    from ml_toolbox.features.registry import Registry
    from ml_toolbox.objects import open_store

    registry = Registry(open_store(uri), actor="benchmark")
    package = Path(uri.removeprefix("file://")).parent / "package"
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        name = task["name"]
        answer: list[Any] = []
        if task["do"] == "register":
            for _ in range(task["count"]):
                began = time.perf_counter()
                version = registry.register(name, package, tags={"team": "risk"}, description="nightly retrain")
                answer.append((time.perf_counter() - began, version.number))
        elif task["do"] == "stage":
            registry.promote(f"{name}:{task['version']}", "Production")
        else:
            for _ in range(task["count"]):
                # A registry that has seen nothing: no answer comes from its memory.
                fresh = Registry(open_store(uri), actor="benchmark")
                began = time.perf_counter()
                if task["do"] == "latest by stage":
                    fresh.get(f"{name}@Production")
                elif task["do"] == "one version":
                    fresh.get(f"{name}:{task['version']}")
                elif task["do"] == "newest 100":
                    assert len(list(fresh.versions(name, limit=100))) == 100
                elif task["do"] == "list all":
                    found = fresh.versions(name)
                    numbers, _ = found.numbers, found[0]
                    assert len(numbers) == task["expect"]
                else:
                    assert sum(1 for _ in fresh.versions(name)) == task["expect"]
                answer.append(time.perf_counter() - began)
        print(json.dumps(answer), flush=True)


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
            raise SystemExit(f"a worker died: {self.errors.read().decode()[-2000:]}")
        return json.loads(line)

    def ask(self, **task: Any) -> Any:
        self.tell(**task)
        return self.hear()


@dataclass
class Contestant:
    title: str
    command: list[str]

    @contextlib.contextmanager
    def workers(self, count: int) -> Iterator[list[Worker]]:
        with contextlib.ExitStack() as files:
            started = []
            for _ in range(count):
                errors = files.enter_context(tempfile.TemporaryFile())
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                started.append(Worker(subprocess.Popen(self.command, text=True, **pipes), errors))
            try:
                for worker in started:
                    worker.hear()
                yield started
            finally:
                for worker in started:
                    assert worker.process.stdin is not None
                    worker.process.stdin.close()
                for worker in started:
                    worker.process.wait(LIMIT_S)


def make_package(folder: Path) -> None:
    """What every registration registers: three files of 12 KB together, and a manifest of 1.2 KB."""
    import hashlib

    files = {"model.skops": os.urandom(10_000), "MLmodel": b"m" * 500, "requirements.txt": b"scikit-learn==1.7\n" * 80}
    column = {"name": "", "dtype": "float32", "shape": [], "nullable": False}
    manifest = {
        "format_version": 1,
        "flavour": "sklearn",
        "created_at": "2026-01-01T00:00:00.000Z",
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "executes_code": False}
            for path, data in files.items()
        ],
        "engines": [],
        "signature": {
            "layout": "matrix",
            "inputs": [{**column, "name": f"x{i}"} for i in range(6)],
            "outputs": [{**column, "name": "prediction"}],
            "classes": [0, 1],
        },
        "requirements": ["scikit-learn==1.7"],
        "environment": {"python": platform.python_version()},
        "lineage": {
            "job": "job-01",
            "data": {},
            "code_sha256": "",
            "hyperparameters": {"n_estimators": 200, "max_depth": 12, "learning_rate": 0.1},
            "metrics": {"accuracy": 0.93, "loss": 0.1, "f1": 0.9},
        },
        "metadata": {},
    }
    folder.mkdir()
    for path, data in files.items():
        (folder / path).write_bytes(data)
    (folder / "mltoolbox.json").write_text(json.dumps(manifest))


def mlflow_python() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "ml-toolbox-benchmarks" / "mlflow"
    python = cache / "bin" / "python"
    if not (cache / "complete").exists():
        print(f"installing {MLFLOW} into {cache}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", MLFLOW, "psycopg2-binary"], check=True)
        (cache / "complete").touch()
    return python


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """A server for this run; ``None`` when the programs are not there."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if not initdb or not server:
        print("no initdb and postgres on the PATH: the PostgreSQL rows are left out", file=sys.stderr)
        yield None
        return
    identity: dict[str, Any] = {}
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        identity = {"user": "nobody", "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    data = str(folder / "data")
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": environment,
        "cwd": folder,
    }
    subprocess.run([initdb, "-D", data, "-U", "bench", "--auth=trust"], check=True, **quiet, **identity)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}"]
    process = subprocess.Popen([server, "-D", data, *options], **quiet, **identity)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("postgres did not start")
            time.sleep(0.1)
        yield f"postgresql+psycopg2://bench@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(60)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure_writers(contestants: list[Contestant], counts: dict[int, int], rounds: int) -> list[list[str]]:
    """Rows: contestant, writers, registrations/s, p50, p99 (ms)."""
    results: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for writers, total in counts.items():
        for round_ in range(rounds):
            for contestant in contestants:
                name = f"churn-{writers}-{round_}"
                each = total // writers
                with contestant.workers(writers) as workers:
                    if contestant.title.startswith("MLflow"):
                        workers[0].ask(do="create", name=name)
                    else:
                        workers[0].ask(do="register", name=f"{name}-warm", count=1)
                    began = time.perf_counter()
                    for worker in workers:
                        worker.tell(do="register", name=name, count=each)
                    answers = [worker.hear() for worker in workers]
                    wall = time.perf_counter() - began
                numbers = sorted(number for answer in answers for _, number in answer)
                if numbers != list(range(1, each * writers + 1)):
                    raise SystemExit(f"{contestant.title}: numbers lost or given twice")
                times = [1000 * seconds for answer in answers for seconds, _ in answer]
                row = (each * writers / wall, percentile(times, 0.5), percentile(times, 0.99))
                results.setdefault((writers, contestant.title), []).append(row)
                print(writers, contestant.title, *(f"{value:.1f}" for value in row), file=sys.stderr)
    table = []
    for (writers, title), rows in results.items():
        rate, p50, p99 = (statistics.median(column) for column in zip(*rows, strict=True))
        table.append([str(writers), title, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}"])
    return table


REGISTERING = ["writers", "", "registrations/s", "p50 ms", "p99 ms"]
READS = {"latest by stage": 20, "one version": 20, "newest 100": 5, "list all": 3}


def measure_reads(contestants: list[Contestant], versions: int, rounds: int) -> list[list[str]]:
    """Rows: contestant, then milliseconds of each read at so many versions."""
    taken: dict[str, dict[str, list[float]]] = {}
    for contestant in contestants:
        own = not contestant.title.startswith("MLflow")
        with contestant.workers(1) as (worker,):
            if not own:
                worker.ask(do="create", name="many")
            worker.ask(do="register", name="many", count=versions)
            worker.ask(do="stage", name="many", version=versions // 2)
    for _ in range(rounds):
        for contestant in contestants:
            own = not contestant.title.startswith("MLflow")
            with contestant.workers(1) as (worker,):
                for read, count in {**READS, **({"list all, each built": 3} if own else {})}.items():
                    answer = worker.ask(do=read, name="many", count=count, version=versions // 3, expect=versions)
                    taken.setdefault(contestant.title, {}).setdefault(read, []).append(statistics.median(answer))
    columns = [*READS, "list all, each built"]
    return [
        [title, *(f"{1000 * statistics.median(reads[c]):,.2f}" if c in reads else "as before" for c in columns)]
        for title, reads in taken.items()
    ]


def measure_large(folder: Path, versions: int, rounds: int) -> list[str]:
    """Listing of a model whose version objects were written directly (registering so many takes minutes) and compacted."""
    from ml_toolbox.features.registry import Registry, layout
    from ml_toolbox.features.registry.records import FORMAT, VersionRecord, encode
    from ml_toolbox.objects import open_store

    manifest = (folder / "package" / "mltoolbox.json").read_text()
    store = folder / "large"
    (store / layout.version("many", 1)).parent.mkdir(parents=True)
    for number in range(1, versions + 1):
        record = VersionRecord(
            format=FORMAT,
            model="many",
            number=number,
            nonce=f"{number:032x}",
            created_at=1_700_000_000.0 + number,
            created_by="benchmark",
            manifest=manifest,
            tags={"team": "risk"},
            description="nightly retrain",
        )
        (store / layout.version("many", number)).write_bytes(encode(record))
    registry = Registry(open_store(store), actor="benchmark")
    registry.compact("many")
    registry.promote(f"many:{versions // 2}", "Production")
    rows: list[list[float]] = []
    for _ in range(rounds):
        steps: list[Callable[[Registry], object]] = [
            lambda fresh: fresh.get("many@Production"),
            lambda fresh: fresh.get(f"many:{versions // 3}"),
            lambda fresh: list(fresh.versions("many", limit=100)),
            lambda fresh: fresh.versions("many")[0],
            lambda fresh: sum(1 for _ in fresh.versions("many")),
        ]
        row = []
        for step in steps:
            fresh = Registry(open_store(store), actor="benchmark")
            began = time.perf_counter()
            step(fresh)
            row.append(1000 * (time.perf_counter() - began))
        rows.append(row)
    return ["ML Toolbox, files", *(f"{statistics.median(column):,.2f}" for column in zip(*rows, strict=True))]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def report(arguments: argparse.Namespace, writers: list[list[str]], reads: list[list[str]], large: list[str]) -> str:
    reading = ["", "latest by stage", "one version", "newest 100", "list all", "list all, each built"]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# Model registry

`python benchmarks/registry.py{" --quick" if arguments.quick else ""}` on {platform.system()}, {os.cpu_count()} cores,
Python {platform.python_version()}; load averages at the end {load}. Medians of {arguments.rounds} interleaved rounds.

MLflow is `MlflowClient` straight on its SQL store, without a server in between: `create_model_version` with a
description and a tag. ML Toolbox registers a package folder: it reads and hashes its three files (12 KB) and checks
them against the manifest; their contents are stored already, as after a retrain of the same model, so that each
registration writes one object, the commit (manifest, tags, description), made durable with its folder. Every 64th also
writes an index segment, in the background. Writers are processes of their own, all registering versions of one model;
each round checks that the numbers given are 1 to N, each once.

## Registering

{table(REGISTERING, writers)}

## Reading a model of {arguments.versions:,} versions (milliseconds)

{table(reading, reads)}

ML Toolbox answers from a registry object that has seen nothing before. "List all" of ML Toolbox reads all summaries and
the numbers and builds the first version; the others are built when they are looked at, which the last column includes.
MLflow always builds every one.

## Reading a model of {arguments.large:,} versions (milliseconds)

{table(reading, [large])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that everything works, not how fast"
    )
    parser.add_argument(
        "--writers",
        type=int,
        nargs="+",
        choices=(1, 8, 16),
        metavar="N",
        help="only registering, with 1, 8 or 16 writers: prints the table and leaves the page as it is",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "registry.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        own_worker(arguments.worker)
        return
    arguments.rounds = 1 if arguments.quick else 5
    arguments.versions = 1_000 if arguments.quick else 10_000
    arguments.large = 10_000 if arguments.quick else 100_000
    counts = {1: 100, 8: 80, 16: 80} if arguments.quick else {1: 1_000, 8: 480, 16: 480}
    with tempfile.TemporaryDirectory(prefix="mlt-registry-bench-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        make_package(folder / "package")
        python = str(mlflow_python())
        ours = [sys.executable, __file__, "--worker", f"file://{folder}/store"]
        with postgres(folder / "postgres") as database:
            contestants = [
                Contestant("ML Toolbox, files", ours),
                Contestant("MLflow, SQLite", [python, "-c", MLFLOW_WORKER, f"sqlite:///{folder}/mlflow.db"]),
            ]
            if database:
                contestants.append(Contestant("MLflow, PostgreSQL", [python, "-c", MLFLOW_WORKER, database]))
            for contestant in contestants[1:]:
                with contestant.workers(1):  # creates the tables, before several would at once
                    pass
            if arguments.writers:
                chosen = {writers: counts[writers] for writers in arguments.writers}
                print(table(REGISTERING, measure_writers(contestants, chosen, arguments.rounds)))
                return
            writers = measure_writers(contestants, counts, arguments.rounds)
            reads = measure_reads(contestants, arguments.versions, arguments.rounds)
        large = measure_large(folder, arguments.large, arguments.rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(report(arguments, writers, reads, large))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
