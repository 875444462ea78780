"""What makes the toy an outsider: its size, its own package, and the one door it came in by."""

from __future__ import annotations

import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import NotFound
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.ports.jobs import Owner
from ml_toolbox.ports.provider import Provider

EXAMPLE = Path(__file__).parents[3] / "examples" / "toy_provider"


def test_it_is_under_200_lines_of_python_in_all() -> None:
    lines = [line for file in EXAMPLE.rglob("*.py") for line in file.read_text().splitlines()]
    assert 0 < len(lines) < 200
    assert max(map(len, lines)) <= 120, "lines are counted, not squeezed"


def test_it_is_found_through_the_entry_point_alone() -> None:
    provider, info = Toolbox().backends()["toy"]
    assert isinstance(provider, Provider)
    assert type(provider).__module__ == "toy_provider"
    assert info.jobs is not None
    assert info.endpoints is None
    assert [point.value for point in distribution("toy-provider").entry_points] == ["toy_provider:PROVIDER"]


def test_our_own_code_does_not_know_it() -> None:
    sources = (EXAMPLE.parents[1] / "src").rglob("*.py")
    assert [str(source) for source in sources if "toy_provider" in source.read_text()] == []


def test_the_toolbox_runs_a_job_on_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('hello from outside')\n")
    backend = Toolbox().job_backend("toy")
    spec = JobSpec(name="hello", script="train.py", source=str(tmp_path))
    job_id = backend.submit(backend.build(spec, Owner(install="i", row="r", attempt=1)), "token")
    deadline = time.monotonic() + 60
    while not (chunk := backend.logs(job_id)).ended:
        assert time.monotonic() < deadline, chunk.lines
        time.sleep(0.01)
    log = "\n".join(line.text for line in chunk.lines)
    assert backend.observe(job_id).state is JobState.SUCCEEDED, log
    assert "hello from outside" in log
    backend.delete(job_id)


def test_it_serves_no_models_and_says_so() -> None:
    with pytest.raises(NotFound, match="serves no models"):
        Toolbox().endpoint_backend("toy")
