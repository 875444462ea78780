"""What a released version left half-done, in every phase and at every crash point, is brought to its end by this one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ml_toolbox.domain.jobs import JobState
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.runner import Runner
from ml_toolbox.features.serving.records import data_of as endpoint_data_of
from ml_toolbox.features.serving.workflow import EndpointWorkflow
from ml_toolbox.features.training.records import JobRecord
from ml_toolbox.features.training.records import data_of as job_data_of
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.jobs import JobObservation, JobRequest, Owner
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from tests.conformance.memory_endpoints import Cloud, MemoryEndpoints
from tests.unit.features.training.fakes import FakeJobs
from tests.upgrade.released_databases import platforms, restored

NOW = 1_900_000_000.0


class Home:
    """The database and the platforms as the release left them, and this release's loop over them."""

    def __init__(self, version: int, folder: Path) -> None:
        self.clock = FakeClock(NOW)
        self.store = SqliteStore(restored(version, folder / "state.db"), clock=self.clock)
        self.jobs = FakeJobs()
        self.endpoints = MemoryEndpoints(Cloud())
        left = platforms(version)
        # Counted up, so that no new resource is called like an old one.
        self.jobs.by_token = {**{f"used{n}": "" for n in range(100_000)}, **left["tokens"]}
        for resource, job in left["jobs"].items():
            request = JobRequest(name=job["name"], body={}, tags=job["tags"], max_run_s=3600.0)
            self.jobs.resources[resource] = (request, msgspec.convert(job["seen"], JobObservation))
            self.jobs.log[resource] = []
        for row in self.store.find("endpoint"):
            if row.name in left["endpoints"]:
                wanted = endpoint_data_of(row).applied or endpoint_data_of(row).wanted
                self.endpoints.apply(self.endpoints.build(wanted, Owner(install="here", row=row.id, attempt=1)))
        self.registered: Counter[str] = Counter()
        workflows: list[Any] = [
            JobWorkflow(lambda _: self.jobs, self._register, "here"),
            EndpointWorkflow(lambda _: self.endpoints, "here"),
        ]
        self.runner = Runner(self.store, workflows)

    def _register(self, job: JobRecord) -> str:
        self.registered[job.id] += 1
        return f"{job.spec.register}:1"

    def drive(self, rounds: int = 25) -> list[Row]:
        """Let hours pass, in which what runs succeeds."""
        for _ in range(rounds):
            self.runner.tick()
            for resource, (_, seen) in list(self.jobs.resources.items()):
                if not seen.state.is_final:
                    self.jobs.show(resource, JobState.SUCCEEDED, model="/packages/1")
            self.clock.advance(700.0)
        return list(self.store.find(None))


@pytest.mark.parametrize("version", [1])
def test_every_row_reaches_its_end(version: int, tmp_path: Path) -> None:
    home = Home(version, tmp_path)
    began = {row.id: row for row in home.store.find(None)}
    resources = {row_id: job_data_of(row).attempt.resource for row_id, row in began.items() if row.kind == "job"}
    rows = home.drive()
    assert {row.id for row in rows} == set(began), "nothing lost"
    problems = [line for line in home.store.occurrences(limit=10_000) if line.transition.level == "alarm"]
    assert problems == []
    for row in rows:
        assert not row.lease_owner
        if row.kind == "job":
            assert row.ended_at is not None, f"{row.name} is in {row.phase}, {row.state}"
            before = resources[row.id]
            assert not before or before in {attempt.resource for attempt in job_data_of(row).attempts}
        elif row.wish == "delete" or row.state == "failed":
            assert row.phase == "deleted", f"{row.name} is in {row.phase}, {row.state}"
        else:
            assert (row.phase, row.state) == ("active", "ready"), f"{row.name} is in {row.phase}, {row.state}"
    assert max(home.registered.values()) <= 2, "registered again only where the first answer was not recorded"
    owners = Counter(
        (request.tags["mlt:owner"], request.tags["mlt:attempt"]) for request, _ in home.jobs.resources.values()
    )
    assert set(owners.values()) == {1}, "nothing twice"

    for row in rows:
        home.store.wish(row.id, "delete")
    rows = home.drive()
    assert {row.phase for row in rows} == {"deleted"}
    assert home.jobs.resources == {}, "no orphan"
    assert home.endpoints.cloud.wishes == {}
    home.store.close()
