"""Schedules without chance: a told story of users and platform, and a death at any chosen crash point of it.

Where the simulator meets what it happens to meet, a script meets one thing for certain: so each crash point that the code has can
be shown to have been died at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar

from ml_toolbox.base.clock import Clock
from ml_toolbox.base.errors import NotFound, NotYet, ToolboxError, Unavailable
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.engine import crash
from ml_toolbox.engine.agent import Agent
from ml_toolbox.engine.collection import Collector, StoreWithBooks
from ml_toolbox.engine.ledger import month_of
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.rows import Row, Wish
from ml_toolbox.engine.runner import Runner
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.simulator.cloud import Cloud, Resource
from ml_toolbox.testing.simulator.invariants import Evidence, LimitSet
from ml_toolbox.testing.simulator.platforms import SimulatedEndpoints, SimulatedJobs
from ml_toolbox.testing.simulator.product import Product, Surroundings
from ml_toolbox.testing.simulator.profile import Class, Profile, calm
from ml_toolbox.testing.simulator.simulation import INSTALL, PLACE, Crashed, NoKeeper, backend_at, existed
from ml_toolbox.testing.simulator.timing import HostClock, VirtualTime
from ml_toolbox.testing.simulator.users import HOURLY

T = TypeVar("T")
Fault: TypeAlias = Literal["", "before", "after", "defect", "deaf"] | ToolboxError
"""What a call is answered: properly (""), nothing (before or after its effect), nonsense, ``ok`` without any effect, an error."""
_LEASE_S = 60.0
_ROUNDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that happens ``at`` so many seconds after the beginning."""

    at: float
    do: Callable[[Stage], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One story."""

    name: str
    kind: str
    """Of the rows it is about."""
    steps: Sequence[Step]
    platform: Class = "token"
    window_s: float = 0.0
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By operation of the platform, in the order of the calls; calls after these are answered properly."""
    fates: Sequence[tuple[float, str]] = ()
    """What becomes of the resources, in the order of their making: seconds, outcome. Then: 100 s, ``succeeded``."""
    register_faults: int = 0
    look_every_s: float = 3600.0
    """How far time may jump while nothing but looking is due."""


class ScriptedCloud(Cloud):
    """The platform of a script."""

    faults_left: dict[str, list[Fault]]
    fates_left: list[tuple[float, str]]

    def call(self, operation: str, effect: Callable[[], T], *, target: str = "") -> T:
        waiting = self.faults_left.get(operation)
        if not waiting:
            return super().call(operation, effect, target=target)
        fault = waiting.pop(0)
        if fault == "":
            return super().call(operation, effect, target=target)
        self.time.at += 0.05
        answer = fault if isinstance(fault, str) else type(fault).__name__
        self._log(operation, target, answer)
        if isinstance(fault, ToolboxError):
            raise fault
        if fault == "deaf":
            return None  # type: ignore[return-value] # such calls return nothing
        if fault != "before":
            effect()
        if fault == "defect":
            raise ValueError("Expecting value: line 1 column 1 (char 0)")
        raise Unavailable("no answer")

    def _fate(self, random: Random) -> tuple[float, str]:
        return self.fates_left.pop(0) if self.fates_left else (100.0, "succeeded")


class Stage:
    """One run of a script.

    Args:
        deaths: die at so many passes of a crash point after the beginning, then so many after that death, and so on.
        store: made with the stage's clock; in memory by default.
    """

    def __init__(
        self,
        script: Script,
        product: Product,
        deaths: Sequence[int] = (),
        *,
        store: Callable[[Clock], StoreWithBooks] = MemoryStore,
    ) -> None:
        self.script = script
        self.time = VirtualTime()
        self.began = self.time.at
        self.store = store(self.time)
        profile: Profile = calm(script.platform, script.window_s)
        self.cloud = ScriptedCloud(
            profile,
            Random(0),
            self.time,
            place=PLACE,
            point=_nothing,
            caller=lambda: self._name,
            holds=self._holds,
        )
        self.cloud.hostile = False
        self.cloud.faults_left = {operation: list(faults) for operation, faults in script.faults.items()}
        self.cloud.fates_left = list(script.fates)
        jobs = backend_at(SimulatedJobs(self.cloud, hourly=HOURLY))
        endpoints = backend_at(SimulatedEndpoints(self.cloud, hourly=HOURLY))
        self._jobs, self._endpoints = jobs, endpoints
        self.registered: list[tuple[str, str]] = []
        self._register_faults = script.register_faults
        self._product = product
        self._workflows = product.workflows(jobs, endpoints, self, INSTALL)
        self._deaths = list(deaths)
        self.died_at: list[str] = []
        self.passed: list[str] = []
        self._since = 0
        self._lives = 0
        self._name = ""
        self._limits_set: list[LimitSet] = []
        self._wishes: dict[str, Wish] = {}
        self._submitted: list[str] = []
        self.agent, self.around = self._born()

    def play(self) -> Evidence:
        """The whole story, until everything rests."""
        steps, rests = list(self.script.steps), 0
        crash.arm(self._point)
        try:
            for _ in range(_ROUNDS):
                due = bool(steps) and self.began + steps[0].at <= self.time.at
                try:
                    if due:
                        steps[0].do(self)
                        steps.pop(0)
                    else:
                        self.agent.round()
                except Crashed:
                    self.time.at += _LEASE_S + 1.0
                    self.agent, self.around = self._born()
                    continue
                if due or self._pass_time(steps):
                    continue
                if rests == 2:
                    break
                rests += 1  # two more comparisons, after all grace
                self.time.at += 1000.0
        finally:
            crash.arm(None)
        return self.evidence()

    def _pass_time(self, steps: Sequence[Step]) -> bool:
        """Go on to when something can happen; false when nothing will."""
        times = [max(row.due_at, row.lease_until) for row in self._rows() if row.due_at is not None]
        times += [self.began + step.at for step in steps[:1]]
        if not times:
            return False
        change = self.cloud.next_change()
        then = min(times)
        # Looking every second says nothing new: look when something has changed, or an hour is over.
        looked = max(
            min(times[: len(times) - bool(steps)], default=then), min(change, self.time.at + self.script.look_every_s)
        )
        self.time.at = max(self.time.at + 0.5, min(looked, times[-1]) if steps else looked)
        return True

    # -- what a script does -------------------------------------------------------------------------------------------

    def submit(self, row_id: str, spec: JobSpec) -> None:
        """Again after a death before anything was written, as a user would."""
        if not self._exists(row_id):
            self._product.submit(self.around, row_id, spec, PLACE, ("all", f"job:{spec.name}"))
        self._submitted.append(row_id)

    def wish(self, row_id: str, wish: Wish) -> None:
        self.store.wish(row_id, wish)
        self._wishes[row_id] = wish
        self.around.runner.drive(row_id)

    def delete_endpoints(self) -> None:
        for row in self._rows():
            if row.kind == "endpoint":
                self.wish(row.id, "delete")

    def deploy(self, name: str, version: int) -> None:
        """A refusal, which the command would print, is the story's own business."""
        try:
            self._product.deploy(self.around, name, PLACE, version)
        except ToolboxError:
            return

    def limit(self, scope: str, meter: Any, most: int) -> None:
        self.store.set_limit(scope, meter, "", most)
        self._limits_set.append(LimitSet(len(self.store.lines()), scope, meter, "", most, month_of(self.time.at)))

    def remove_behind_our_back(self) -> None:
        """Somebody deletes everything of ours on the platform itself."""
        for one in self._ours():
            one.forgotten_at = min(one.forgotten_at, self.time.at)
            one.ends_at = min(one.ends_at, self.time.at)

    def leave_a_stray(self, row_id: str, attempt: int, kind: str = "job") -> None:
        """What a process that stood still in its create call leaves."""
        tags = {"mlt:install": INSTALL, "mlt:owner": row_id, "mlt:attempt": str(attempt), "mlt:expires-at": "+1"}
        made = self.cloud.foreign(f"stray-{attempt}", tags)
        made.kind = kind
        made.max_run_s, made.stale, made.ends_at, made.hourly = 3600.0, True, self.time.at + 500.0, HOURLY

    def _ours(self) -> list[Resource]:
        return [one for one in self.cloud.resources.values() if one.tags.get("mlt:install") == INSTALL]

    # -- processes ----------------------------------------------------------------------------------------------------

    def _born(self) -> tuple[Agent, Surroundings]:
        self._lives += 1
        self._name = f"life{self._lives}"
        clock = HostClock(self.time, 0.0, self.time.sleep)
        pacer = Pacer(clock)
        runner = Runner(self.store, self._workflows, lease_s=_LEASE_S, pacer=pacer, keeper=NoKeeper(), owner=self._name)
        collector = Collector(self.store, self._workflows, owner=self._name, lease_s=_LEASE_S, pacer=pacer)
        around = Surroundings(
            store=self.store,
            runner=runner,
            install=INSTALL,
            clock=clock,
            jobs=self._jobs,
            endpoints=self._endpoints,
        )
        return Agent(self.store, runner, self._workflows, collector), around

    def _point(self, label: str) -> None:
        self.passed.append(label)
        if self._deaths and len(self.passed) - self._since == self._deaths[0]:
            self._deaths.pop(0)
            self._since = len(self.passed)
            self.died_at.append(label)
            raise Crashed(label)

    def register(self, job_id: str, name: str) -> str:
        if self._register_faults:
            self._register_faults -= 1
            raise Unavailable("the registry does not answer")
        made = next((version for job, version in self.registered if job == job_id), None)
        if made is None:
            made = f"{name}:{len(self.registered) + 1}"
            self.registered.append((job_id, made))
        return made

    def _rows(self) -> tuple[Row, ...]:
        return self.store.find(None, limit=100_000)[::-1]

    def _exists(self, row_id: str) -> bool:
        return any(row.id == row_id for row in self._rows())

    def _holds(self, row_id: str, process: str) -> bool:
        try:
            return self.store.get(row_id).lease_owner == process
        except NotFound:
            return False

    def evidence(self) -> Evidence:
        rows = self._rows()
        views = [self._product.view(row) for row in rows]
        return Evidence(
            install=INSTALL,
            now=self.time.at,
            classes={PLACE: self.script.platform},
            resources=[existed(one, self.time.at) for one in self.cloud.resources.values()],
            calls=self.cloud.calls,
            rows=views,
            histories={row.id: self.store.history(row.id) for row in rows},
            lines=self.store.lines(),
            limits=self.store.limits(),
            limits_set=self._limits_set,
            submitted=self._submitted,
            wishes=self._wishes,
            registered=self.registered,
            retries={view.row.id: view.user_error_retries for view in views},
        )


def _nothing(label: str) -> None:
    """Scripts die at the crash points of the code, not inside the platform."""


NOT_YET = NotYet("it needs longer")
