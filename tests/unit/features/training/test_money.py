"""Money of jobs: held before anything is created, spent while it runs, free again when it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import BudgetExceeded, NoCapacity, Unavailable
from ml_toolbox.domain.jobs import JobSpec, JobState, Limits
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer
from ml_toolbox.engine.agent import Agent
from ml_toolbox.engine.collection import Collector
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.runner import Runner
from ml_toolbox.features.training import Job
from tests.unit.features.training.fakes import FakeJobs
from tests.unit.features.training.test_training import Scene

HOUR = 3600.0


class PricedJobs(FakeJobs):
    """A place for $2 an hour."""

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="fake", price_hourly=Money.usd(2)),)


class Priced(Scene):
    def __init__(self, folder: Path, kind: Any = "token") -> None:
        super().__init__(folder, kind)
        self.backend: PricedJobs = PricedJobs(kind)

    def budget(self, usd: float, scope: str = "all") -> None:
        self.store.set_limit(scope, "cost", "", Money.usd(usd).micros)

    def limit(self) -> Limit:
        return self.store.limits()[0]

    def hours(self, hours: float = 1.0, **fields: Any) -> Job:
        return self.submit(limits=Limits(max_duration_s=hours * HOUR), **fields)

    def runs_for(self, job: Job, seconds: float, state: JobState = JobState.RUNNING) -> None:
        """The platform says that it has been running, and is now in that state."""
        self.clock.advance(seconds)
        now = self.clock.now()
        self.backend.show_times(self.resource(job), state, started_at=now - seconds, ended_at=now)
        self.training.tick()

    def lines(self) -> list[tuple[str, int, int]]:
        return [(line.posting.kind, line.posting.held, line.posting.spent) for line in self.store.lines()]

    def agent(self) -> Agent:
        workflow = self.training.workflow
        collector = Collector(self.store, [workflow], owner="collector")
        return Agent(self.store, Runner(self.store, [workflow]), [workflow], collector)


@pytest.fixture
def scene(tmp_path: Path) -> Priced:
    return Priced(tmp_path)


def test_the_worst_case_is_held_and_what_was_not_needed_is_free_again(scene: Priced) -> None:
    scene.budget(10)
    job = scene.hours(3)
    assert (scene.limit().held, scene.limit().spent) == (6_000_000, 0)
    scene.runs_for(job, HOUR)
    assert (scene.limit().held, scene.limit().spent) == (4_000_000, 2_000_000)
    scene.runs_for(job, HOUR, JobState.SUCCEEDED)
    assert job.record.spent == Money.usd(2)
    assert (scene.limit().held, scene.limit().spent) == (0, 2_000_000)
    assert [kind for kind, _, _ in scene.lines()] == ["reserve", "accrue", "settle"]


def test_denied_before_anything_is_written(scene: Priced) -> None:
    scene.budget(5)
    scene.hours(2)
    with pytest.raises(BudgetExceeded, match=r"\$2\.00 asked, \$1\.00 free"):
        scene.hours(1)
    assert len(scene.store.find("job")) == 1
    assert scene.backend.calls.count("submit") == 1


@pytest.mark.parametrize("scope", ["all", "user:ann", "project:churn", "profile:gpu", "backend:fake"])
def test_every_scope_pays(scene: Priced, scope: str) -> None:
    scene.training._actor = "ann"
    scene.budget(1, scope)
    with pytest.raises(BudgetExceeded, match=scope):
        scene.hours(1, project="churn", profile="gpu")
    if scope in ("project:churn", "profile:gpu"):
        scene.hours(1, project="another")


def test_what_is_never_created_costs_nothing(scene: Priced) -> None:
    scene.budget(10)
    scene.backend.faults["submit"] = [("before", NoCapacity("none left"))]
    job = scene.hours(1)
    assert scene.limit().taken == 0
    scene.later(301)
    assert (job.state, scene.limit().held) == (JobState.RUNNING, 2_000_000)
    assert [line.posting.attempt for line in scene.store.lines()] == [1, 1, 2]


def test_an_unknown_outcome_stays_reserved(scene: Priced) -> None:
    scene.budget(10)
    scene.backend.faults["submit"] = [("after", Unavailable("no answer"))]
    scene.hours(1)
    assert scene.store.find("job")[0].phase == "unknown"
    assert scene.limit().held == 2_000_000


def test_a_limit_on_numbers_lets_the_next_wait_in_line(scene: Priced) -> None:
    scene.store.set_limit("all", "running", "", 1)
    first, second = scene.hours(), scene.hours()
    assert second.state is JobState.QUEUED
    assert "1 asked, 0 free" in second.record.waiting_for
    assert len(scene.backend.resources) == 1
    scene.runs_for(first, 60, JobState.SUCCEEDED)
    scene.later(10)
    assert second.record.state is JobState.RUNNING


def test_one_that_waits_can_be_stopped(scene: Priced) -> None:
    scene.store.set_limit("all", "running", "", 1)
    scene.hours()
    waiting = scene.hours()
    assert waiting.stop().state is JobState.STOPPED
    assert len(scene.backend.resources) == 1


def test_its_own_money_shortens_what_the_platform_is_told(scene: Priced) -> None:
    job = scene.submit(limits=Limits(max_duration_s=10 * HOUR, max_cost_usd=4))
    request, _ = scene.backend.resources[scene.resource(job)]
    assert request.max_run_s == pytest.approx(2 * HOUR)
    assert scene.store.lines()[0].posting.held <= 4_000_000


def test_at_its_own_limit_it_is_told_to_save_and_stop(scene: Priced) -> None:
    job = scene.submit(limits=Limits(max_duration_s=10 * HOUR, max_cost_usd=4))
    scene.runs_for(job, HOUR)
    assert "stop" not in scene.backend.calls
    scene.clock.advance(HOUR - 5)
    scene.training.tick()
    assert "stop" in scene.backend.calls
    scene.training.tick()
    record = job.record
    assert (record.state, record.failure and record.failure.kind) == (JobState.STOPPED, "budget")
    assert record.spent <= Money.usd(4)


def test_too_little_money_for_a_minute_is_refused_at_once(scene: Priced) -> None:
    with pytest.raises(BudgetExceeded, match="max_cost_usd"):
        scene.submit(limits=Limits(max_cost_usd=0.01))
    with pytest.raises(BudgetExceeded, match="max_cost_per_hour_usd"):
        scene.submit(limits=Limits(max_cost_per_hour_usd=1.5))
    assert scene.store.find("job") == ()


def test_a_lowered_budget_stops_the_newest_until_the_rest_fits(scene: Priced) -> None:
    scene.budget(10)
    jobs = []
    for _ in range(3):
        jobs.append(scene.hours(1))
        scene.clock.advance(1.0)
    scene.budget(4)
    assert scene.agent().enforce_budgets() == 1
    assert scene.agent().enforce_budgets() == 0, "what is told to stop counts already"
    scene.later(5)
    assert [job.state for job in jobs] == [JobState.RUNNING, JobState.RUNNING, JobState.STOPPED]
    assert scene.limit().taken <= scene.limit().most
    assert any("stop wanted: budget all cost" in step.message for step in scene.training.history(jobs[2].id))


def test_a_warning_in_the_history_at_four_fifths(scene: Priced) -> None:
    scene.budget(2.4)
    job = scene.hours(1)
    warnings = [step for step in scene.training.history(job.id) if step.level == "warning"]
    assert "83% of budget all cost" in warnings[0].message


# -- strays -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unsafe(tmp_path: Path) -> Priced:
    """On a platform that honours neither token nor name."""
    return Priced(tmp_path, "none")


def test_a_lost_answer_is_looked_up_and_not_repeated(unsafe: Priced) -> None:
    unsafe.backend.faults["submit"] = [("after", Unavailable("no answer"))]
    job = unsafe.hours()
    unsafe.later()
    assert job.state is JobState.RUNNING
    assert unsafe.backend.calls.count("submit") == 1


def test_a_duplicate_is_collected_and_counted_once(unsafe: Priced) -> None:
    job = unsafe.hours()
    kept = unsafe.resource(job)
    request, _ = unsafe.backend.resources[kept]
    late = unsafe.backend.submit(request, "of a worker that stood still")
    foreign = unsafe.backend.submit(_of_another_install(request), "foreign")
    unsafe.clock.advance(600)
    collector = Collector(unsafe.store, [unsafe.training.workflow], owner="collector")
    assert [stray.resource for stray in collector.compare().strays] == [late]
    assert late in unsafe.backend.resources, "comparing removes nothing"
    assert [stray.removed for stray in collector.collect().strays] == [True]
    assert set(unsafe.backend.resources) == {kept, foreign}
    assert collector.collect().strays == ()
    counted = [line.posting for line in unsafe.store.lines() if line.posting.kind == "collect"]
    assert [posting.spent for posting in counted] == [Money.usd(2).micros // 6 + 1], "ten minutes at $2 an hour"
    assert job.state is JobState.RUNNING


def test_a_resource_without_a_row_is_given_time(unsafe: Priced) -> None:
    request, _ = unsafe.backend.resources[unsafe.resource(unsafe.hours())]
    from ml_toolbox.base.ids import new_ulid

    row = new_ulid(unsafe.clock.now())
    orphan = unsafe.backend.submit(_with_tags(request, **{"mlt:owner": row}), "from a database that is gone")
    collector = Collector(unsafe.store, [unsafe.training.workflow], owner="collector")
    assert collector.collect().strays == ()
    unsafe.clock.advance(301)
    assert [stray.resource for stray in collector.collect().strays] == [orphan]


def test_a_place_that_cannot_be_asked_is_told(unsafe: Priced) -> None:
    unsafe.hours()

    def broken(tags: object) -> Any:
        raise Unavailable("no network")

    unsafe.backend.list_by_tag = broken  # type: ignore[method-assign]
    found = Collector(unsafe.store, [unsafe.training.workflow], owner="collector").collect()
    assert found.unseen == {"fake": "no network"}


def _of_another_install(request: Any) -> Any:
    return _with_tags(request, **{"mlt:install": "elsewhere"})


def _with_tags(request: Any, **tags: str) -> Any:
    from dataclasses import replace

    return replace(request, tags={**request.tags, **tags})
