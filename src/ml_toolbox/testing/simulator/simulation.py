"""One schedule: real runners and workflows, virtual time, a hostile platform; every choice is drawn from one seed.

Each process is a greenlet, so that it can stand still at any crash point - also inside a call - while the others go on for longer
than its lease, and go on later exactly where it stood. Nothing else switches: one operating system thread runs everything, and the
same seed gives the same schedule.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from ml_toolbox.base.errors import Bug, MissingExtra, NotFound, ToolboxError
from ml_toolbox.engine import crash
from ml_toolbox.engine.agent import Agent
from ml_toolbox.engine.collection import Collector
from ml_toolbox.engine.ledger import month_of
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.rows import WISH_ORDER, Row, Wish
from ml_toolbox.engine.runner import Runner
from ml_toolbox.testing.memory_store import MemoryStore
from ml_toolbox.testing.simulator.cloud import NEVER, Cloud, Resource
from ml_toolbox.testing.simulator.invariants import Evidence, Existed, LimitSet, Violation, check
from ml_toolbox.testing.simulator.platforms import SimulatedEndpoints, SimulatedJobs, SimulatedJobsAtOnce
from ml_toolbox.testing.simulator.product import Product, Surroundings
from ml_toolbox.testing.simulator.profile import Profile, draw
from ml_toolbox.testing.simulator.timing import START, HostClock, VirtualTime
from ml_toolbox.testing.simulator.users import HOURLY, Deed, deeds, row_id

try:
    from greenlet import greenlet
except ImportError as missing:
    raise MissingExtra.named("greenlet", "simulator", "the simulator") from missing

INSTALL = "here"
PLACE = "sky"
_HEAL_STEPS = 4000
_HEAL_S = 40 * 24 * 3600.0
"""Virtual time within which everything must have come to rest once the trouble is over."""


class Crashed(BaseException):
    """Stands for kill -9: nothing of ours catches it, and no lease is given back."""


class _WatchedStore(MemoryStore):
    """Notes every lease that was taken from somebody before it had run out."""

    def __init__(self, clock: VirtualTime) -> None:
        super().__init__(clock)
        self.taken: list[str] = []

    def _claimed(self, row: Row, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        claimed = super()._claimed(row, owner, lease_s, is_dead)
        if claimed is not None and row.lease_owner and row.lease_until > self.clock.now():
            self.taken.append(
                f"{owner} took {row.id} from {row.lease_owner}, {row.lease_until - self.clock.now():.1f} s early"
            )
        return claimed


class NoKeeper:
    """Virtual time passes only between steps, so leases are renewed by writes or not at all."""

    @contextmanager
    def keeping(self) -> Iterator[None]:
        yield


class _Process:
    """One life of one process: an agent that goes round, or a user's command."""

    __slots__ = ("agent", "around", "host", "name", "pacer", "thread", "wake_at")

    def __init__(self, name: str, host: int) -> None:
        self.name = name
        self.host = host
        self.thread: Any = None
        self.wake_at = 0.0
        self.pacer: Pacer
        self.agent: Agent
        self.around: Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one schedule."""

    seed: int
    profile: Profile
    violations: tuple[Violation, ...]
    steps: int
    """Crash points passed."""
    crashes: int
    pauses: int
    faults: int
    created: int
    strays: int
    """Resources that no row ever named; all of them collected, or there is a violation."""
    labels: frozenset[str]
    """Crash points passed, as ``kind label``."""
    trace: tuple[str, ...] = ()


class Simulation:
    """One schedule.

    Args:
        product: the workflows under test.
        trace: keep a line for everything that happens.
    """

    def __init__(self, seed: int, product: Product, *, profile: Profile | None = None, trace: bool = False) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.profile = profile or draw(self.random)
        self._product = product
        self._trace: list[str] | None = [] if trace else None
        self.time = VirtualTime(self.random.choice((START, START, _MONTH_END - 300.0)))
        self.began = self.time.at
        self.store = _WatchedStore(self.time)
        self.cloud = Cloud(
            self.profile,
            self.random,
            self.time,
            place=PLACE,
            point=self._point,
            caller=self._caller_name,
            holds=self._holds,
        )
        hourly = HOURLY if self.profile.priced else 0
        jobs = (SimulatedJobsAtOnce if self.profile.at_once else SimulatedJobs)(self.cloud, hourly=hourly)
        endpoints = SimulatedEndpoints(self.cloud, hourly=hourly)
        self._jobs, self._endpoints = backend_at(jobs), backend_at(endpoints)
        self.registered: list[tuple[str, str]] = []
        self._workflows = product.workflows(self._jobs, self._endpoints, self, INSTALL)
        self._main: Any = greenlet.getcurrent()
        self._current: _Process | None = None
        self._suspended: list[_Process] = []
        self._idle: list[_Process] = []
        self._restarts: list[tuple[float, int]] = []
        self._lives = 0
        self._deeds = deeds(self.profile, self.random, self.began)
        self._hostile = True
        self._defects: list[Violation] = []
        self._limits_set: list[LimitSet] = []
        self._submitted: list[str] = []
        self._wishes: dict[str, Wish] = {}
        self.steps = self.crashes = self.pauses = 0
        self.labels: set[str] = set()
        self._told = (0, 0, 0)

    # -- one run ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Everything, and what was wrong with it."""
        crash.arm(self._point)
        try:
            self._foreigners()
            for host in range(self.profile.workers):
                self._start(host)
            self._trouble()
            self._heal()
        finally:
            crash.arm(None)
            self._kill_all()
        violations = (*self._defects, *check(self.evidence()))
        known = {held.resource for row in self._rows() for held in self._product.view(row).held}
        ours = [one for one in self.cloud.resources.values() if one.tags.get("mlt:install") == INSTALL]
        return Outcome(
            seed=self.seed,
            profile=self.profile,
            violations=violations,
            steps=self.steps,
            crashes=self.crashes,
            pauses=self.pauses,
            faults=self.cloud.faults,
            created=len(ours),
            strays=sum(one.id not in known and one.kind == "job" for one in ours),
            labels=frozenset(self.labels),
            trace=tuple(self._trace or ()),
        )

    def _trouble(self) -> None:
        """The hostile part: everything may happen, in any order."""
        for _ in range(self.random.choice((20, 40, 80))):
            ready = self._ready()
            if not ready:
                self._pass_time()
                continue
            ready[int(self.random.random() * len(ready))]()

    def _heal(self) -> None:
        """The trouble is over: the platform answers, nobody dies, and everything must come to rest."""
        self._say("--- the trouble is over ---")
        self._hostile = self.cloud.hostile = False
        self._restarts = [(self.time.at, host) for _, host in self._restarts]
        for deed in self._deeds:
            if deed.what != "preempt":
                self._do(deed)
        self._deeds = []
        until = self.time.at + _HEAL_S
        rounds = 0
        for _ in range(_HEAL_STEPS):
            for row in self._rows():
                if row.kind == "endpoint" and not row.wish:  # an endpoint has no end of its own
                    self._wish(row.id, "delete")
            if ready := self._ready():
                for go in ready:
                    go()
            elif not self._at_rest() and self.time.at < until:
                self._pass_time()
            elif rounds < 3:
                # Compare what exists with what is known, until two rounds in a row had time to find what there is.
                rounds += 1
                self.time.at += 1000.0
                self.cloud.work_off()
                self._resume(self._idle[0])
            else:
                return
        self._defects.append(Violation("every_row_ends", "no rest after the trouble was over"))

    def _at_rest(self) -> bool:
        waiting = self._suspended or self._restarts or self.cloud.late
        return not waiting and all(row.due_at is None for row in self._rows())

    # -- who may go on now --------------------------------------------------------------------------------------------

    def _ready(self) -> list[Callable[[], None]]:
        now = self.time.at
        ready: list[Callable[[], None]] = []
        for process in self._suspended:
            if process.wake_at <= now:
                ready.append(_bound(self._resume, process))
        while self._restarts and self._restarts[0][0] <= now:
            self._start(self._restarts.pop(0)[1])
        if self._deeds and self.began + self._deeds[0].at <= now:
            ready.append(self._next_deed)
        if self._idle and self._work_is_due(now):
            ready.extend(_bound(self._resume, process) for process in self._idle)
        return ready

    def _work_is_due(self, now: float) -> bool:
        return any(self._due_at(row) <= now for row in self._rows())

    def _due_at(self, row: Row) -> float:
        if row.due_at is None:
            return NEVER
        return max(row.due_at, row.lease_until) if row.lease_owner else row.due_at

    def _pass_time(self) -> None:
        """Go on to when something can happen, and sometimes much further: nobody promised to look at once."""
        now = self.time.at
        due = [self._due_at(row) for row in self._rows()] if self._idle else []
        due += [process.wake_at for process in self._suspended]
        due += [at for at, _ in self._restarts]
        due += [at for at, _ in self.cloud.late]
        if self._deeds:
            due.append(self.began + self._deeds[0].at)
        then = min((at for at in due if at < NEVER), default=now + 60.0)
        drawn = self.random.random() if self._hostile else 1.0
        change = self.cloud.next_change()
        if drawn < 0.3:
            then += -20.0 * (drawn - 0.31)
        elif drawn < 0.6:
            then = max(then, min(change, now + 900.0)) + 2.0 * drawn
        elif drawn < 0.7:
            then += 1000.0 * (drawn - 0.6)
        elif not self._hostile and change < NEVER:
            then = max(then, min(change, now + 3600.0))
        # What the platform still has to do happens when it happens: no jump goes past it.
        then = min([then, *(at for at, _ in self.cloud.late)])
        self.time.at = max(then, now + 0.001)
        self.cloud.work_off()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _process(self, host: int, kind: str) -> _Process:
        self._lives += 1
        process = _Process(f"{kind}{host}.{self._lives}", host)
        skew = (0.0, self.profile.users_skew_s, -self.profile.users_skew_s)[host % 3]
        clock = HostClock(self.time, skew, self._sleep)
        process.pacer = Pacer(clock)
        runner = Runner(
            self.store,
            self._workflows,
            lease_s=self.profile.lease_s,
            pacer=process.pacer,
            keeper=NoKeeper(),
            owner=process.name,
        )
        process.around = Surroundings(
            store=self.store,
            runner=runner,
            install=INSTALL,
            clock=clock,
            jobs=self._jobs,
            endpoints=self._endpoints,
        )
        return process

    def _start(self, host: int) -> None:
        process = self._process(host, "agent")
        runner = process.around.runner
        collector = Collector(
            self.store,
            self._workflows,
            owner=process.name,
            lease_s=self.profile.lease_s,
            pacer=process.pacer,
        )
        process.agent = Agent(self.store, runner, self._workflows, collector)
        self._idle.append(process)

    def _resume(self, process: _Process) -> None:
        """Let a process go on until it stands still, ends its round, or dies."""
        if process.thread is None:
            self._idle.remove(process)
            process.thread = greenlet(_bound(self._round, process))
        else:
            self._suspended.remove(process)
        self._run(process)

    def _run(self, process: _Process) -> None:
        before, self._current = self._current, process
        process.thread.switch()
        self._current = before
        if self._trace is not None:
            self._tell_news(self._trace)

    def _round(self, process: _Process) -> None:
        try:
            process.agent.round()
        except Crashed as died:
            self._died(process, died)
            self._restarts.append((self.time.at + self.random.random() * 2 * self.profile.lease_s, process.host))
            self._restarts.sort()
            return
        except Exception as error:  # noqa: BLE001 - whatever a round lets out is what is being looked for
            self._defects.append(Violation("a_round_raises_nothing", _brief(error)))
        process.thread = None
        self._idle.append(process)

    def _died(self, process: _Process, died: Crashed) -> None:
        self.crashes += 1
        self._say(f"{process.name} dies at {died}")

    def _kill_all(self) -> None:
        for process in self._suspended:
            process.thread.throw(greenlet.GreenletExit)
        self._suspended = []

    def _sleep(self, seconds: float) -> None:
        """A process waits."""
        if self._current is None:
            self.time.at += seconds
        else:
            self._stand_still(self.time.at + seconds)

    def _stand_still(self, until: float) -> None:
        process = self._current
        assert process is not None
        process.wake_at = until
        self._suspended.append(process)
        self._main.switch()

    def _point(self, label: str) -> None:
        """A boundary: the process may die here, or stand still while the others go on."""
        process = self._current
        if process is None:
            return
        self.steps += 1
        self.labels.add(label)
        if not self._hostile:
            return
        profile = self.profile
        if profile.meddles and label.endswith(":before:record") and self.random.random() < profile.meddles:
            self._meddle()
        drawn = self.random.random()
        if drawn < profile.crash:
            raise Crashed(label)
        drawn -= profile.crash
        if drawn < profile.pause:
            self.pauses += 1
            pause = 3 * profile.lease_s * self.random.random() ** 2 * self.random.choice((1.0, 1.0, 10.0))
            self._say(f"{process.name} stands still for {pause:.0f} s at {label}")
            self._stand_still(self.time.at + pause)
        elif drawn - profile.pause < profile.switch:
            self._stand_still(self.time.at)

    def _meddle(self) -> None:
        """A user's wish comes now, of all moments."""
        deed = next((deed for deed in self._deeds if deed.what == "wish"), None)
        if deed is not None:
            self._deeds.remove(deed)
            self._say(f"user: {deed.wish} {deed.row}, just now")
            self._wish(deed.row, deed.wish)

    def _caller_name(self) -> str:
        return self._current.name if self._current else "nobody"

    def _holds(self, row_id: str, process: str) -> bool:
        try:
            return self.store.get(row_id).lease_owner == process
        except NotFound:
            return False

    # -- users --------------------------------------------------------------------------------------------------------

    def _next_deed(self) -> None:
        self._do(self._deeds.pop(0))

    def _do(self, deed: Deed) -> None:
        self._say(f"user: {deed.what} {deed.row} {deed.wish} {deed.limit if deed.what == 'limit' else ''}")
        match deed.what:
            case "preempt":
                self.cloud.preempt()
            case "limit":
                scope, meter, period, most = deed.limit
                self.store.set_limit(scope, meter, period, most)
                month = month_of(self.time.at) if period else ""
                self._limits_set.append(LimitSet(len(self.store.lines()), scope, meter, period, most, month))
            case "submit" | "deploy" | "wish":
                process = self._process(2, "user")
                process.thread = greenlet(_bound(self._command, process, deed))
                self._run(process)

    def _command(self, process: _Process, deed: Deed) -> None:
        try:
            if deed.what == "wish":
                self._wish(deed.row, deed.wish)
                process.around.runner.drive(deed.row)
            elif deed.what == "deploy":
                self._product.deploy(process.around, deed.row, PLACE, deed.version)
            elif deed.job is not None:
                self._product.submit(process.around, deed.row, deed.job, PLACE, deed.scopes)
                self._submitted.append(deed.row)
        except Crashed as died:
            self._died(process, died)
        except (Bug, Exception) as error:  # noqa: BLE001 - a command may be refused; everything else is looked for
            if isinstance(error, Bug) or not isinstance(error, ToolboxError):
                self._defects.append(Violation("a_command_fails_cleanly", _brief(error)))
            self._say(f"{process.name}: {type(error).__name__}: {error}")

    def _wish(self, row_id: str, wish: Wish) -> None:
        try:
            self.store.wish(row_id, wish)
        except NotFound:
            return  # its submit was refused, or died before anything was written
        known = self._wishes.get(row_id, "")
        self._wishes[row_id] = max(known, wish, key=WISH_ORDER.index)

    def register(self, job_id: str, name: str) -> str:
        """The registry: the same version for the same job; hostile like the rest."""
        if self._hostile and self.random.random() < self.profile.fails_before:
            self.cloud.faults += 1
            raise self.cloud.passing_fault()
        made = next((version for job, version in self.registered if job == job_id), None)
        if made is None:
            made = f"{name}:{len(self.registered) + 1}"
            self.registered.append((job_id, made))
        if self._hostile and self.random.random() < self.profile.fails_after:
            self.cloud.faults += 1
            raise self.cloud.passing_fault()
        return made

    # -- what there is ------------------------------------------------------------------------------------------------

    def _rows(self) -> Sequence[Row]:
        return self.store.rows()

    def _foreigners(self) -> None:
        """Others use the account too; one is a copy of this installation that took another name."""
        for number, install in enumerate(("there", "everywhere")):
            tags = {
                "mlt:install": install,
                "mlt:owner": row_id(self.began, 0),
                "mlt:attempt": "1",
                "mlt:expires-at": "+1",
            }
            made = self.cloud.foreign(f"mlt-{install}-{number}", tags)
            made.ends_at = NEVER

    def evidence(self) -> Evidence:
        """The run as plain data."""
        rows = self._rows()
        views = [self._product.view(row) for row in rows]
        return Evidence(
            install=INSTALL,
            now=self.time.at,
            classes={PLACE: self.profile.kind},
            resources=[existed(one, self.time.at) for one in self.cloud.resources.values()],
            calls=self.cloud.calls,
            rows=views,
            histories={row.id: self.store.history(row.id) for row in rows},
            lines=self.store.lines(),
            limits=self.store.stored_limits(),
            limits_set=self._limits_set,
            submitted=self._submitted,
            wishes=self._wishes,
            registered=self.registered,
            taken=self.store.taken,
            slept_s=30 * self.profile.lease_s,
            retries={view.row.id: view.user_error_retries for view in views},
        )

    def _tell_news(self, trace: list[str]) -> None:
        """What the platform and the store wrote down since the last time."""
        calls, occurrences, lines = self.cloud.calls, self.store.occurrences(), self.store.lines()
        news: list[tuple[float, str]] = [
            (call.at, f"{call.by}: {call.operation} {call.target} -> {call.answer}") for call in calls[self._told[0] :]
        ]
        for one in occurrences[self._told[1] :]:
            step = one.transition
            what = f"{one.work_id[-4:]} {step.phase} ({step.state}) [{step.lease_token}] {step.cause}: {step.message}"
            news.append((step.at, what))
        for line in lines[self._told[2] :]:
            paid = line.posting
            what = f"{line.work_id[-4:]} {paid.kind} {paid.attempt}: held {paid.held:+}, spent {paid.spent:+} {paid.reason}"
            news.append((line.at, what))
        self._told = len(calls), len(occurrences), len(lines)
        trace.extend(f"{at - self.began:10.2f}      {what}" for at, what in sorted(news, key=lambda entry: entry[0]))

    def _say(self, text: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self.time.at - self.began:10.2f}  {text}")


_MONTH_END = 1_801_440_000.0
"""2027-02-01T00:00:00Z."""


def backend_at(backend: Any) -> Callable[[str], Any]:
    """Finds the one backend that there is by its name."""

    def of(name: str) -> Any:
        if name != PLACE:
            raise NotFound(f"no backend {name}")
        return backend

    return of


def _bound(action: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    def go() -> None:
        action(*arguments)

    return go


def existed(one: Resource, now: float) -> Existed:
    """The platform's resource as the checker reads it."""
    ended = min(one.ends_at, one.gone_at)
    return Existed(
        id=one.id,
        kind=one.kind,
        place=PLACE,
        name=one.name,
        tags=one.tags,
        max_run_s=one.max_run_s,
        hourly=one.hourly,
        created_at=one.created_at,
        by=one.by,
        charged_s=one.billed_s(now),
        ended_at=ended if ended <= now else NEVER,
        gone_at=min(one.gone_at, one.forgotten_at) if min(one.gone_at, one.forgotten_at) <= now else NEVER,
        outcome=one.outcome,
        stale=one.stale,
        removed_by_others=one.forgotten_at < min(one.gone_at, now),
    )


def _brief(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})"
