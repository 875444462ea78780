"""What makes the toy an outsider: its size, its own package, and the one door it came in by."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from toy_provider import ToyProvider

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import NotFound, NotYet
from ml_toolbox.base.processes import marked
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, Variant
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.packages import save_model
from ml_toolbox.ports.jobs import Owner
from ml_toolbox.ports.provider import Provider, ProviderContext
from ml_toolbox.runtime import detached

EXAMPLE = Path(__file__).parents[3] / "examples" / "toy_provider"


@dataclass(frozen=True)
class Toy:
    """The provider in a home of its own, and a folder for sources and models."""

    provider: ToyProvider
    context: ProviderContext
    folder: Path


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "folder").mkdir()
    context = ProviderContext(home=tmp_path / "home", install="i", settings={})
    return Toy(ToyProvider(), context, tmp_path / "folder")


def until(reached: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_under_200_lines_of_python_in_all() -> None:
    lines = [line for file in EXAMPLE.rglob("*.py") for line in file.read_text().splitlines()]
    assert 0 < len(lines) < 200
    assert max(map(len, lines)) <= 120, "lines are counted, not squeezed"


def test_it_is_found_through_the_entry_point_alone() -> None:
    provider, info = Toolbox().backends()["toy"]
    assert isinstance(provider, Provider)
    assert type(provider).__module__ == "toy_provider"
    assert info.jobs is not None
    assert info.endpoints is not None
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


def test_another_process_finds_the_job_that_one_left_running(toy: Toy) -> None:
    (toy.folder / "train.py").write_text(
        "import pathlib, time\nwhile not pathlib.Path('../../go').exists():\n    time.sleep(0.02)\nprint('went on')\n"
    )
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ml_toolbox.domain.jobs import JobSpec\n"
        "from ml_toolbox.ports.jobs import Owner\n"
        "from ml_toolbox.ports.provider import ProviderContext\n"
        "from toy_provider import PROVIDER\n"
        "backend = PROVIDER.job_backend('toy', ProviderContext(home=Path(sys.argv[1]), install='i', settings={}))\n"
        "spec = JobSpec(name='long', script='train.py', source=sys.argv[2])\n"
        "print(backend.submit(backend.build(spec, Owner(install='i', row='r', attempt=1)), 'token'))\n"
    )
    command = [sys.executable, "-c", program, str(toy.context.home), str(toy.folder)]
    job_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    backend = toy.provider.job_backend("toy", toy.context)
    until(lambda: backend.observe(job_id).state is JobState.RUNNING)
    Path(backend.layout(job_id).root, "go").touch()
    until(lambda: backend.observe(job_id).state is JobState.SUCCEEDED)
    assert "went on" in [line.text for line in backend.logs(job_id).lines]
    backend.delete(job_id)


def test_a_job_whose_processes_are_killed_has_failed_as_lost(toy: Toy) -> None:
    (toy.folder / "train.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
    backend = toy.provider.job_backend("toy", toy.context)
    spec = JobSpec(name="doomed", script="train.py", source=str(toy.folder))
    job_id = backend.submit(backend.build(spec, Owner(install="i", row="r", attempt=1)), "token")
    root = backend.layout(job_id).root
    until(lambda: "started" in [line.text for line in backend.logs(job_id).lines])
    process = detached.started(root)
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    until(lambda: backend.observe(job_id).state is JobState.FAILED)
    failure = backend.observe(job_id).failure
    assert failure is not None
    assert failure.kind == "lost"
    until(lambda: marked(root) == set())
    backend.delete(job_id)


def test_a_killed_server_has_failed_and_serves_again_once_applied_again(toy: Toy) -> None:
    from sklearn.linear_model import LinearRegression

    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])
    save_model(LinearRegression().fit(rows, [7.0] * 3), toy.folder / "model", sample_input=rows)
    backend = toy.provider.endpoint_backend("toy", toy.context)
    spec = EndpointSpec(name="seven", variants=(Variant(name="v1", package=(toy.folder / "model").as_uri()),))
    request = backend.build(spec, Owner(install="i", row="r", attempt=1))
    for _ in range(2):
        backend.apply(request)
        until(lambda: backend.observe("seven").state is EndpointState.READY)
        answer = json.loads(backend.invoke("seven", b'{"instances": [[1.0, 2.0]]}').body)
        assert answer["predictions"] == pytest.approx([7.0])
        process = detached.started(backend.layout("seven").root)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: backend.observe("seven").state is EndpointState.FAILED)
        assert backend.observe("seven").message
        with pytest.raises(NotYet):
            backend.invoke("seven", b"{}")
    backend.delete("seven")
    with pytest.raises(NotFound):
        backend.logs("seven")
