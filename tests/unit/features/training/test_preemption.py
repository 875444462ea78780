"""Rehearsing preemption through the feature: which attempt is told, and who cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.base.errors import NotYet, Unavailable, Unsupported
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.features.training import Job, Training
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from tests.unit.features.training.fakes import FakeJobs


class PreemptingJobs(FakeJobs):
    """Writes down who was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, float]] = []

    def preempt(self, job_id: str, *, notice_s: float) -> None:
        self.told.append((job_id, notice_s))


def submitted(folder: Path, backend: FakeJobs) -> Job:
    (folder / "train.py").write_text("print(1)")
    store = SqliteStore(folder / "state" / "state.db")
    training = Training(store, lambda _name: backend, home=folder / "home", install="here", clock=FakeClock())
    return training.submit(JobSpec(name="job", script="train.py", source=str(folder)), on="fake")


def test_the_running_attempt_is_told_and_an_ended_job_is_not(tmp_path: Path) -> None:
    backend = PreemptingJobs()
    job = submitted(tmp_path, backend)
    resource = job.record.resource
    assert job.preempt(notice_s=5).state is JobState.RUNNING
    assert backend.told == [(resource, 5)]
    backend.show(resource, JobState.SUCCEEDED)
    job.wait()
    assert job.preempt(notice_s=5).state is JobState.SUCCEEDED
    assert len(backend.told) == 1


def test_a_job_that_is_not_created_yet_cannot_be(tmp_path: Path) -> None:
    backend = PreemptingJobs()
    backend.faults["submit"] = [("before", Unavailable("x"))] * 5
    job = submitted(tmp_path, backend)
    with pytest.raises(NotYet, match="not created"):
        job.preempt(notice_s=5)
    assert backend.told == []


def test_a_backend_that_cannot_says_so(tmp_path: Path) -> None:
    job = submitted(tmp_path, FakeJobs())
    with pytest.raises(Unsupported, match="fake cannot take capacity away"):
        job.preempt(notice_s=5)
