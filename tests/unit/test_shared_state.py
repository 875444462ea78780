"""Two machines on one memory: neither takes the other's local work for lost, and both own what either made."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.app import Settings, Toolbox
from ml_toolbox.app import providers as app_providers
from ml_toolbox.base.errors import Unavailable
from ml_toolbox.domain.jobs import JobSpec, JobState, Limits

SCRIPT = "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(0.05)\n"


def machine(home: Path, state: str) -> Toolbox:
    settings = Settings(registry=str(home / "registry"), data=str(home / "data"), state=state)
    return Toolbox(home, settings=settings)


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    limits = Limits(max_duration_s=60, stop_grace_s=0.5)
    return JobSpec(name="long", script="train.py", source=str(source), limits=limits)


def test_local_work_belongs_to_its_machine(
    tmp_path: Path, postgres_url: str, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(tmp_path / "here", postgres_url)
    job = here.training.submit(spec)
    with monkeypatch.context() as away:
        away.setattr(app_providers, "host_name", lambda: "another-machine")
        there = machine(tmp_path / "there", postgres_url)
        assert there.install == here.install, "names and tags are one installation's"
        there.agent().round()
        seen = there.training.get(job.id)
        assert seen.state in (JobState.QUEUED, JobState.RUNNING, JobState.PROVISIONING), "not seen is not lost"
        with pytest.raises(Unavailable, match="another machine or home"):
            there.job_backend(here.state.get(job.id).place)
        there.state.close()
    assert job.stop().state in (JobState.STOPPING, JobState.STOPPED)
    assert here.training.wait(job.id, timeout_s=30).state is JobState.STOPPED
    job.delete()
    here.state.close()


def test_two_homes_of_one_machine_are_two_places(tmp_path: Path, postgres_url: str) -> None:
    places = set()
    for name in ("ann", "bob"):
        toolbox = machine(tmp_path / name, postgres_url)
        places.add(toolbox.installed.of("local"))
        toolbox.state.close()
    assert len(places) == 2


def test_an_embedded_memory_has_one_machine(tmp_path: Path) -> None:
    alone = Toolbox(tmp_path)
    assert alone.installed.of("local") == "local"
    assert alone.installed.elsewhere() == ()
