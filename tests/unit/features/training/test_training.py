"""The training feature on a backend that obeys the test, and on a clock that the test owns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_toolbox.base.errors import (
    Denied,
    Invalid,
    JobFailed,
    NotFound,
    NotYet,
    Throttled,
    ToolboxError,
    Unavailable,
    Unsupported,
)
from ml_toolbox.domain.jobs import JobSpec, JobState, RetryRule
from ml_toolbox.features.training import Job, JobRecord, ResolvedInput, Training
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.features.training.fakes import FakeJobs


class Scene:
    def __init__(self, folder: Path, kind: Any = "token") -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.backend = FakeJobs(kind)
        self.store = MemoryStore(self.clock)
        self.registered: list[str] = []
        self.registry_faults: list[ToolboxError] = []
        self.training = Training(
            self.store,
            self._backend,
            home=folder / "home",
            install="here",
            register=self._register,
            resolve_input=lambda name: ResolvedInput(f"/datasets/{name.removeprefix('data:')}", f"{name}:7"),
            clock=self.clock,
        )
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "train.py").write_text("print(1)")

    def _backend(self, name: str) -> FakeJobs:
        if name != "fake":
            raise NotFound(f"no backend {name}")
        return self.backend

    def _register(self, job: JobRecord) -> str:
        if self.registry_faults:
            raise self.registry_faults.pop(0)
        self.registered.append(job.id)
        return f"{job.spec.register}:{len(self.registered)}"

    def spec(self, **fields: Any) -> JobSpec:
        return JobSpec(**{"name": "job", "script": "train.py", "source": str(self.source), **fields})

    def submit(self, **fields: Any) -> Job:
        return self.training.submit(self.spec(**fields), on="fake")

    def show(self, job: Job, state: JobState, **fields: Any) -> None:
        self.backend.show(self.resource(job), state, **fields)

    def resource(self, job: Job) -> str:
        return self.training.get(job.id).resource

    def later(self, seconds: float = 61.0) -> None:
        self.clock.advance(seconds)
        self.training.tick()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.store.close()


def test_success_and_registration(scene: Scene) -> None:
    job = scene.submit(register="churn")
    assert job.state is JobState.RUNNING
    scene.show(job, JobState.SUCCEEDED, model="/packages/1")
    record = job.wait()
    assert (record.state, record.model, record.model_uri) == (JobState.SUCCEEDED, "churn:1", "/packages/1")
    assert (job.model, job.name) == ("churn:1", "job")
    assert scene.registered == [job.id]
    states = [step.state for step in scene.training.history(job.id)]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


def test_a_failure_is_raised_with_its_next_step(scene: Scene) -> None:
    job = scene.submit()
    scene.show(job, JobState.FAILED, kind="exception")
    with pytest.raises(JobFailed, match="it was exception"):
        job.wait()


def test_success_without_the_model_that_was_to_be_registered_is_a_failure(scene: Scene) -> None:
    job = scene.submit(register="churn")
    scene.show(job, JobState.SUCCEEDED)
    record = scene.training.wait(job.id)
    assert record.state is JobState.FAILED
    assert record.failure is not None
    assert "SM_MODEL_DIR" in record.failure.next_step
    assert scene.registered == []


@pytest.mark.parametrize(("kind", "rule"), [("lost", RetryRule(lost=1)), ("exception", RetryRule(user_error=1))])
def test_another_attempt_when_asked(scene: Scene, kind: Any, rule: RetryRule) -> None:
    job = scene.submit(retry=rule)
    first = scene.resource(job)
    scene.show(job, JobState.FAILED, kind=kind)
    assert job.record.attempt == 2
    second = scene.resource(job)
    assert second != first
    assert [line.text for line in job.logs()] == ["attempt 1", "attempt 2"]
    scene.show(job, JobState.FAILED, kind=kind)
    assert job.state is JobState.FAILED, "the rule is used up"
    assert len(scene.backend.resources) == 2
    job.delete()
    assert scene.backend.resources == {}


def test_the_users_own_error_is_not_retried_for_a_lost_machine_s_sake(scene: Scene) -> None:
    job = scene.submit(retry=RetryRule(lost=3))
    scene.show(job, JobState.FAILED, kind="exception")
    assert job.state is JobState.FAILED
    assert scene.backend.calls.count("submit") == 1


def test_a_stopped_job_is_not_tried_again(scene: Scene) -> None:
    job = scene.submit(retry=RetryRule(lost=3))
    scene.backend.faults["stop"] = [("before", Unavailable("no answer"))] * 3
    assert job.stop().state is JobState.RUNNING
    scene.show(job, JobState.FAILED, kind="lost")
    scene.later()
    assert job.state is JobState.STOPPED, "it went while it was being stopped, which is what was wanted"
    assert len(scene.backend.resources) == 1


def test_a_resource_that_disappeared_is_a_lost_attempt(scene: Scene) -> None:
    job = scene.submit()
    scene.backend.resources.clear()
    record = scene.training.wait(job.id)
    assert record.failure is not None
    assert record.failure.kind == "lost"


def test_a_refusal_is_an_error_before_anything_is_written(scene: Scene) -> None:
    scene.backend.refusal = "no such GPU"
    with pytest.raises(Unsupported, match="no such GPU"):
        scene.submit()
    with pytest.raises(NotFound):
        scene.training.submit(scene.spec(), on="elsewhere")
    assert scene.training.list() == ()


def test_a_backend_that_says_no_fails_the_job(scene: Scene) -> None:
    scene.backend.faults["submit"] = [("before", Denied("no permission", hint="ask for it"))]
    job = scene.submit()
    record = job.record
    assert record.failure is not None
    assert (record.failure.cause, record.failure.next_step) == ("could not be started: no permission", "ask for it")


def test_throttling_waits_as_long_as_it_is_told(scene: Scene) -> None:
    scene.backend.faults["submit"] = [("before", Throttled("slow down", retry_after_s=30.0))]
    job = scene.submit()
    assert (job.state, job.record.message) == (JobState.QUEUED, "slow down")
    scene.later(29.0)
    assert scene.backend.calls.count("submit") == 1
    scene.later(1.0)
    assert job.state is JobState.RUNNING
    assert job.record.message == ""


def test_a_failed_registration_is_tried_again_and_a_refused_one_is_told(scene: Scene) -> None:
    job = scene.submit(register="churn")
    scene.registry_faults = [Unavailable("no network"), Invalid("no such name", hint="another name")]
    scene.show(job, JobState.SUCCEEDED, model="/p")
    assert job.state is JobState.RUNNING, "not over before it is registered"
    scene.later()
    record = job.record
    assert record.failure is not None
    assert "could not be registered: no such name" in record.failure.cause
    assert record.model_uri == "/p", "the trained model is not lost"


@pytest.mark.parametrize("kind", ["token", "name", "none"])
def test_a_lost_answer_to_submit_never_makes_two(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, kind)
    scene.backend.faults["submit"] = [("after", Unavailable("lost")), ("after", Unavailable("lost"))]
    job = scene.submit()
    for _ in range(3):
        scene.later()
    assert len(scene.backend.resources) == 1
    assert job.state is JobState.RUNNING
    scene.store.close()


def test_deletion_is_never_given_up(scene: Scene) -> None:
    job = scene.submit()
    scene.backend.faults["delete"] = [
        ("before", NotYet("still ending")),
        ("before", Denied("credentials expired")),
        ("after", Unavailable("lost")),
    ]
    with pytest.raises(NotYet, match="still ending"):
        job.delete()
    assert scene.training.list() == (), "it is on its way out"
    for _ in range(3):
        scene.later()
    assert scene.backend.resources == {}
    with pytest.raises(NotFound):
        scene.training.get(job.id)


def test_names_ids_and_beginnings_of_ids(scene: Scene) -> None:
    first = scene.submit()
    scene.clock.advance(1.0)
    second = scene.submit()
    assert scene.training.get("job").id == second.id, "the newest"
    assert scene.training.get(first.id).id == first.id
    assert scene.training.get(first.id[:25]).id == first.id
    with pytest.raises(Invalid, match="several"):
        scene.training.get(first.id[:8])
    with pytest.raises(NotFound, match="nosuch"):
        scene.training.get("nosuch")
    assert [record.id for record in scene.training.list()] == [second.id, first.id]
    assert [record.id for record in scene.training.list(limit=1, before=second.id)] == [first.id]
    scene.show(first, JobState.SUCCEEDED)
    scene.later(2.0)
    assert [record.id for record in scene.training.list(states=[JobState.SUCCEEDED])] == [first.id]


def test_inputs_are_made_absolute_and_datasets_resolved(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.folder)
    (scene.folder / "data.csv").write_text("x")
    job = scene.submit(inputs={"a": "data.csv", "b": "data:churn", "c": "s3://bucket/x"})
    spec = job.record.spec
    assert spec.inputs == {"a": str(scene.folder / "data.csv"), "b": "/datasets/churn", "c": "s3://bucket/x"}
    assert spec.tags == {"mlt:data:b": "data:churn:7"}
    with pytest.raises(Invalid, match="does not exist") as refused:
        scene.submit(inputs={"a": "nosuch.csv"})
    assert refused.value.field == "inputs.a"


def test_a_missing_script_is_named(scene: Scene) -> None:
    with pytest.raises(Invalid, match=r"other\.py") as refused:
        scene.submit(script="other.py")
    assert refused.value.field == "script"
    (scene.source / ".gitignore").write_text("train.py\n")
    with pytest.raises(Invalid, match=r"train\.py"):
        scene.submit()


def test_the_sources_are_frozen_at_submit(scene: Scene) -> None:
    job = scene.submit()
    (scene.source / "train.py").write_text("print(2)")
    frozen = Path(job.record.spec.source)
    assert (frozen / "train.py").read_text() == "print(1)"
    assert frozen.name == job.record.code_sha256
    assert job.record.source == str(scene.source)
    assert scene.submit().record.code_sha256 != job.record.code_sha256


def test_waiting_ends_when_the_job_is_deleted_meanwhile(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    job = scene.submit()
    deletions = iter([job.delete])

    def sleep(seconds: float) -> None:
        scene.clock.advance(seconds)
        for delete in deletions:
            delete()

    monkeypatch.setattr(scene.clock, "sleep", sleep)
    with pytest.raises(NotFound, match="was deleted before it ended"):
        job.wait(timeout_s=60)


def test_wait_gives_up_in_time(scene: Scene) -> None:
    job = scene.submit()
    with pytest.raises(NotYet, match="still running"):
        job.wait(timeout_s=10)
    assert sum(scene.clock.sleeps) >= 10


def test_looking_at_a_running_job_writes_nothing(scene: Scene) -> None:
    job = scene.submit()
    scene.training.tick()
    before = scene.store.get(job.id)
    for _ in range(3):
        assert job.state is JobState.RUNNING
    assert scene.store.get(job.id) == before


FAULTS = st.lists(st.tuples(st.sampled_from(["before", "after"]), st.just(Unavailable("x"))), max_size=3)


@given(
    kind=st.sampled_from(["token", "name", "none"]),
    faults=st.fixed_dictionaries(dict.fromkeys(("submit", "observe", "stop", "delete"), FAULTS)),
    steps=st.lists(st.sampled_from(["look", "stop", "delete", "fail", "lose", "succeed", "later"]), max_size=8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_states_are_legal_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, kind: str, faults: dict[str, Any], steps: list[str]
) -> None:
    scene = Scene(tmp_path_factory.mktemp("scene"), kind)
    # An observation has no "after": it has no effect that could be done before its answer is lost.
    scene.backend.faults = {
        name: [fault for fault in some if name != "observe" or fault[0] == "before"] for name, some in faults.items()
    }
    job = scene.submit(retry=RetryRule(lost=1), register="m")
    shown = {
        "fail": (JobState.FAILED, "exception"),
        "lose": (JobState.FAILED, "lost"),
        "succeed": (JobState.SUCCEEDED, None),
    }
    for step in steps:
        try:
            if step in shown:
                state, failure = shown[step]
                for resource, (_, seen) in scene.backend.resources.items():
                    if not seen.state.is_final:
                        scene.backend.show(resource, state, kind=failure, model="/p")  # type: ignore[arg-type]
            elif step in ("stop", "delete"):
                getattr(job, step)()
            elif step == "later":
                scene.later()
            else:
                _ = job.state
        except (NotYet, NotFound):
            pass
    for _ in range(16):
        scene.later()
    history = [JobState(step.state) for step in scene.store.history(job.id)]
    for before, after in itertools.pairwise(history):
        assert before.may_become(after), history
    attempts = [request.tags["mlt:attempt"] for request, _ in scene.backend.resources.values()]
    assert len(attempts) == len(set(attempts)), "an attempt has two resources"
    assert len(scene.registered) <= 1
    if "delete" in steps:
        assert scene.backend.resources == {}
    scene.store.close()


def test_backends_of_every_idempotency_find_what_they_left(tmp_path: Path) -> None:
    """Only this install's, and only this attempt's: a stranger's resource is never adopted."""
    scene = Scene(tmp_path, "none")
    stranger = scene.backend.build(scene.spec(), owner=_owner("elsewhere"))
    scene.backend.submit(stranger, "theirs")
    job = scene.submit()
    assert len(scene.backend.resources) == 2
    assert scene.backend.resources[scene.resource(job)][0] != stranger
    scene.store.close()


def _owner(install: str) -> Any:
    from ml_toolbox.ports.jobs import Owner

    return Owner(install=install, row="x", attempt=1)
