"""What one run consists of, drawn from its seed, and what each of its processes builds from that."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

from ml_toolbox.base.errors import Bug, NotFound
from ml_toolbox.base.ids import new_ulid
from ml_toolbox.domain.endpoints import EndpointSpec
from ml_toolbox.domain.jobs import JobSpec, Limits
from ml_toolbox.domain.offers import Plan
from ml_toolbox.engine.collection import Collector
from ml_toolbox.engine.crash import points
from ml_toolbox.engine.ledger import Meter, Period
from ml_toolbox.engine.owners import this_owner
from ml_toolbox.engine.rows import Wish
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.workflow import Workflow
from ml_toolbox.features.serving.serving import Serving
from ml_toolbox.features.serving.wishes import ResolvedModel
from ml_toolbox.features.serving.workflow import EndpointWorkflow
from ml_toolbox.features.training.records import JobOrder, JobRecord
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.jobs import JobBackend
from ml_toolbox.state.opening import open_store
from ml_toolbox.state.sql_store import SqlStore
from tests.kills.adapter import PLACE, Calls, HttpEndpoints, HttpJobs, HttpJobsAtOnce
from tests.kills.cloud import HOURLY

INSTALL = "killed"
LEASE_S = 2.0
COLLECT_EVERY_S = 1.5
DURATION_S, GRACE_S = 20.0, 1.0
WORST = int(HOURLY * (DURATION_S + GRACE_S) / 3600)
"""Micro-dollars that one attempt can cost at most."""
ENDPOINTS = 6
COLLECTING = ("collect:listed:before:compare", "collect:charged:before:remove", "collect:removed:before:release")

Class = Literal["token", "name", "none"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What every process of one run must know."""

    seed: int
    state: str
    """A path, or a ``postgresql://`` URL."""
    port: int
    """Of the pretended cloud."""
    kind: Class
    lag_s: float = 0.3
    elsewhere: bool = False
    """The workers claim to be on different hosts: the death of one cannot be seen, its lease has to run out."""
    at_once: bool = False


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow, and what its user wants of it."""

    number: int
    row: str
    fate: Literal["ok", "fails", "preempted", "long"]
    scopes: tuple[str, ...]
    wish: Wish = ""
    wish_after_s: float = 0.0
    registers: bool = False


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One wish about one endpoint."""

    name: str
    version: int = 0
    """Of the model that it is to serve; 0: it is to go."""


class Parts:
    """What a process of ours builds."""

    def __init__(self, setting: Setting, host: str = "") -> None:
        self.store: SqlStore = open_store(setting.state if "://" in setting.state else Path(setting.state))
        self.calls = calls = Calls(setting.port)
        backend = (HttpJobsAtOnce if setting.at_once else HttpJobs)(calls, setting.kind, setting.lag_s)

        def backends(name: str) -> JobBackend:
            if name != PLACE:
                raise NotFound(f"no backend {name}")
            return backend

        def register(job: JobRecord) -> str:
            return calls.register(job.id, job.spec.register or "")

        endpoints = HttpEndpoints(calls, setting.lag_s)
        self.backend = backend
        self.workflow = JobWorkflow(backends, register, INSTALL)
        self.workflows = (self.workflow, EndpointWorkflow(lambda _name: endpoints, INSTALL))
        self.owner = f"{host}|elsewhere|{os.getpid()}|{time.monotonic_ns()}#0" if host else this_owner()
        self.runner = Runner(self.store, self.workflows, lease_s=LEASE_S, owner=self.owner)
        self.collector = Collector(self.store, self.workflows, owner=self.owner, lease_s=LEASE_S)
        self.serving = Serving(
            self.store,
            lambda _name: endpoints,
            resolve=lambda model: ResolvedModel(package=f"memory://{model}", model=model),
            planner=_unplanned,
            install=INSTALL,
            runner=self.runner,
        )


def _unplanned(spec: EndpointSpec, on: str) -> Plan:
    raise Bug("nothing is planned here")


def order_of(planned: Planned, backend: JobBackend) -> JobOrder:
    spec = JobSpec(
        name=f"job-{planned.number}",
        command=("train", planned.fate),
        limits=Limits(max_duration_s=DURATION_S, stop_grace_s=GRACE_S),
        register="model" if planned.registers else None,
    )
    return JobOrder(job=spec, backend=PLACE, idempotency=backend.idempotency, hourly=HOURLY, overhead_s=GRACE_S)


def plan(seed: int, workflows: int, now: float) -> list[Planned]:
    """What the users do."""
    random = Random(f"plan {seed}")
    return [_planned(random, number, now) for number in range(workflows)]


def _planned(random: Random, number: int, now: float) -> Planned:
    project = "just" if number % 10 == 0 else "short" if number % 20 == 1 else ""
    scopes = ("all", random.choice(("user:ann", "user:bob")), *((f"project:{project}",) if project else ()))
    row, registers = new_ulid(now + number / 1000), random.random() < 0.5
    if project:
        return Planned(number=number, row=row, fate="ok", scopes=scopes, registers=registers)
    drawn = random.random()
    if drawn < 0.10:
        fate, wish, after_s = "long", "stop", 0.3 + 2.5 * random.random()
    elif drawn < 0.18:
        fate, wish, after_s = random.choice(("long", "ok")), "delete", 3.0 * random.random()
    elif drawn < 0.33:
        fate, wish, after_s = random.choice(("ok", "ok", "fails", "preempted")), "delete", 4.0 + 4.0 * random.random()
    else:
        fate, wish, after_s = random.choice(("ok", "ok", "ok", "ok", "ok", "ok", "fails", "preempted")), "", 0.0
    return Planned(
        number=number,
        row=row,
        fate=fate,  # type: ignore[arg-type] # one of the words above
        scopes=scopes,
        wish=wish,  # type: ignore[arg-type] # likewise
        wish_after_s=after_s,
        registers=registers and fate in ("ok", "preempted"),
    )


def limits(planned: list[Planned], kind: Class) -> list[tuple[str, Meter, Period, int]]:
    """Limits that bind: on numbers, on the rate of spending, a budget that just suffices, and one that does not."""
    just = sum("project:just" in one.scopes for one in planned) * WORST
    strays = just // 2 if kind == "none" else 0
    """Where a repeated call makes another resource, budgets pay for what is collected, too."""
    return [
        ("all", "running", "", 30 + ENDPOINTS),
        ("user:ann", "running", "", 14),
        ("user:bob", "cost-per-hour", "", 16 * HOURLY),
        ("project:just", "cost", "", just + strays),
        ("project:short", "cost", "", 3 * WORST + WORST // 2),
    ]


def labels(workflows: Sequence[Workflow]) -> tuple[str, ...]:
    """Where a process may be told to die or to stand still: each point once, those that are passed often more often."""
    passed_often = tuple(
        label
        for effect in ("submit", "observe", "apply")
        for label in (f"before:{effect}", f"after:{effect}:before:record", f"after:record:{effect}")
    )
    return (*sorted({label for _, label in points(workflows)}), *COLLECTING, *30 * passed_often)
