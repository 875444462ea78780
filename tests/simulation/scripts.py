"""Stories in which jobs and endpoints pass every crash point that the loop has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_toolbox.base.errors import Denied, Invalid, NoCapacity, NotYet, Throttled, Unavailable
from ml_toolbox.domain.jobs import JobSpec, Limits, RetryRule
from ml_toolbox.testing.simulator.scripted import Fault, Script, Stage, Step
from ml_toolbox.testing.simulator.timing import START
from ml_toolbox.testing.simulator.users import row_id

FIRST, SECOND = row_id(START, 0), row_id(START + 1.0, 1)
DAY_S = 24 * 3600.0


def submit(at: float = 0.0, row: str = FIRST, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "name": f"job{row[-1]}",
        "command": ("train",),
        "limits": Limits(max_duration_s=600.0, stop_grace_s=10.0),
        "retry": RetryRule(preempted=2, no_capacity=2, lost=1, user_error=0),
    }
    spec = JobSpec(**{**values, **changes})
    return Step(at=at, do=lambda stage: stage.submit(row, spec))


def wish(at: float, wanted: Any, row: str = FIRST) -> Step:
    return Step(at=at, do=lambda stage: stage.wish(row, wanted))


def limit(at: float, meter: str, most: int) -> Step:
    return Step(at=at, do=lambda stage: stage.limit("all", meter, most))


def deploy(at: float, version: int = 1) -> Step:
    return Step(at=at, do=lambda stage: stage.deploy("shop", version))


def happens(at: float, what: Callable[[Stage], None]) -> Step:
    return Step(at=at, do=what)


def job(name: str, *steps: Step, faults: dict[str, list[Fault]] | None = None, **values: Any) -> Script:
    return Script(name=name, kind="job", steps=steps, faults=faults or {}, **values)


def endpoint(name: str, *steps: Step, faults: dict[str, list[Fault]] | None = None, **values: Any) -> Script:
    gone = happens(values.pop("until", 400.0), Stage.delete_endpoints)
    told = sorted((deploy(0.0), *steps, gone), key=lambda step: step.at)
    return Script(name=name, kind="endpoint", steps=told, faults=faults or {}, **values)


DOWN = Unavailable("no answer")
NONE: dict[str, Any] = {"platform": "none", "window_s": 30.0}

JOBS = (
    job("succeeds", submit()),
    job("registers", submit(register="model")),
    job("registry down", submit(register="model"), register_faults=2),
    job("fails by its own error", submit(), fates=[(50.0, "failed:exception")]),
    job("stopped", submit(), wish(30.0, "stop")),
    job("stop not answered", submit(), wish(30.0, "stop"), faults={"stop": ["after", "before"]}),
    job("stop ignored", submit(), wish(30.0, "stop"), fates=[(590.0, "succeeded")], faults={"stop": ["deaf"]}),
    job("deleted while it runs", submit(), wish(30.0, "delete")),
    job("deleted after its end", submit(), wish(200.0, "delete")),
    job(
        "deletion not answered",
        submit(),
        wish(200.0, "delete"),
        faults={"delete": ["after", "before", NotYet("later")]},
    ),
    job("deletion forgotten", submit(), wish(30.0, "delete"), faults={"delete": ["deaf"]}, window_s=5.0),
    job("preempted", submit(), fates=[(40.0, "failed:preempted")]),
    job("no capacity", submit(), faults={"create": [NoCapacity("none left")]}),
    job("refused", submit(), faults={"create": [Invalid("not here")]}),
    job("credentials expired", submit(), faults={"create": [Denied("expired")]}),
    job("throttled", submit(), faults={"create": [Throttled("slow down", retry_after_s=7.0)]}),
    job("outcome unknown, token", submit(), faults={"create": ["after", "before"]}),
    job("outcome unknown, name", submit(), faults={"create": ["after"]}, platform="name", window_s=5.0),
    job("outcome unknown, found", submit(), faults={"create": ["after"], "list": [DOWN] * 4}, **NONE),
    job("outcome unknown, absent", submit(), faults={"create": ["before"]}, **NONE),
    job("outcome unknown, then refused", submit(), faults={"create": ["after", Denied("expired")]}, window_s=5.0),
    job("outcome unknown, stopped", submit(), wish(20.0, "stop"), faults={"create": ["before"]}, **NONE),
    job("outcome unknown, deleted", submit(), wish(20.0, "delete"), faults={"create": ["before"]}, **NONE),
    job("an adapter's defect", submit(), faults={"create": ["defect"], "get": ["defect"]}),
    job("looks not answered", submit(), faults={"get": ["before", Denied("expired"), Throttled("slow down")]}),
    job("removed by somebody", submit(), happens(30.0, Stage.remove_behind_our_back), window_s=5.0),
    job("in line behind another", limit(0.0, "running", 1), submit(), submit(1.0, SECOND), fates=[(60.0, "succeeded")]),
    job("budget used up in line", limit(0.0, "running", 1), submit(), submit(1.0, SECOND), limit(2.0, "cost", 700_000)),
    job(
        "its own cost limit",
        submit(limits=Limits(max_duration_s=3600.0, max_cost_usd=0.3)),
        fates=[(3000.0, "succeeded")],
    ),
    job("a stray", submit(), happens(150.0, lambda stage: stage.leave_a_stray(FIRST, 7))),
)

ENDPOINTS = (
    endpoint("served and deleted"),
    endpoint("another model", deploy(100.0, 2), deploy(200.0, 3)),
    endpoint("refused at first", faults={"put": [Invalid("not here")]}),
    endpoint("refused later", deploy(100.0, 2), faults={"put": ["", "before", "after", Invalid("not here")]}),
    endpoint("apply not answered", faults={"put": ["after", "before", "defect"]}),
    endpoint("looks not answered", faults={"get": ["before", Throttled("slow down", retry_after_s=3.0)]}, until=900.0),
    endpoint("removed by somebody", happens(90.0, Stage.remove_behind_our_back), until=900.0, window_s=5.0),
    endpoint("deletion not answered", faults={"delete": ["after", "before", NotYet("later")]}),
    endpoint("deletion forgotten", faults={"delete": ["deaf"]}, window_s=5.0),
    endpoint("the next day", until=0.6 * DAY_S),
    endpoint("the next day is not paid for", limit(100.0, "cost", 90_000_000), until=1.2 * DAY_S, look_every_s=800.0),
    endpoint("a stray", happens(500.0, lambda stage: stage.leave_a_stray("shop.000001", 1, "endpoint")), until=100.0),
)

SCRIPTS = (*JOBS, *ENDPOINTS)
