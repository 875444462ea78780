"""The smallest cases of what the simulator found in the life of jobs; each was lost, doubled or charged wrongly before."""

from __future__ import annotations

from dataclasses import replace

from ml_toolbox.base.errors import Conflict, Denied, NotFound, Throttled
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.workflow import OBSERVE, Claimed, Decision, Failed, Inserted
from ml_toolbox.features.training.attempts import opened
from ml_toolbox.features.training.life import SUBMIT, JobLife, Phase
from ml_toolbox.features.training.records import KIND, JobData, JobOrder, data_of, plain
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.jobs import Idempotency, JobObservation
from tests.unit.features.training.fakes import FakeJobs

LIFE = JobLife("here")
NOW = 1_800_000_000.0


def submitting(kind: str = "token", window_s: float = 30.0) -> Row:
    idempotency = Idempotency(kind=kind, visibility_window_s=window_s)  # type: ignore[arg-type] # one of the literals
    order = JobOrder(
        job=JobSpec(name="a", command=("x",)), backend="sky", idempotency=idempotency, hourly=3_600_000, overhead_s=60.0
    )
    data, _ = opened("here", "row", plain(order), order, JobData(attempts=()), NOW)
    return Row(
        id="row",
        kind=KIND,
        name="a",
        phase=Phase.SUBMITTING,
        state=JobState.QUEUED,
        spec=plain(order),
        data=plain(data),
        due_at=NOW,
    )


def after(row: Row, decision: Decision) -> Row:
    change = decision.change
    return replace(row, phase=change.phase, state=change.state, data=change.data, due_at=change.due_at)


def test_a_refusal_of_the_first_call_ends_the_attempt() -> None:
    row = submitting()
    begun = after(row, LIFE.decide(row, Inserted(), NOW))
    assert LIFE.decide(begun, Failed(SUBMIT, Denied("expired")), NOW).change.phase == Phase.ENDED


def test_a_refusal_after_a_call_that_nobody_heard_the_answer_of_does_not() -> None:
    for refusal in (Denied("expired"), Conflict("the name is taken")):
        row = submitting()
        again = LIFE.decide(row, Claimed(), NOW + 60)
        assert again.effect == SUBMIT
        refused = LIFE.decide(after(row, again), Failed(SUBMIT, refusal), NOW + 60)
        assert refused.change.phase == Phase.UNKNOWN
        assert not refused.change.postings, "its money is held for as long as it may exist"


def test_the_window_begins_when_the_call_can_last_have_been_sent() -> None:
    row = submitting("none")
    waiting = LIFE.decide(row, Claimed(), NOW + 1000)
    assert waiting.effect is None
    assert waiting.change.due_at == NOW + 1030, "its sender held the row until a moment ago"


def test_what_vanished_unseen_is_charged_for_the_longest_it_can_have_run() -> None:
    row = submitting(window_s=0.0)
    data = data_of(row)
    active = replace(data, attempts=(replace(data.attempt, resource="r1", created_at=NOW),))
    row = replace(row, phase=Phase.ACTIVE, wish="delete", data=plain(active))
    row = after(row, LIFE.decide(row, Claimed(), NOW + 500))
    sent = replace(data_of(row), delete_sent_at=NOW + 500)
    for _ in range(2):
        decision = LIFE.decide(replace(row, data=plain(sent)), Failed(OBSERVE, NotFound("gone")), NOW + 500)
        sent = data_of(after(row, decision))
    [settled] = decision.change.postings
    assert settled.spent == 500_000


def test_whoever_is_told_to_come_back_later_asks_for_nothing_else() -> None:
    backend = FakeJobs()
    calls: list[str] = []

    def observe(job_id: str) -> JobObservation:
        calls.append(job_id)
        raise Throttled("slow down", retry_after_s=10.0)

    backend.observe = observe  # type: ignore[method-assign]
    workflow = JobWorkflow(lambda _: backend, None, "here")
    row = submitting()
    data = data_of(row)
    rows = [
        replace(row, id=name, data=plain(replace(data, attempts=(replace(data.attempt, resource=name),))))
        for name in ("r1", "r2", "r3")
    ]
    seen = workflow.observe_many(rows)
    assert calls == ["r1"]
    assert all(isinstance(one, Throttled) and one.retry_after_s == 10.0 for one in seen)
