"""The conformance suite of the port ``JobBackend``. Bind it with one fixture::

    class TestMyJobs(JobBackendTests):
        @pytest.fixture
        def open_backend(self, tmp_path) -> Callable[[], JobBackend]:
            return lambda: MyJobBackend(...)  # every call opens the same platform, as another process would

The suite brings its own scripts (standard library only) and waits by polling with a deadline. Needs pytest.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ml_toolbox.base.errors import Conflict, NotFound, NotYet, Unsupported
from ml_toolbox.base.ids import new_ulid
from ml_toolbox.domain.jobs import Environment, JobSpec, JobState, Limits, Resources
from ml_toolbox.ports.jobs import (
    CAPABILITIES,
    TAG_ATTEMPT,
    TAG_EXPIRES,
    TAG_INSTALL,
    TAG_OWNER,
    JobBackend,
    JobObservation,
    LogLine,
    Owner,
    Preempts,
)

OpenBackend = Callable[[], JobBackend]

_INSTALL = "suite"
_SLEEPER = "import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
_STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: print('noticed', flush=True))\n"
    "print('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
)
_COUNTER = "for i in range(200):\n    print('line', i, flush=i % 50 == 0)\n"


class _Running:
    """One submitted job of a test, and the ways to wait for it."""

    def __init__(self, backend: JobBackend, job_id: str, timeout_s: float) -> None:
        self.backend = backend
        self.id = job_id
        self._timeout_s = timeout_s

    def until(self, reached: Callable[[JobObservation], bool], what: str) -> JobObservation:
        """Observe until it is so. On the way, no step may be illegal, and a final state may not change."""
        deadline = time.monotonic() + self._timeout_s
        last = self.backend.observe(self.id)
        while not reached(last):
            if time.monotonic() > deadline:
                log = "\n".join(line.text for line in self.backend.logs(self.id).lines[-20:])
                pytest.fail(f"not {what} after {self._timeout_s:g} s; seen: {last}\nlast lines:\n{log}")
            time.sleep(0.01)
            seen = self.backend.observe(self.id)
            assert last.state.may_become(seen.state), f"{last.state} became {seen.state}"
            last = seen
        return last

    def end(self) -> JobObservation:
        return self.until(lambda seen: seen.state.is_final, "ended")

    def printed(self) -> list[str]:
        """Everything the script itself printed, once it has ended."""
        self.end()
        return [line.text for line in self.lines() if line.stream != "system"]

    def lines(self) -> Iterator[LogLine]:
        cursor = ""
        deadline = time.monotonic() + self._timeout_s
        while True:
            chunk = self.backend.logs(self.id, cursor)
            yield from chunk.lines
            cursor = chunk.cursor
            if chunk.ended:
                return
            assert time.monotonic() < deadline, "the log never says that it has ended"
            time.sleep(0.01)

    def has_printed(self, text: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not any(text in line.text for line in self.backend.logs(self.id).lines):
            assert time.monotonic() < deadline, f"never printed {text!r}; seen: {self.backend.observe(self.id)}"
            time.sleep(0.01)


class JobBackendTests:
    """Every promise of the port, once.

    Class attributes to override: ``timeout_s``, the longest a small script may take to end here.
    """

    timeout_s: ClassVar[float] = 60.0

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        pytest.fail("bind the suite: override the fixture open_backend")

    @pytest.fixture
    def backend(self, open_backend: OpenBackend) -> JobBackend:
        return open_backend()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "suite-source"
        folder.mkdir()
        return folder

    @pytest.fixture
    def start(self, backend: JobBackend, folder: Path) -> Iterator[Callable[..., _Running]]:
        """Submits a script; whatever was started is deleted at the end of the test."""
        started: list[str] = []

        def start(script: str, *, row: str | None = None, **fields: Any) -> _Running:
            request = backend.build(self._spec(folder, script, **fields), self._owner(row))
            job_id = backend.submit(request, f"token-{request.name}")
            started.append(job_id)
            return _Running(backend, job_id, self.timeout_s)

        yield start
        for job_id in started:
            self._delete(backend, job_id)

    def _spec(self, folder: Path, script: str, **fields: Any) -> JobSpec:
        (folder / "train.py").write_text(script)
        fields.setdefault("limits", Limits(max_duration_s=self.timeout_s, stop_grace_s=1.0))
        return JobSpec(name="suite", script="train.py", source=str(folder), **fields)

    @staticmethod
    def _owner(row: str | None = None, attempt: int = 1) -> Owner:
        return Owner(install=_INSTALL, row=row or new_ulid(), attempt=attempt)

    def _delete(self, backend: JobBackend, job_id: str) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                return backend.delete(job_id)
            except NotYet:
                assert time.monotonic() < deadline, "delete never succeeds"
                time.sleep(0.05)

    # -- what it says of itself

    def test_is_a_job_backend_with_honest_declarations(self, backend: JobBackend) -> None:
        assert isinstance(backend, JobBackend)
        assert backend.name
        assert set(backend.lacks) <= set(CAPABILITIES)
        assert all(lack.reason.strip() for lack in backend.lacks.values())
        assert backend.idempotency.kind in ("token", "name", "none")
        assert backend.idempotency.visibility_window_s >= 0

    @pytest.mark.parametrize("capability", [name for name in CAPABILITIES if name != "detach"])
    def test_a_declared_lack_is_refused_with_its_reason(
        self, backend: JobBackend, folder: Path, capability: str
    ) -> None:
        if capability not in backend.lacks:
            return  # what it can do is tested below
        spec = _asking_for(self._spec(folder, "print(1)"), capability)
        reason = backend.lacks[capability].reason
        assert reason in (backend.refuses(spec) or ""), f"{capability} is declared lacking and quietly accepted"
        assert backend.offers(spec) == ()
        with pytest.raises(Unsupported) as refused:
            backend.build(spec, self._owner())
        assert reason in str(refused.value)

    def test_a_plain_job_is_not_refused_and_has_offers_cheapest_first(self, backend: JobBackend, folder: Path) -> None:
        spec = self._spec(folder, "print(1)")
        assert backend.refuses(spec) is None
        offers = backend.offers(spec)
        assert offers
        assert all(offer.backend == backend.name for offer in offers)
        assert [offer.price_hourly for offer in offers] == sorted(offer.price_hourly for offer in offers)

    def test_build_is_deterministic_and_names_the_attempt(self, backend: JobBackend, folder: Path) -> None:
        spec = self._spec(folder, "print(1)", tags={"team": "blue"})
        first = backend.build(spec, self._owner("row-1"))
        assert backend.build(spec, self._owner("row-1")) == first
        json.dumps(dict(first.body))  # data only: a plan prints it
        others = {backend.build(spec, self._owner("row-2")).name, backend.build(spec, self._owner("row-1", 2)).name}
        assert len({first.name, *others}) == 3
        assert {TAG_INSTALL, TAG_OWNER, TAG_ATTEMPT, TAG_EXPIRES} <= first.tags.keys()
        assert first.max_run_s >= self.timeout_s, "the platform's own limit would end the job before its own"
        assert (first.tags[TAG_INSTALL], first.tags[TAG_OWNER], first.tags[TAG_ATTEMPT]) == (_INSTALL, "row-1", "1")
        assert first.tags["team"] == "blue"

    # -- running

    def test_a_script_runs_to_success_with_its_log(self, start: Callable[..., _Running]) -> None:
        job = start("import sys\nprint('to out')\nprint('to err', file=sys.stderr)\n")
        seen = job.end()
        assert seen.state is JobState.SUCCEEDED
        assert seen.exit_code in (0, None)
        assert seen.failure is None
        assert seen.ended_at is not None
        assert {"to out", "to err"} <= set(job.printed())

    def test_a_failing_script_fails_with_cause_and_line(self, start: Callable[..., _Running]) -> None:
        job = start("print('before')\nraise ValueError('no such thing')\n")
        seen = job.end()
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        assert "no such thing" in seen.failure.cause
        assert seen.failure.next_step
        printed = job.printed()
        assert printed[0] == "before"
        assert any("no such thing" in line for line in printed), "the whole traceback belongs into the log"

    def test_an_exit_status_is_a_failure_and_is_kept(self, start: Callable[..., _Running]) -> None:
        seen = start("raise SystemExit(3)\n").end()
        assert seen.state is JobState.FAILED
        assert seen.exit_code == 3

    def test_arguments_hyperparameters_and_variables_arrive(self, start: Callable[..., _Running]) -> None:
        job = start(
            "import json, os, sys\n"
            "print(json.dumps([sys.argv[1:], os.environ['MY_STAGE'], json.loads(os.environ['SM_HPS'])]))\n",
            hyperparameters={"lr": 0.1, "layers": [1, 2], "name": "a b"},
            arguments=("--more", "x y"),
            environment=Environment(variables={"MY_STAGE": "test"}),
        )
        arguments, stage, values = json.loads(job.printed()[0])
        assert arguments == ["--layers", "[1, 2]", "--lr", "0.1", "--name", "a b", "--more", "x y"]
        assert stage == "test"
        assert values == {"lr": 0.1, "layers": [1, 2], "name": "a b"}

    def test_editing_the_sources_after_submit_changes_nothing(
        self, folder: Path, start: Callable[..., _Running]
    ) -> None:
        job = start("import part\nprint(part.TEXT)\n")
        (folder / "part.py").write_text("TEXT = 'too late'\n")
        assert job.end().state is JobState.FAILED, "a file made after submit was seen by the job"

    def test_there_is_always_a_time_limit(self, start: Callable[..., _Running]) -> None:
        seen = start(_SLEEPER, limits=Limits(max_duration_s=0.5, stop_grace_s=0.2)).end()
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        assert seen.failure.kind == "timeout"

    def test_a_memory_limit_holds_where_it_is_not_lacking(
        self, backend: JobBackend, start: Callable[..., _Running]
    ) -> None:
        if "memory-limit" in backend.lacks:
            return
        hog = (
            "held = []\nfor _ in range(1000):\n    held.append(bytearray(2**24))\n    held[-1][::4096] = b'x' * 4096\n"
        )
        seen = start(hog + "    import time; time.sleep(0.01)\n", resources=Resources(memory_gib=0.125)).end()
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        assert seen.failure.kind == "out-of-memory"

    # -- idempotency

    def test_the_same_token_starts_once(self, backend: JobBackend, open_backend: OpenBackend, folder: Path) -> None:
        if backend.idempotency.kind == "none":
            return
        owner = self._owner()
        request = backend.build(self._spec(folder, "print('ran')\n"), owner)
        gate = threading.Barrier(8)

        def submit(_: int) -> str:
            gate.wait()
            return open_backend().submit(request, "one token")

        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(submit, range(8)))
        assert len(ids) == 1
        job = _Running(backend, ids.pop(), self.timeout_s)
        assert job.printed() == ["ran"]
        assert open_backend().submit(request, "one token") == job.id, "also after it has ended"
        assert job.printed() == ["ran"]
        assert [found for found, _ in backend.list_by_tag({TAG_OWNER: owner.row})] == [job.id]
        self._delete(backend, job.id)

    def test_another_job_of_the_same_name_is_not_made(self, backend: JobBackend, folder: Path) -> None:
        if backend.idempotency.kind != "name":
            return
        request = backend.build(self._spec(folder, "print(1)\n"), self._owner())
        job_id = backend.submit(request, "one token")
        try:
            assert backend.submit(request, "another token") == job_id
        except Conflict:
            pass  # as good: the loop looks the owner's tags up
        self._delete(backend, job_id)

    def test_what_was_made_is_found_by_its_owner_tags_within_the_window(
        self, start: Callable[..., _Running], backend: JobBackend
    ) -> None:
        """Where nothing else is honoured, this is all that the loop has after an answer was lost."""
        row = new_ulid()
        job = start(_SLEEPER, row=row)
        tags = {TAG_INSTALL: _INSTALL, TAG_OWNER: row, TAG_ATTEMPT: "1"}
        self._within_the_window(backend, lambda: [found for found, _ in backend.list_by_tag(tags)] == [job.id])
        self._delete(backend, job.id)
        self._within_the_window(backend, lambda: not list(backend.list_by_tag(tags)))

    def _within_the_window(self, backend: JobBackend, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + backend.idempotency.visibility_window_s
        while not reached():
            window = f"{backend.idempotency.visibility_window_s:g} s"
            assert time.monotonic() <= deadline, f"the declared visibility window of {window} is not kept"
            time.sleep(0.01)

    def test_the_same_token_with_another_body_is_a_conflict(self, backend: JobBackend, folder: Path) -> None:
        if backend.idempotency.kind != "token":
            return
        request = backend.build(self._spec(folder, "print(1)\n"), self._owner())
        job_id = backend.submit(request, "one token")
        other = replace(request, body={**request.body, "arguments": ["--changed"]})
        with pytest.raises(Conflict):
            backend.submit(other, "one token")
        self._delete(backend, job_id)

    # -- logs

    def test_a_log_read_in_pieces_is_whole_and_in_order(self, start: Callable[..., _Running]) -> None:
        job = start(_COUNTER)
        seen = [line.text for line in job.lines() if line.stream != "system"]
        assert seen == [f"line {i}" for i in range(200)]
        assert seen == job.printed(), "and the same again from the beginning"

    def test_a_log_can_be_followed_while_the_job_runs(self, start: Callable[..., _Running]) -> None:
        job = start(_SLEEPER)
        job.has_printed("started")
        chunk = job.backend.logs(job.id)
        assert not chunk.ended
        assert job.backend.logs(job.id, chunk.cursor).lines == ()

    # -- stop

    def test_stop_ends_it_and_keeps_what_it_printed(self, start: Callable[..., _Running]) -> None:
        job = start(_SLEEPER)
        job.has_printed("started")
        job.backend.stop(job.id, grace_s=0.5)
        job.backend.stop(job.id, grace_s=0.5)
        assert job.end().state is JobState.STOPPED
        job.backend.stop(job.id, grace_s=0.5)
        assert job.backend.observe(job.id).state is JobState.STOPPED
        assert "started" in job.printed()

    def test_stop_gives_time_to_save(self, start: Callable[..., _Running]) -> None:
        job = start(
            "import signal, sys, time\n"
            "def save(*_):\n    time.sleep(0.3)\n    print('saved', flush=True)\n    sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, save)\n"
            "print('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
        )
        job.has_printed("started")
        job.backend.stop(job.id, grace_s=self.timeout_s)
        assert job.end().state is JobState.STOPPED
        assert "saved" in job.printed()

    def test_stop_kills_what_does_not_listen(self, start: Callable[..., _Running]) -> None:
        job = start("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _SLEEPER)
        job.has_printed("started")
        job.backend.stop(job.id, grace_s=0.2)
        assert job.end().state is JobState.STOPPED

    def test_stop_of_an_ended_or_unknown_job_is_silent(self, start: Callable[..., _Running]) -> None:
        job = start("print(1)\n")
        assert job.end().state is JobState.SUCCEEDED
        job.backend.stop(job.id, grace_s=1)
        assert job.backend.observe(job.id).state is JobState.SUCCEEDED
        job.backend.stop("nosuchjob", grace_s=1)

    # -- preemption, where it can be rehearsed

    def test_preemption_gives_notice_kills_and_is_nobodys_fault(
        self, backend: JobBackend, start: Callable[..., _Running]
    ) -> None:
        if not isinstance(backend, Preempts):
            return
        job = start(_STUBBORN)
        job.has_printed("started")
        backend.preempt(job.id, notice_s=0.5)
        backend.preempt(job.id, notice_s=0.5)
        seen = job.until(lambda seen: _never_stopping(seen).state.is_final, "preempted")
        assert seen.state is JobState.FAILED
        assert seen.failure is not None
        assert seen.failure.kind == "preempted"
        assert "noticed" in job.printed(), "killed without the platform's notice"

    def test_what_leaves_at_the_notice_is_preempted_too(
        self, backend: JobBackend, start: Callable[..., _Running]
    ) -> None:
        if not isinstance(backend, Preempts):
            return
        job = start(
            "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
            "print('started', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
        )
        job.has_printed("started")
        backend.preempt(job.id, notice_s=self.timeout_s / 2)
        seen = job.end()
        assert (seen.state, seen.failure and seen.failure.kind) == (JobState.FAILED, "preempted")

    def test_what_finishes_within_the_notice_has_succeeded(
        self, backend: JobBackend, start: Callable[..., _Running]
    ) -> None:
        if not isinstance(backend, Preempts):
            return
        job = start(
            "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('started', flush=True)\ntime.sleep(0.5)\nprint('done')\n"
        )
        job.has_printed("started")
        backend.preempt(job.id, notice_s=self.timeout_s / 2)
        assert job.end().state is JobState.SUCCEEDED
        assert "done" in job.printed()

    def test_preemption_of_an_ended_or_unknown_job_is_silent(
        self, backend: JobBackend, start: Callable[..., _Running]
    ) -> None:
        if not isinstance(backend, Preempts):
            return
        job = start("print(1)\n")
        assert job.end().state is JobState.SUCCEEDED
        backend.preempt(job.id, notice_s=0)
        assert backend.observe(job.id).state is JobState.SUCCEEDED
        backend.preempt("nosuchjob", notice_s=0)

    # -- delete and look-up

    def test_delete_removes_a_running_job_for_good(
        self, start: Callable[..., _Running], open_backend: OpenBackend, folder: Path
    ) -> None:
        pulse = folder.parent / "pulse"
        job = start(f"import time\nwhile True:\n    open({str(pulse)!r}, 'a').write('x')\n    time.sleep(0.02)\n")
        deadline = time.monotonic() + self.timeout_s
        while not pulse.exists():
            assert time.monotonic() < deadline, "the script never began"
            time.sleep(0.01)
        self._delete(job.backend, job.id)
        size = pulse.stat().st_size
        time.sleep(0.2)
        assert pulse.stat().st_size == size, "the script still runs after delete"
        for backend in (job.backend, open_backend()):
            with pytest.raises(NotFound):
                backend.observe(job.id)
            with pytest.raises(NotFound):
                backend.logs(job.id)
            assert job.id not in dict(backend.list_by_tag({TAG_INSTALL: _INSTALL}))
        job.backend.delete(job.id)

    def test_an_unknown_job_is_not_found(self, backend: JobBackend) -> None:
        with pytest.raises(NotFound):
            backend.observe("nosuchjob")
        with pytest.raises(NotFound):
            backend.logs("nosuchjob")
        backend.delete("nosuchjob")

    def test_jobs_are_found_by_their_tags_running_or_not(self, start: Callable[..., _Running]) -> None:
        running = start(_SLEEPER, row="row-a", tags={"team": "blue"})
        ended = start("print(1)\n", row="row-b", tags={"team": "blue"})
        ended.end()
        backend = running.backend
        blue = dict(backend.list_by_tag({"team": "blue"}))
        assert set(blue) == {running.id, ended.id}
        assert blue[ended.id][TAG_OWNER] == "row-b"
        assert set(dict(backend.list_by_tag({"team": "blue", TAG_OWNER: "row-a"}))) == {running.id}
        assert list(backend.list_by_tag({"team": "red"})) == []

    def test_another_process_sees_the_same_job(self, start: Callable[..., _Running], open_backend: OpenBackend) -> None:
        job = start("print('here')\n")
        if "detach" in job.backend.lacks:
            return
        other = _Running(open_backend(), job.id, self.timeout_s)
        assert other.end().state is JobState.SUCCEEDED
        assert other.printed() == ["here"]


def _never_stopping(seen: JobObservation) -> JobObservation:
    """The platform takes the capacity; nobody asked the job to stop."""
    assert seen.state not in (JobState.STOPPING, JobState.STOPPED), seen
    return seen


def _asking_for(spec: JobSpec, capability: str) -> JobSpec:
    """The spec, needing that capability."""
    match capability:
        case "spot":
            return replace(spec, resources=Resources(spot=True))
        case "accelerators":
            return replace(spec, resources=Resources(accelerators="gpu:1"))
        case "multi-node":
            return replace(spec, resources=Resources(nodes=2))
        case "memory-limit":
            return replace(spec, resources=Resources(memory_gib=0.125))
        case "cpu-limit":
            return replace(spec, resources=Resources(cpus=1))
        case "images":
            return replace(spec, environment=Environment(image="python:3.11-slim"))
        case "requirements":
            return replace(spec, environment=Environment(requirements=("six==1.17.0",)))
    raise AssertionError(f"the suite does not know how to ask for {capability}")
