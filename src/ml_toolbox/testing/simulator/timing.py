"""Virtual time: one true time for the store and the platforms, and a wrong clock on every host."""

from __future__ import annotations

from collections.abc import Callable

START = 1_800_000_000.0
"""Where every schedule begins (January 2027); some are moved to shortly before the end of a month."""


class VirtualTime:
    """The true time. A ``Clock`` for the store, which waits for nothing."""

    __slots__ = ("at",)

    def __init__(self, start: float = START) -> None:
        self.at = start

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class HostClock:
    """A ``Clock`` that is wrong by ``skew_s``; whoever sleeps on it gives way to the other processes."""

    __slots__ = ("_sleep", "_time", "skew_s")

    def __init__(self, time: VirtualTime, skew_s: float, sleep: Callable[[float], None]) -> None:
        self._time = time
        self.skew_s = skew_s
        self._sleep = sleep

    def now(self) -> float:
        return self._time.at + self.skew_s

    def monotonic(self) -> float:
        return self._time.at

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)
