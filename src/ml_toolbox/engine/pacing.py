"""How fast one account, region and service may be called: one token bucket each, whose rate learns from throttles.

Additive increase on success, multiplicative decrease on a throttle (Chiu and Jain, "Analysis of the Increase and Decrease
Algorithms", 1989): processes that share an account and know nothing of each other end up with fair shares of its limit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ml_toolbox.base.clock import Clock, SystemClock

FIRST_RATE = 100.0
"""Calls a second before anything is known; far above what a control plane allows, so the first throttle teaches."""
LEAST_RATE = 0.2
MOST_RATE = 500.0
_UP = 0.1
"""Calls a second, gained by each success while throttled before."""
_DOWN = 0.5
_SETTLE_S = 1.0
"""Throttles of calls that were under way together count as one."""


@dataclass(slots=True)
class _Bucket:
    rate: float = FIRST_RATE
    tokens: float = FIRST_RATE
    filled_at: float = 0.0
    shut_until: float = 0.0
    slowed_at: float = float("-inf")


class Pacer:
    """Safe to use from many threads. Keys are free text, e.g. ``aws-batch@eu-west-1``."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def wait(self, key: str, calls: int = 1) -> float:
        """Wait until ``calls`` may be sent; returns how long that took, in seconds."""
        with self._lock:
            pause = self._take(key, calls)
        if pause > 0:
            self._clock.sleep(pause)
        return pause

    def passed(self, key: str) -> None:
        """A call was answered."""
        with self._lock:
            bucket = self._bucket(key)
            bucket.rate = min(MOST_RATE, bucket.rate + _UP)

    def throttled(self, key: str, retry_after_s: float | None = None) -> None:
        """A call was refused for coming too fast. Nothing is sent for as long as the platform wishes."""
        with self._lock:
            now, bucket = self._clock.monotonic(), self._bucket(key)
            if retry_after_s:
                bucket.shut_until = max(bucket.shut_until, now + retry_after_s)
            if now - bucket.slowed_at >= _SETTLE_S:
                bucket.rate = max(LEAST_RATE, min(bucket.rate, MOST_RATE) * _DOWN)
                bucket.tokens = min(bucket.tokens, 0.0)
                bucket.slowed_at = now

    def rate(self, key: str) -> float:
        """Calls a second allowed at present."""
        with self._lock:
            return self._bucket(key).rate

    def _take(self, key: str, calls: int) -> float:
        now, bucket = self._clock.monotonic(), self._bucket(key)
        bucket.tokens = min(bucket.rate, bucket.tokens + (now - bucket.filled_at) * bucket.rate)
        bucket.filled_at = now
        bucket.tokens -= calls  # below zero: a debt, waited for in turn by those who come later
        return max(0.0, bucket.shut_until - now, -bucket.tokens / bucket.rate)

    def _bucket(self, key: str) -> _Bucket:
        if key not in self._buckets:
            self._buckets[key] = _Bucket(filled_at=self._clock.monotonic())
        return self._buckets[key]
