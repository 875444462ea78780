"""A hostile platform: resources that live in virtual time, reads that lag, answers that are lost, and its own bookkeeping.

What happens to a resource is fixed when it is created, and by the calls that reach it later; what a read shows is the state of
some moment within the visibility window. So a lagging read needs no copy of the past. The platform writes down what it created
and charged, for the checker, and knows nothing of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, TypeVar

from ml_toolbox.base.errors import Conflict, Denied, Invalid, NoCapacity, NotYet, Throttled, ToolboxError, Unavailable
from ml_toolbox.ports.jobs import TAG_OWNER
from ml_toolbox.testing.simulator.profile import Profile
from ml_toolbox.testing.simulator.timing import VirtualTime

T = TypeVar("T")
NEVER = float("inf")

_LIES = (
    "the gateway timed out",
    "resource not found",
    "the resource already exists",
    "does not exist",
    "cannot create already existing job",
    "instance has been terminated",
)
"""Texts of passing faults. Platforms say such things about calls that had their effect; whoever reads them is misled."""


@dataclass(slots=True, eq=False)
class Resource:
    """Something that exists on the platform, and is charged from ``starts_at`` to ``ends_at``."""

    id: str
    kind: str
    name: str
    body: Any
    tags: Mapping[str, str]
    max_run_s: float
    hourly: int
    created_at: float
    visible_by: float
    """From then on every read shows it."""
    by: str
    """Which process called."""
    starts_at: float
    ends_at: float
    outcome: str
    """What it ends as: a final job state, with the kind of failure behind a colon."""
    stale: bool
    """Its caller had stood still, and somebody else had taken over its row when the call was sent."""
    gone_at: float = NEVER
    asked_to_stop_at: float = NEVER
    forgotten_at: float = NEVER
    """When the platform itself drops the ended job."""

    def billed_s(self, now: float) -> float:
        return max(0.0, min(now, self.ends_at, self.gone_at) - self.starts_at)

    def lives(self, now: float) -> bool:
        """Costs money now, or will."""
        return now < min(self.ends_at, self.gone_at)

    def absent(self, at: float) -> bool:
        return at < self.created_at or at >= min(self.gone_at, self.forgotten_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a create call asks for."""

    kind: str
    name: str
    token: str
    body: Any
    tags: Mapping[str, str]
    max_run_s: float
    hourly: int


class _Asked(NamedTuple):
    """A create call: when, by whom, and whether that process had lost its row by then."""

    wanted: Wanted
    at: float
    by: str
    stale: bool


class Call(NamedTuple):
    """One API call as the platform's log has it."""

    at: float
    by: str
    place: str
    operation: str
    target: str
    """Id of the resource concerned; "" where there is none."""
    answer: str
    """``ok``, or the error's class; ``throttled:SECONDS``."""


class Cloud:
    """One account with one place.

    Args:
        point: passed at every boundary inside a call; it may raise (the caller dies) or let others go on for a while.
        caller: who is calling now.
        holds: whether that process still holds the row's lease.
    """

    def __init__(
        self,
        profile: Profile,
        random: Random,
        time: VirtualTime,
        *,
        place: str,
        point: Callable[[str], None],
        caller: Callable[[], str],
        holds: Callable[[str, str], bool],
    ) -> None:
        self.profile, self.random, self.time, self.place = profile, random, time, place
        self.resources: dict[str, Resource] = {}
        self.calls: list[Call] = []
        self.faults = 0
        self.hostile = True
        self.late: list[tuple[float, Callable[[], object]]] = []
        """Effects that are still to happen: time and what."""
        self._point, self._caller, self._holds = point, caller, holds
        self._by_token: dict[str, Resource] = {}
        self._tokens_left = profile.burst
        self._filled_at = time.at
        start = time.at + random.random() * 1200.0
        self._denied = (start, start + profile.denied_s) if profile.denied_s else (NEVER, NEVER)

    # -- what every call goes through ---------------------------------------------------------------------------------

    def call(self, operation: str, effect: Callable[[], T], *, target: str = "") -> T:
        """One API call: may fail before its effect, after it, or be thrown back."""
        profile, random = self.profile, self.random
        self.time.at += 0.05  # every call takes its time
        if not self.hostile:
            result = self._effected(operation, effect, target)
            self._log(operation, target, "ok")
            return result
        self._refuse_early(operation, target)
        drawn = random.random()
        if drawn < profile.fails_before:
            return self._fail(operation, target, "before")
        result = self._effected(operation, effect, target)
        drawn = random.random()
        if drawn < profile.fails_after:
            return self._fail(operation, target, "after")
        if drawn < profile.fails_after + profile.breaks_after:
            self.faults += 1
            self._log(operation, target, "defect")
            raise ValueError("Expecting value: line 1 column 1 (char 0)")
        self._log(operation, target, "ok")
        self._point(f"cloud:{operation}:answered")
        return result

    def _effected(self, operation: str, effect: Callable[[], T], target: str) -> T:
        try:
            return effect()
        except ToolboxError as error:
            self._log(operation, target, type(error).__name__)
            raise

    def _refuse_early(self, operation: str, target: str) -> None:
        """What a platform says before it looks at the request."""
        now, profile = self.time.at, self.profile
        if self._denied[0] <= now < self._denied[1]:
            self.faults += 1
            self._log(operation, target, "Denied")
            raise Denied("the security token included in the request is expired", hint="sign in again")
        self._tokens_left = min(profile.burst, self._tokens_left + (now - self._filled_at) * profile.rate)
        self._filled_at = now
        if self._tokens_left < 1.0:
            wait = (1.0 - self._tokens_left) / profile.rate
            self.faults += 1
            self._log(operation, target, f"throttled:{wait:.3f}")
            raise Throttled("rate exceeded", retry_after_s=wait)
        self._tokens_left -= 1.0
        if self.random.random() < profile.throttles:
            self.faults += 1
            self._log(operation, target, "throttled:0")
            raise Throttled("too many requests")

    def _fail(self, operation: str, target: str, when: str) -> Any:
        self.faults += 1
        self._log(operation, target, f"unavailable-{when}")
        self._point(f"cloud:{operation}:lost")
        raise self.passing_fault()

    def _log(self, operation: str, target: str, answer: str) -> None:
        self.calls.append(Call(self.time.at, self._caller(), self.place, operation, target, answer))

    # -- creating -----------------------------------------------------------------------------------------------------

    def create(self, wanted: Wanted) -> str:
        """Make a resource, under the rule of the profile's class."""
        asked = self._asked(wanted)

        def effect() -> Resource:
            return self._create(asked)

        if self.hostile and self.random.random() < self.profile.fails_late * (self.profile.window_s > 0):
            self._refuse_early("create", wanted.name)
            # The request was taken, and is worked off after the caller has given up; within the window, as promised.
            self.late.append((self.time.at + self.random.random() * 0.9 * self.profile.window_s, effect))
            return str(self._fail("create", wanted.name, "late"))
        return self.call("create", effect, target=wanted.name).id

    def _asked(self, wanted: Wanted) -> _Asked:
        by = self._caller()
        return _Asked(wanted, self.time.at, by, not self._holds(wanted.tags.get(TAG_OWNER, ""), by))

    def _create(self, asked: _Asked) -> Resource:
        profile, random, now, wanted = self.profile, self.random, self.time.at, asked.wanted
        if profile.kind == "token" and (known := self._by_token.get(wanted.token)):
            if not (profile.forgets_tokens and known.absent(now)):
                if known.body != wanted.body:
                    raise Conflict("the token was used with other parameters")
                return known
        if profile.kind == "name" and (same := self._named(wanted.name)):
            if profile.answers_conflict or same.body != wanted.body:
                raise Conflict(f"{wanted.name} exists")
            return same
        if self.hostile:
            if random.random() < profile.no_capacity:
                self.faults += 1
                raise NoCapacity("insufficient capacity in the zone")
            if random.random() < profile.refused:
                self.faults += 1
                raise Invalid("the instance type is not offered here")
        made = self._born(asked)
        self._by_token[wanted.token] = made
        self._point("cloud:create:effect")
        return made

    def put(self, wanted: Wanted) -> None:
        """Make the endpoint of this name, or change it."""
        asked = self._asked(wanted)

        def effect() -> None:
            one = self.endpoint_named(wanted.name)
            if one is None:
                self._born(asked)
            elif one.tags != wanted.tags:
                raise Conflict(f"endpoint {wanted.name} is somebody else's")
            else:
                one.body = wanted.body
            self._point("cloud:put:effect")

        self.call("put", effect, target=wanted.name)

    def endpoint_named(self, name: str) -> Resource | None:
        """The one that has the name now."""
        now = self.time.at
        for one in self.resources.values():
            if one.kind == "endpoint" and one.name == name and not one.absent(now):
                return one
        return None

    def _named(self, name: str) -> Resource | None:
        now = self.time.at
        for one in self.resources.values():
            if one.name == name and not (self.profile.frees_names and one.absent(now)):
                return one
        return None

    def _born(self, asked: _Asked) -> Resource:
        profile, random, now, wanted = self.profile, self.random, self.time.at, asked.wanted
        starts_at = now + random.choice((0.0, 1.0, 40.0))
        runs_s, outcome = self._fate(random)
        if wanted.kind == "endpoint":
            runs_s, outcome = NEVER, ""
        if runs_s >= wanted.max_run_s:
            runs_s, outcome = wanted.max_run_s, "failed:timeout"
        ends_at = starts_at + runs_s
        made = Resource(
            id=f"{self.place}-{len(self.resources) + 1}",
            kind=wanted.kind,
            name=wanted.name,
            body=wanted.body,
            tags=dict(wanted.tags),
            max_run_s=wanted.max_run_s,
            hourly=wanted.hourly,
            created_at=now,
            visible_by=asked.at + profile.window_s,
            by=asked.by,
            stale=asked.stale,
            starts_at=starts_at,
            ends_at=ends_at,
            outcome=outcome,
            forgotten_at=ends_at + profile.window_s + 60.0 if profile.forgets and self.hostile else NEVER,
        )
        self.resources[made.id] = made
        return made

    def _fate(self, random: Random) -> tuple[float, str]:
        runs_s = random.choice((2.0, 30.0, 300.0, 300.0, 3000.0)) * (0.5 + random.random())
        if not self.hostile:
            return min(runs_s, 300.0), "succeeded"
        drawn = random.random()
        if drawn < self.profile.preempts:
            return runs_s, "failed:preempted"
        drawn = random.random()
        if drawn < 0.65:
            return runs_s, "succeeded"
        return runs_s, random.choice(("failed:exception", "failed:out-of-memory", "failed:lost", "succeeded-empty"))

    # -- reading ------------------------------------------------------------------------------------------------------

    def moment(self, one: Resource) -> float:
        """The moment whose state a read of the resource shows."""
        now, profile = self.time.at, self.profile
        if not self.hostile or self.random.random() >= profile.stale:
            return now
        then = now - self.random.random() * profile.window_s
        # What must be visible by now is, whatever replica answers.
        return max(then, one.created_at) if now >= one.visible_by else then

    def seen(self, resource_id: str) -> tuple[Resource, float] | None:
        """The resource and the moment it is shown at; ``None`` when the read does not show it."""
        one = self.resources.get(resource_id)
        if one is None:
            return None
        at = self.moment(one)
        return None if one.absent(at) else (one, at)

    def tagged(self, kind: str, tags: Mapping[str, str]) -> list[Resource]:
        """What a listing shows."""
        wanted = tags.items()
        return [
            one
            for one in self.resources.values()
            if one.kind == kind and wanted <= one.tags.items() and not one.absent(self.moment(one))
        ]

    # -- ending -------------------------------------------------------------------------------------------------------

    def stop(self, one: Resource, grace_s: float) -> None:
        """Ask it to end; it takes its time, but not longer than its grace."""
        now = self.time.at
        if one.asked_to_stop_at > now and one.lives(now):
            one.asked_to_stop_at = now
            if now + grace_s < one.ends_at:
                one.ends_at = max(one.starts_at, now + self.random.random() * grace_s)
                one.outcome = "stopped"

    def delete(self, one: Resource) -> None:
        """Remove it, at once or in a while; what goes on existing goes on being charged."""
        now, profile, random = self.time.at, self.profile, self.random
        if one.gone_at <= now:
            return
        if self.hostile and random.random() < profile.not_yet:
            raise NotYet("it is being created: delete it later")
        if self.hostile and random.random() < profile.lost_delete:
            return
        slow = self.hostile and random.random() < profile.slow_delete
        one.gone_at = min(one.gone_at, now + (random.random() * 200.0 if slow else 0.0))

    def preempt(self) -> bool:
        """Take one running job away after a short notice."""
        now = self.time.at
        running = [one for one in self.resources.values() if one.kind == "job" and one.starts_at <= now < one.ends_at]
        if not running:
            return False
        one = self.random.choice(running)
        if now + 5.0 < one.ends_at:
            one.ends_at, one.outcome = now + 5.0, "failed:preempted"
        return True

    def passing_fault(self) -> Unavailable:
        return Unavailable(self.random.choice(_LIES))

    def next_change(self) -> float:
        """When something changes by itself next."""
        now = self.time.at
        times = [at for one in self.resources.values() for at in (one.starts_at, one.ends_at, one.gone_at) if at > now]
        return min(times, default=NEVER)

    def foreign(self, name: str, tags: Mapping[str, str]) -> Resource:
        """Somebody else's job, with a name and tags in the same style."""
        wanted = Wanted(kind="job", name=name, token="", body={}, tags=tags, max_run_s=1e9, hourly=1)
        return self._born(_Asked(wanted, self.time.at, "a foreigner", False))

    def work_off(self) -> bool:
        """Let late effects happen whose time has come."""
        due = [entry for entry in self.late if entry[0] <= self.time.at]
        self.late = [entry for entry in self.late if entry[0] > self.time.at]
        for _, effect in due:
            try:
                effect()
            except (Conflict, NoCapacity, Invalid):
                continue  # nobody is there to hear it
        return bool(due)
