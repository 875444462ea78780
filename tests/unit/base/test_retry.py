from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base import retry
from ml_toolbox.base.errors import Denied, Throttled, ToolboxError, Unavailable
from ml_toolbox.base.retry import RetryPolicy
from ml_toolbox.testing.clock import FakeClock


def failing(times: int, error: ToolboxError) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return action, calls


def test_a_passing_fault_is_retried_until_it_passes() -> None:
    action, calls = failing(2, Unavailable("reset"))
    assert retry.call(action, clock=FakeClock()) == "done"
    assert len(calls) == 3


def test_what_is_not_retryable_is_raised_at_once() -> None:
    action, calls = failing(1, Denied("no"))
    with pytest.raises(Denied):
        retry.call(action, clock=FakeClock())
    assert len(calls) == 1


def test_attempts_are_a_limit_and_the_last_error_is_raised() -> None:
    action, calls = failing(99, Unavailable("down"))
    with pytest.raises(Unavailable, match="down"):
        retry.call(action, policy=RetryPolicy(attempts=4), clock=FakeClock())
    assert len(calls) == 4


def test_the_servers_wish_comes_before_our_own_pause() -> None:
    action, _ = failing(1, Throttled("slow down", retry_after_s=7.0))
    clock = FakeClock()
    retry.call(action, clock=clock)
    assert clock.sleeps == [7.0]


def test_no_pause_is_begun_that_would_end_past_the_deadline() -> None:
    action, calls = failing(9, Throttled("slow down", retry_after_s=100.0))
    clock = FakeClock()
    with pytest.raises(Throttled):
        retry.call(action, policy=RetryPolicy(deadline_s=60.0), clock=clock)
    assert clock.sleeps == []
    assert len(calls) == 1


@given(st.integers(1, 8), st.floats(0, 1))
def test_pauses_are_full_jitter_below_a_doubling_cap(failures: int, fraction: float) -> None:
    clock = FakeClock()
    action, _ = failing(failures, Unavailable("x"))
    policy = RetryPolicy(attempts=20, base_s=0.5, cap_s=4.0, deadline_s=1e9)
    retry.call(action, policy=policy, clock=clock, uniform=lambda low, high: low + fraction * (high - low))
    for number, pause in enumerate(clock.sleeps, start=1):
        assert pause == pytest.approx(fraction * min(4.0, 0.5 * 2**number))
