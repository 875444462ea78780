"""Retry in one place: only what says it is retryable, full jitter, a deadline, and the server's own wish first."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Throttled, ToolboxError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long and how patiently to try again.

    Full jitter: the n-th pause is uniform in [0, min(cap, base * 2**n)], after "Exponential Backoff And Jitter"
    (AWS Architecture Blog, 2015), which there needs the fewest calls of the variants compared.
    """

    attempts: int = 5
    base_s: float = 0.1
    cap_s: float = 10.0
    deadline_s: float = 60.0


def call(
    action: Callable[[], T],
    *,
    policy: RetryPolicy | None = None,
    clock: Clock | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> T:
    """Call ``action`` until it answers, raises a non-retryable error, or attempts or deadline are used up.

    The last error is raised unchanged. Never starts a pause that would end past the deadline.
    """
    policy = policy or RetryPolicy()
    clock = clock or SystemClock()
    give_up_at = clock.monotonic() + policy.deadline_s
    attempt = 0
    while True:
        try:
            return action()
        except ToolboxError as error:
            attempt += 1
            if not error.retryable or attempt >= policy.attempts:
                raise
            pause = uniform(0.0, min(policy.cap_s, policy.base_s * 2.0**attempt))
            if isinstance(error, Throttled) and error.retry_after_s is not None:
                pause = max(pause, error.retry_after_s)
            if clock.monotonic() + pause > give_up_at:
                raise
            clock.sleep(pause)
