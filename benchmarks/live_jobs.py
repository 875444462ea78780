"""Ten thousand jobs that run at once, kept up to date by one process on one core.

    python benchmarks/live_jobs.py [--quick] [--jobs 10000] [--seconds 60] [--output docs/benchmarks/live_jobs.md]
    python benchmarks/live_jobs.py --parts      what one row costs, in the store and in the loop; prints, writes no page
    python benchmarks/live_jobs.py --profile    where the processor's time goes (SQLite); prints, writes no page

The jobs are rows of the product's own workflow for training jobs, driven by its own agent; only the platform is pretended. It
lives in the agent's process, answers for any number of jobs in one call, and lets each job change its state every 33 s, each at
its own moment: 300 changes a second in all. It notes when each job was looked at, and the store in between notes when each
change was on record. The agent is bound to one core, SQLite included; a PostgreSQL server has the others.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import platform
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.postgres import binaries, started  # noqa: E402

from ml_toolbox.base.ids import new_ulid  # noqa: E402
from ml_toolbox.domain.jobs import JobSpec, JobState, Limits  # noqa: E402
from ml_toolbox.domain.offers import Offer  # noqa: E402
from ml_toolbox.engine.agent import Agent, Round  # noqa: E402
from ml_toolbox.engine.collection import Collector  # noqa: E402
from ml_toolbox.engine.owners import this_owner  # noqa: E402
from ml_toolbox.engine.rows import Row, Write  # noqa: E402
from ml_toolbox.engine.runner import BATCH, Runner  # noqa: E402
from ml_toolbox.engine.store import Written  # noqa: E402
from ml_toolbox.engine.workflow import Claimed, Observed  # noqa: E402
from ml_toolbox.features.training.attempts import opened  # noqa: E402
from ml_toolbox.features.training.life import Phase  # noqa: E402
from ml_toolbox.features.training.records import KIND, JobData, JobOrder, plain  # noqa: E402
from ml_toolbox.features.training.workflow import JobWorkflow  # noqa: E402
from ml_toolbox.ports.jobs import Idempotency, JobObservation, JobRequest, LogChunk, Owner  # noqa: E402
from ml_toolbox.ports.lacks import Lacking  # noqa: E402
from ml_toolbox.state.opening import open_store  # noqa: E402
from ml_toolbox.state.sql_store import SqlStore  # noqa: E402

INSTALL = "bench"
WARM_S = 10.0
"""Before the measurement, for the agent to find its pace."""


class Platform:
    """Job ``n`` (its id is the number) runs and is queued again in turn, and changes at ``n / rate`` past each full period."""

    name = "pretended"
    lacks: Lacking = MappingProxyType({})
    idempotency = Idempotency(kind="token", visibility_window_s=2.0)

    def __init__(self, jobs: int, rate: float) -> None:
        self.rate = rate
        self.period_s = jobs / rate
        self.ids: dict[str, str] = {}
        self.tags: dict[str, Mapping[str, str]] = {}
        self.looked_at = [0.0] * jobs
        self.gaps: list[float] = []
        now = time.time()
        self._running = JobObservation(
            state=JobState.RUNNING, started_at=now, message="running on instance i-0123456789"
        )
        self._queued = replace(self._running, state=JobState.PROVISIONING)

    def changed_at(self, number: int, now: float) -> float:
        """When it last changed."""
        offset = number / self.rate
        return (now - offset) // self.period_s * self.period_s + offset

    def observe(self, job_id: str) -> JobObservation:
        return self.observe_many([job_id])[job_id]

    def observe_many(self, job_ids: Sequence[str]) -> Mapping[str, JobObservation]:
        now = time.time()
        seen = {}
        for job_id in job_ids:
            number = int(job_id)
            self.gaps.append(now - self.looked_at[number])
            self.looked_at[number] = now
            turn = int((now - number / self.rate) // self.period_s)
            seen[job_id] = self._queued if turn % 2 else self._running
        return seen

    def refuses(self, spec: JobSpec) -> str | None:
        return None

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="large"),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        return JobRequest.of(spec, owner, {"image": "training", "script": spec.script})

    def submit(self, request: JobRequest, token: str) -> str:
        job_id = self.ids.setdefault(token, str(len(self.ids)))
        self.tags[job_id] = request.tags
        return job_id

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return LogChunk((), cursor, False)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        raise AssertionError("nothing is stopped here")

    def delete(self, job_id: str) -> None:
        raise AssertionError("nothing is deleted here")

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        yield from list(self.tags.items())


class Watched:
    """The store, which notes when each change of state was on record."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.recorded: list[tuple[float, int]] = []
        """When, and of which job."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        written = self._store.write(writes, lease_s=lease_s)
        now = time.time()
        self.recorded += [
            (now, int(write.change.data["attempts"][-1]["resource"]))
            for write in writes
            if write.change is not None and write.change.message.startswith("seen ")
        ]
        return written


def new_job(number: int, platform_: Platform, now: float) -> tuple[Row, Any]:
    """As ``Training.submit`` makes it."""
    job = JobSpec(
        name=f"train-{number}",
        script="train.py",
        source="/home/ann/.mltoolbox/code/0123456789abcdef",
        hyperparameters={"epochs": 20, "lr": 0.001, "batch_size": 64, "optimizer": "adam", "hidden": [256, 128]},
        inputs={"train": "s3://bucket/churn/train", "validation": "s3://bucket/churn/validation"},
        limits=Limits(max_duration_s=6 * 3600.0),
        tags={"team": "risk"},
    )
    order = JobOrder(
        job=job,
        backend=platform_.name,
        code_sha256="0" * 64,
        source="/home/ann/churn",
        idempotency=platform_.idempotency,
        hourly=500_000,
        overhead_s=30.0,
    )
    row_id, spec = new_ulid(now), plain(order)
    data, posting = opened(INSTALL, row_id, spec, order, JobData(attempts=()), now)
    row = Row(
        id=row_id,
        kind=KIND,
        name=job.name,
        phase=Phase.SUBMITTING,
        state=JobState.QUEUED,
        place=order.backend,
        scopes=("all", "user:ann", "project:churn", f"backend:{order.backend}"),
        spec=spec,
        data=plain(data),
        due_at=now,
    )
    return row, posting


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def resident_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


# -- the agent's process ----------------------------------------------------------------------------------------------


def run_agent(place: str, jobs: int, rate: float, seconds: float, *, profile: bool) -> dict[str, float]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    store = Watched(open_store(place))
    pretended = Platform(jobs, rate)
    workflow = JobWorkflow(lambda _: pretended, None, INSTALL)
    store.set_limit("all", "cost", "month", 10**15)
    began = time.perf_counter()
    for number in range(jobs):
        row, posting = new_job(number, pretended, store.now())
        store.insert(row, postings=[posting])
    result = {"insert_ms": 1000 * (time.perf_counter() - began) / jobs}
    executor = ThreadPoolExecutor(16)
    runner = Runner(store, [workflow])
    collector = Collector(store, [workflow], owner=this_owner())
    agent = Agent(store, runner, [workflow], collector, executor=executor, every_s=20.0)
    stop = threading.Event()
    measuring = threading.Event() if profile else None
    thread = threading.Thread(target=_agent_thread, args=(agent, stop, measuring))
    began = time.perf_counter()
    thread.start()
    while store.find(KIND, states=[JobState.QUEUED], limit=1):
        time.sleep(0.5)
    result["start_s"] = time.perf_counter() - began
    time.sleep(WARM_S)
    pretended.gaps.clear()
    if measuring is not None:
        measuring.set()
    cpu, since = time.process_time(), time.time()
    time.sleep(seconds)
    until = time.time()
    cpu = time.process_time() - cpu
    gaps, ages = list(pretended.gaps), [until - at for at in pretended.looked_at]
    stop.set()
    thread.join()
    executor.shutdown()
    late = [at - pretended.changed_at(number, at) for at, number in store.recorded if since <= at <= until]
    return {
        **result,
        "changes": len(late) / seconds,
        "looks": len(gaps) / seconds,
        "record_p50": quantile(late, 0.5),
        "record_p99": quantile(late, 0.99),
        "record_max": max(late),
        "gap_p50": quantile(gaps, 0.5),
        "gap_p99": quantile(gaps, 0.99),
        "gap_max": max(gaps),
        "age_max": max(ages),
        "cpu": 100 * cpu / seconds,
        "cpu_us": 1e6 * cpu / max(1, len(gaps)),
        "rss": resident_mib("VmHWM"),
    }


def _agent_thread(agent: Agent, stop: threading.Event, measuring: threading.Event | None) -> None:
    profiler = cProfile.Profile()

    def after_round(done: Round) -> None:
        if measuring is not None and measuring.is_set():
            measuring.clear()
            profiler.enable()  # of this thread

    agent.run(stop, on_round=after_round)
    profiler.disable()
    if measuring is not None:
        for order in ("tottime", "cumulative"):
            pstats.Stats(profiler, stream=sys.stderr).sort_stats(order).print_stats(35)


# -- parts ------------------------------------------------------------------------------------------------------------


def time_of(call: Callable[[], object], times: int = 7) -> tuple[float, float]:
    """Milliseconds of wall and of processor, medians."""
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.process_time() - cpu))
    return quantile(walls, 0.5), quantile(cpus, 0.5)


def parts(place: str, rows: int = 4 * BATCH) -> dict[str, tuple[float, float]]:
    """Milliseconds (wall, processor) of what the loop is made of."""
    store = open_store(place)
    store.set_limit("all", "cost", "month", 10**15)
    pretended = Platform(rows, 1e-6)
    workflow = JobWorkflow(lambda _: pretended, None, INSTALL)
    runner = Runner(store, [workflow], owner="first")
    made = iter([new_job(number, pretended, time.time()) for number in range(rows)])

    def insert() -> None:
        row, posting = next(made)
        store.insert(row, postings=[posting])

    found = {"insert of one row": time_of(insert, times=rows)}
    with ThreadPoolExecutor(16) as executor:
        while runner.tick(executor=executor):
            pass
    claimed: list[Row] = []

    def claim() -> None:
        claimed[:] = store.claim_due(
            [KIND], owner="bench", lease_s=60.0, is_dead=lambda _: False, due_before=time.time() + 1e6, limit=BATCH
        )
        assert len(claimed) == BATCH

    def release() -> None:
        store.write([Write(row=row, change=None) for row in claimed], lease_s=60.0)

    def reschedule() -> None:
        decided = [workflow.decide(row, Observed(seen), time.time()) for row in claimed]
        writes = [Write(row=row, change=one.change) for row, one in zip(claimed, decided, strict=True)]
        found[f"write of {BATCH} rows that moved on"] = time_of(lambda: store.write(writes, lease_s=60.0), times=1)

    seen = pretended.observe("0")
    found[f"claim of {BATCH} due rows"] = time_of(claim, times=1)
    found[f"decide for {BATCH} rows taken up"] = time_of(
        lambda: [workflow.decide(row, Claimed(), time.time()) for row in claimed], times=1
    )
    found[f"observe_many of {BATCH} rows"] = time_of(lambda: workflow.observe_many(claimed), times=1)
    found[f"decide for {BATCH} rows seen"] = time_of(
        lambda: [workflow.decide(row, Observed(seen), time.time()) for row in claimed], times=1
    )
    reschedule()
    claim()
    found[f"release of {BATCH} rows"] = time_of(release, times=1)
    return found


# -- the whole --------------------------------------------------------------------------------------------------------


def in_own_process(place: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    words = ["--inside", what, place, "--jobs", str(options.jobs), "--rate", str(options.rate)]
    command = [sys.executable, __file__, *words, "--seconds", str(options.seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the agent's process failed with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def page(results: Mapping[str, Mapping[str, float]], found: Mapping[str, Mapping[str, Any]], options: Any) -> str:
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    lines = [
        f"""# {options.jobs:,} live jobs on one core

`python benchmarks/live_jobs.py --jobs {options.jobs} --seconds {options.seconds:g}` on {platform.system()},
{os.cpu_count()} cores, Python {platform.python_version()}; load averages at the end {loads}.

{options.jobs:,} rows of the training workflow, all running, on a pretended platform inside the agent's process that
answers for many jobs in one call; {options.rate:g} jobs change their state each second. *Recorded after*: from the change on
the platform until it is durable in the store, with its line of history. *Looked at again after*: between two looks at the
same job. The agent compares all resources with all rows every 20 s meanwhile (by default: every 300 s). It is bound to one
core; *CPU* is its share of that core, the PostgreSQL server's comes on top of it.

| state in | recorded after, s: p50 | p99 | worst | looked at again after, s: p50 | p99 | worst | looks/s | CPU | RSS, MiB |
|---|---|---|---|---|---|---|---|---|---|"""
    ]
    for name, one in results.items():
        cells = [
            f"{one[key]:.2f}" for key in ("record_p50", "record_p99", "record_max", "gap_p50", "gap_p99", "gap_max")
        ]
        cells += [f"{one['looks']:,.0f}", f"{one['cpu']:.0f} %", f"{one['rss']:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What it is made of",
        "",
        "Milliseconds, wall (processor of the calling process), one measurement each; the insert is the median of 2,000.",
        "",
        f"| | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for part in next(iter(found.values())):
        cells = [f"{found[name][part][0]:.1f} ({found[name][part][1]:.1f})" for name in found]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 jobs for 5 s, to see that it works; writes no page")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=300.0, help="changes of state a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this one; writes no page")
    parser.add_argument("--parts", action="store_true", help="only the parts; writes no page")
    parser.add_argument("--profile", action="store_true", help="the agent under cProfile, on SQLite; writes no page")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "live_jobs.md")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        what, place = options.inside
        inside: Any = (
            parts(place)
            if what == "parts"
            else run_agent(place, options.jobs, options.rate, options.seconds, profile=what == "profile")
        )
        print(json.dumps(inside))
        return
    if options.quick:
        options.jobs, options.seconds, options.rate = 1_000, 5.0, 100.0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        new: dict[str, Callable[[], str]] = {"SQLite": lambda: f"{folder}/{new_ulid()}.db"}
        if binaries() is None:
            print("PostgreSQL is not installed: its rows are left out", file=sys.stderr)
        elif options.database != "sqlite" and not options.profile:
            new["PostgreSQL"] = stack.enter_context(contextlib.contextmanager(started)(durable=True)).new_schema
        if options.database == "postgresql":
            del new["SQLite"]
        if options.profile:
            print(json.dumps(in_own_process(new["SQLite"](), "profile", options), indent=1))
            return
        found = {name: in_own_process(place(), "parts", options) for name, place in new.items()}
        if options.parts:
            print(json.dumps(found, indent=1))
            return
        results = {}
        for name, place in new.items():
            results[name] = in_own_process(place(), "agent", options)
            print(name, {key: round(value, 3) for key, value in results[name].items()}, file=sys.stderr)
    text = page(results, found, options)
    print(text)
    if not options.quick and options.database is None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
