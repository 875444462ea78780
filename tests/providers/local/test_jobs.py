"""The job suite on the local backend, and what only local jobs promise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.processes import ProcessIdentity, descendants, kill, marked, start_time
from ml_toolbox.domain.jobs import Environment, FailureDigest, JobSpec, JobState, Limits, Resources
from ml_toolbox.ports.jobs import JobBackend, JobObservation, Owner
from ml_toolbox.ports.provider import Provider, ProviderContext
from ml_toolbox.providers.local import PROVIDER
from ml_toolbox.providers.local.environments import READY, environment_id
from ml_toolbox.providers.local.jobs import LocalJobBackend
from ml_toolbox.providers.local.machine import Machine
from ml_toolbox.testing.jobs import JobBackendTests

MACHINE = Machine(cpus=2, memory_gib=4.0)
WAIT_S = 60.0


def local(home: Path, machine: Machine = MACHINE, **settings: object) -> LocalJobBackend:
    return LocalJobBackend(ProviderContext(home=home, install="suite", settings=settings), machine=machine)


class TestLocalJobs(JobBackendTests):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], JobBackend]:
        return lambda: local(tmp_path / "home", max_concurrent_jobs=8)


class Bench:
    """Runs scripts on a local backend of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = local(folder / "home")
        self.started: list[str] = []

    def start(self, text: str, backend: LocalJobBackend | None = None, **fields: Any) -> str:
        used = backend or self.backend
        source = self.folder / f"source-{len(self.started)}"
        source.mkdir()
        (source / "train.py").write_text(text)
        fields = {"script": "train.py", "limits": Limits(max_duration_s=WAIT_S, stop_grace_s=0.5), **fields}
        spec = JobSpec(name="job", source=str(source), **fields)
        owner = Owner(install="suite", row=f"row-{len(self.started):04d}", attempt=1)
        job = used.submit(used.build(spec, owner), f"token-{len(self.started)}")
        self.started.append(job)
        return job

    def until(self, job: str, reached: Callable[[JobObservation], bool]) -> JobObservation:
        deadline = time.monotonic() + WAIT_S
        while not reached(seen := self.backend.observe(job)):
            assert time.monotonic() < deadline, f"{seen}\n{self.printed(job)}"
            time.sleep(0.01)
        return seen

    def end(self, job: str) -> JobObservation:
        return self.until(job, lambda seen: seen.state.is_final)

    def run(self, text: str, **fields: Any) -> tuple[JobObservation, list[str]]:
        job = self.start(text, **fields)
        return self.end(job), self.printed(job)

    def fails(self, text: str, **fields: Any) -> FailureDigest:
        seen, _ = self.run(text, **fields)
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        return seen.failure

    def printed(self, job: str) -> list[str]:
        return [line.text for line in self.backend.logs(job).lines if line.stream != "system"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for job in bench.started:
        bench.backend.delete(job)


def test_a_script_sees_itself_as_python_would_run_it(bench: Bench) -> None:
    seen, printed = bench.run(
        "import json, os, pickle, sys\n"
        "import ml_toolbox\n"
        "class Mine: pass\n"
        "assert pickle.loads(pickle.dumps(Mine())).__class__ is Mine\n"
        "print(json.dumps([__name__, os.path.basename(__file__), sys.argv, os.path.realpath(sys.path[0]) == os.getcwd(),\n"
        "    sys.modules['__main__'].__dict__ is globals(), os.path.samefile(__file__, 'train.py')]))\n",
        hyperparameters={"a": 1},
    )
    assert seen.state is JobState.SUCCEEDED, printed
    assert json.loads(printed[0]) == ["__main__", "train.py", ["train.py", "-a", "1"], True, True, True]


def test_a_traceback_is_the_users_own(bench: Bench) -> None:
    _, printed = bench.run("def f():\n    raise ValueError('x')\nf()\n")
    frames = [line for line in printed if line.lstrip().startswith("File ")]
    assert printed[0] == "Traceback (most recent call last):"
    assert len(frames) == 2
    assert all("train.py" in frame for frame in frames), "none of our own frames"
    assert printed[-1] == "ValueError: x"


@pytest.mark.parametrize(
    ("script", "kind", "told"),
    [
        ("import nosuchmodule", "missing-module", "nosuchmodule"),
        ("open('nosuch.csv')", "missing-file", "nosuch.csv"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV"),
        ("import os; os._exit(9)", "exit-code", "9"),
        ("import sys; sys.exit('the data is empty')", "exit-code", "the data is empty"),
        ("x = (", "exception", "SyntaxError"),
        ("import os, sys; open(os.path.join(os.environ['SM_OUTPUT_DIR'], 'failure'), 'w').write('bad channel'); os._exit(1)",
         "exit-code", "bad channel"),
    ],
)  # fmt: skip
def test_why_it_failed(bench: Bench, script: str, kind: str, told: str) -> None:
    failure = bench.fails(script)
    assert failure.kind == kind
    assert told in failure.cause
    assert failure.next_step


def test_a_pool_left_open_is_waited_for_until_its_work_is_done_and_no_longer(bench: Bench) -> None:
    seen, printed = bench.run(
        "import time\nfrom concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
        "for number in range(4):\n    pool.submit(lambda number=number: (time.sleep(0.1), print('work', number)))\n"
        "print('end')\n"
    )
    assert seen.state is JobState.SUCCEEDED
    assert sorted(printed) == ["end", "work 0", "work 1", "work 2", "work 3"]


def test_a_crash_in_native_code_names_the_line(bench: Bench) -> None:
    assert bench.fails("import ctypes\n\nctypes.string_at(0)\n").where == "train.py:3"


def test_a_command_is_digested_from_its_log(bench: Bench) -> None:
    failure = bench.fails("\nraise KeyError('label')\n", script=None, command=("python", "train.py"))
    assert (failure.kind, failure.cause, failure.where) == ("exception", "KeyError: 'label'", "train.py:2")


def test_a_command_that_is_not_there(bench: Bench) -> None:
    failure = bench.fails("", script=None, command=("nosuchprogram",))
    assert failure.kind == "environment"
    assert "nosuchprogram" in failure.cause


def test_progress_and_metrics_are_seen_while_it_runs(bench: Bench) -> None:
    job = bench.start(
        "import os, time\nfrom ml_toolbox import runtime\n"
        "runtime.report(epoch=2, epochs=4, loss=0.5)\nprint('acc=0.75', flush=True)\n"
        "while not runtime.should_stop():\n    time.sleep(0.01)\n",
        metrics={"acc": r"acc=([\d.]+)"},
    )
    seen = bench.until(job, lambda seen: len(seen.metrics) == 2)
    assert (seen.state, seen.epoch, seen.progress) == (JobState.RUNNING, 2, 0.5)
    assert seen.metrics == {"loss": 0.5, "acc": 0.75}
    bench.backend.stop(job, grace_s=WAIT_S)
    assert bench.end(job).state is JobState.STOPPED
    assert bench.backend.observe(job).metrics == {"loss": 0.5, "acc": 0.75}


def test_a_platforms_own_stop_signal_is_a_stop(bench: Bench) -> None:
    job = bench.start("import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n")
    bench.until(job, lambda _: bench.printed(job) == ["started"])
    watchers = json.loads((bench.folder / "home/providers/local/jobs" / job / "supervisor.json").read_text())
    os.kill(ProcessIdentity.parse(watchers["guardian"]).pid, signal.SIGTERM)
    assert bench.end(job).state is JobState.STOPPED


def test_a_supervisor_started_ahead_of_time_takes_the_next_job(bench: Bench) -> None:
    for _ in range(2):
        bench.backend.warm_up()
        bench.backend.warm_up()
        seen, printed = bench.run("print('ran')")
        assert (seen.state, printed) == (JobState.SUCCEEDED, ["ran"])


def test_one_that_died_waiting_is_replaced(bench: Bench) -> None:
    others = descendants(os.getpid())  # a test before may have left this process a helper of the standard library's
    bench.backend.warm_up()
    kill(descendants(os.getpid()) - others)
    bench.until(bench.start("print('ran')"), lambda seen: seen.state is JobState.SUCCEEDED)


def test_one_that_is_not_needed_leaves_with_its_command(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from ml_toolbox.ports.provider import ProviderContext\nfrom ml_toolbox.providers.local.jobs import LocalJobBackend\n"
        "LocalJobBackend(ProviderContext(home=Path(sys.argv[1]), install='x', settings={})).warm_up()\n"
        "from ml_toolbox.base.processes import descendants\n"
        "print(*descendants(os.getpid()), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    assert len(told.split()) == 1
    deadline = time.monotonic() + WAIT_S
    while start_time(int(told)) is not None:
        assert time.monotonic() < deadline, "it still waits"
        time.sleep(0.01)


def test_a_supervisor_too_many_leaves_the_running_job_alone(bench: Bench) -> None:
    job = bench.start("import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n")
    bench.until(job, lambda _: bench.printed(job) == ["started"])
    root = bench.folder / "home" / "providers" / "local" / "jobs" / job
    claimed = (root / "supervisor.json").read_text()
    # As close as two can come: the second has looked for a supervisor before the first one claimed the folder.
    program = (
        "import sys\nfrom ml_toolbox.runtime import guardian, train\nfrom ml_toolbox.runtime.job import Layout, RuntimeJob\n"
        "layout = Layout(sys.argv[1])\njob = RuntimeJob.read(layout.job)\n"
        "sys.exit(guardian.start(layout, job.mark, lambda: train.Supervisor(job, layout).run()))\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(root)], check=False, timeout=60).returncode == 0
    assert (root / "supervisor.json").read_text() == claimed
    assert bench.backend.observe(job).state is JobState.RUNNING
    assert marked(json.loads((root / "job.json").read_text())["runtime"]["mark"]), "its script was ended"


def test_threads_may_finish_the_model_after_the_last_line(bench: Bench) -> None:
    seen, printed = bench.run(
        "import threading, time\ndef late():\n    time.sleep(0.2)\n    print('late')\nthreading.Thread(target=late).start()\n"
    )
    assert (seen.state, printed) == (JobState.SUCCEEDED, ["late"])


def test_a_model_that_cannot_be_packaged_is_kept_and_told(bench: Bench) -> None:
    seen, _ = bench.run("import os\nopen(os.environ['SM_MODEL_DIR'] + '/weights.bin', 'w').write('x')\n")
    assert (seen.state, seen.model_uri) == (JobState.SUCCEEDED, None)
    assert "no model was found" in seen.message


def test_inputs_are_files_and_folders_without_a_copy(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("1\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("")
    seen, printed = bench.run(
        "import json, os\nfrom ml_toolbox import runtime\n"
        "print(json.dumps([os.listdir(os.environ['SM_CHANNEL_TABLE']), os.listdir(os.environ['SM_CHANNEL_IMAGES']),\n"
        "    {n: os.path.realpath(p) for n, p in runtime.inputs().items()}]))\n",
        inputs={"table": str(data), "images": f"file://{tmp_path}/images"},
    )
    assert seen.state is JobState.SUCCEEDED, printed
    assert json.loads(printed[0]) == [["data.csv"], ["a.png"], {"table": str(data), "images": f"{tmp_path}/images"}]


def test_an_input_that_went_away_is_named(bench: Bench, tmp_path: Path) -> None:
    failure = bench.fails("print(1)", inputs={"table": str(tmp_path / "gone.csv")})
    assert failure.kind == "missing-file"
    assert "gone.csv" in failure.cause


def test_cpus_are_limited(bench: Bench) -> None:
    _, printed = bench.run(
        "import os; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], os.environ['SM_NUM_CPUS'])",
        resources=Resources(cpus=1),
    )
    assert printed == ["1 1 1"]


def test_memory_counts_all_processes_together(bench: Bench) -> None:
    failure = bench.fails(
        "import subprocess, sys, time\n"
        "hog = 'import time; x = bytearray(80 * 2**20); x[::4096] = b\"x\" * len(x[::4096]); time.sleep(60)'\n"
        "running = [subprocess.Popen([sys.executable, '-c', hog], start_new_session=True) for _ in range(3)]\n"
        "time.sleep(60)\n",
        resources=Resources(memory_gib=0.2),
    )
    assert failure.kind == "out-of-memory"
    assert "its limit is 0.20 GiB" in failure.cause


def test_gpus_are_handed_out_one_by_one(bench: Bench, tmp_path: Path) -> None:
    two = local(
        tmp_path / "home", Machine(cpus=8, memory_gib=4, gpus=("NVIDIA T4", "NVIDIA T4")), max_concurrent_jobs=8
    )
    wait = f"while not os.path.exists({str(tmp_path / 'go')!r}):\n    time.sleep(0.01)\n"
    script = f"import os, time\nprint(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n{wait}"
    gpu = Resources(accelerators="T4:1")
    first, second = [bench.start(script, two, resources=gpu) for _ in range(2)]
    for job in (first, second):
        bench.until(job, lambda seen, job=job: bool(bench.printed(job)))  # type: ignore[misc]
    third = bench.start(script, two, resources=gpu)
    without = bench.start("import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))", two)
    assert {*bench.printed(first), *bench.printed(second)} == {"0", "1"}
    waiting = bench.until(third, lambda seen: "waiting for 1 of 2 GPUs" in seen.message)
    assert waiting.state is JobState.QUEUED
    bench.end(without)
    assert bench.printed(without) == ["''"], "a job that asked for none sees none"
    (tmp_path / "go").touch()
    assert bench.end(third).state is JobState.SUCCEEDED
    assert bench.printed(third)[0] in ("0", "1")
    spec = JobSpec(name="x", script="x", resources=Resources(accelerators="H100:1"))
    assert "has 0 (NVIDIA T4)" in (two.refuses(spec) or "")


def test_a_queue_runs_in_order_and_a_waiting_job_can_be_stopped(bench: Bench, tmp_path: Path) -> None:
    one = local(tmp_path / "home", max_concurrent_jobs=1)
    order = tmp_path / "order"
    script = f"import os, time\nopen({str(order)!r}, 'a').write(os.environ['MLTOOLBOX_JOB_ID'] + '\\n')\n"
    wait = f"while not os.path.exists({str(tmp_path / 'go')!r}):\n    time.sleep(0.01)\n"
    first = bench.start(script + wait, one)
    bench.until(first, lambda seen: seen.state is JobState.RUNNING)
    later = [bench.start(script, one) for _ in range(3)]
    for job in later:
        bench.until(job, lambda seen: "waiting for one of 1 places" in seen.message)
    one.stop(later[1], grace_s=1)
    assert bench.end(later[1]).state is JobState.STOPPED
    (tmp_path / "go").touch()
    for job in (first, later[0], later[2]):
        assert bench.end(job).state is JobState.SUCCEEDED
    assert order.read_text().split() == ["row-0000", "row-0001", "row-0003"]


@pytest.mark.lengthy
def test_requirements_make_an_environment_once(bench: Bench, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    environment = Environment(requirements=(str(wheel),))
    script = (
        "import sys, onlyhere, ml_toolbox\nprint(onlyhere.VALUE, sys.prefix)\n"
        "try:\n    import msgspec\nexcept ImportError:\n    print('clean')\n"
    )
    seen, printed = bench.run(script, environment=environment)
    assert seen.state is JobState.SUCCEEDED, [line.text for line in bench.backend.logs(bench.started[0]).lines]
    folder = tmp_path / "home" / "providers" / "local" / "environments"
    place = folder / environment_id(sys.executable, [str(wheel)])
    assert printed == [f"42 {place}", "clean"], "what is installed here does not shine through"
    made = (place / READY).stat().st_mtime_ns
    assert bench.run(script, environment=environment)[1] == printed
    assert (place / READY).stat().st_mtime_ns == made, "built once"
    (place / READY).unlink()
    assert bench.run(script, environment=environment)[1] == printed, "a half-built one is built anew"


def test_requirements_that_cannot_be_installed(bench: Bench, tmp_path: Path) -> None:
    environment = Environment(requirements=(str(tmp_path / "nosuch-1.0-py3-none-any.whl"),))
    failure = bench.fails("print(1)", environment=environment)
    assert failure.kind == "environment"
    assert "requirements" in failure.next_step


def make_wheel(folder: Path) -> Path:
    """A package that no index has."""
    path = folder / "onlyhere-1.0-py3-none-any.whl"
    files = {
        "onlyhere.py": "VALUE = 42\n",
        "onlyhere-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: onlyhere\nVersion: 1.0\n",
        "onlyhere-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("onlyhere-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
    return path


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"command": ("x",)}, "script"),
        ({"arguments": ("${{inputs.nosuch}}",)}, "arguments"),
        ({"resources": Resources(accelerators="T4:x")}, "resources.accelerators"),
    ],
)
def test_what_cannot_be_built_names_its_field(bench: Bench, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        bench.start("", **fields)
    assert refused.value.field == field


@pytest.mark.parametrize("limit", [0, "2", True, 1.5])
def test_the_number_of_places_is_checked(tmp_path: Path, limit: object) -> None:
    with pytest.raises(Invalid, match="max_concurrent_jobs"):
        local(tmp_path, max_concurrent_jobs=limit)


def test_what_the_machine_does_not_have_is_refused(bench: Bench) -> None:
    for resources, told in (
        (Resources(cpus=3), "3 cores; this machine has 2"),
        (Resources(memory_gib=5), "5 GiB of memory; this machine has 4"),
        (Resources(accelerators="gpu:1"), "has 0 (none)"),
    ):
        assert told in (bench.backend.refuses(JobSpec(name="x", script="x", resources=resources)) or "")


def test_the_provider(tmp_path: Path) -> None:
    context = ProviderContext(home=tmp_path / "home", install="i", settings={})
    assert isinstance(PROVIDER, Provider)
    assert isinstance(PROVIDER.job_backend("local", context), LocalJobBackend)
    assert all(check.ok for check in PROVIDER.check(context))
    assert PROVIDER.backends[0].jobs == PROVIDER.job_backend("local", context).lacks
