"""What is told of each attempt: its resource, what it cost, why it ended, and the checkpoint that the next one goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.domain.jobs import JobState, Limits
from ml_toolbox.domain.money import Money
from ml_toolbox.ports.jobs import Checkpoint
from tests.unit.features.training.test_money import HOUR, Priced


def test_each_attempt_says_why_it_ended_and_where_the_next_goes_on(tmp_path: Path) -> None:
    scene = Priced(tmp_path)
    job = scene.hours(2)
    first = job.submitted
    assert first.reserved_s >= 2 * HOUR
    assert first.hourly == Money.usd(2)
    (attempt,) = first.attempts
    assert (attempt.number, attempt.ended_at, attempt.end) == (1, None, "")
    assert attempt.held == first.held

    resource = scene.resource(job)
    scene.runs_for(job, HOUR)
    saved = Checkpoint(step=7, sha256="0" * 64, uri="/checkpoints/7")
    scene.backend.show(resource, JobState.FAILED, kind="preempted")
    request, seen = scene.backend.resources[resource]
    scene.backend.resources[resource] = (request, replace(seen, checkpoint=saved))
    scene.clock.advance(5)  # looked at again by then
    scene.training.tick()
    scene.clock.advance(2)
    scene.training.tick()

    before, now = job.submitted.attempts
    assert before.checkpoint == saved
    assert "it was preempted" in before.end
    assert before.ended_at is not None
    assert before.held == Money()
    assert before.spent > Money()
    assert (now.number, now.resource != resource, now.checkpoint) == (2, True, None)


def test_a_job_in_line_says_what_for_and_holds_nothing(tmp_path: Path) -> None:
    scene = Priced(tmp_path)
    scene.store.set_limit("all", "running", "", 1)
    scene.hours(1)
    waits = scene.hours(1).submitted
    assert waits.attempts == ()
    assert waits.waiting_for.startswith("budget all running: 1 asked, 0 free")
    assert (waits.held, waits.reserved_s) == (Money(), 0.0)


def test_a_place_that_is_too_dear_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scene = Priced(tmp_path)
    with pytest.raises(BudgetExceeded) as caught:
        scene.submit(limits=Limits(max_cost_per_hour_usd=1.5))
    assert caught.value.field == "limits.max_cost_per_hour_usd"
    assert scene.store.find("job") == ()
