"""A clock that the test owns: hours of waiting run in microseconds."""

from __future__ import annotations


class FakeClock:
    """Starts at a fixed moment; ``sleep`` moves it, and so does ``advance``. ``sleeps`` records what was asked for."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._monotonic = 0.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass. Negative seconds set only the wall clock back, as a corrected host clock does."""
        self._now += seconds
        if seconds > 0:
            self._monotonic += seconds
