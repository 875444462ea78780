from __future__ import annotations

import pytest

from ml_toolbox.domain.jobs import JobState


@pytest.mark.parametrize("state", list(JobState))
def test_a_final_state_is_never_left(state: JobState) -> None:
    if state.is_final:
        assert [other for other in JobState if state.may_become(other)] == [state]
    else:
        assert any(state.may_become(other) for other in JobState if other.is_final)


def test_a_stopping_job_does_not_run_again() -> None:
    assert not JobState.STOPPING.may_become(JobState.RUNNING)


def test_a_lost_attempt_may_be_queued_again() -> None:
    assert JobState.RUNNING.may_become(JobState.QUEUED)
