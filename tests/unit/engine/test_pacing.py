"""Calls are held back to what a platform takes, which is learnt from its throttles."""

from __future__ import annotations

import pytest

from ml_toolbox.engine.pacing import FIRST_RATE, LEAST_RATE, Pacer
from ml_toolbox.testing.clock import FakeClock


class Limited:
    """A platform that takes ``rate`` calls a second, in any second."""

    def __init__(self, clock: FakeClock, rate: float) -> None:
        self.clock, self.rate = clock, rate
        self.tokens, self.at = rate, clock.monotonic()

    def call(self) -> bool:
        now = self.clock.monotonic()
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    began = clock.monotonic()
    for _ in range(int(FIRST_RATE) * 3):
        pacer.wait("here")
    assert clock.monotonic() - began == pytest.approx(2.0, abs=0.1)


def test_retry_after_is_obeyed() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    pacer.throttled("here", 7.0)
    assert pacer.wait("here") >= 7.0
    assert pacer.wait("elsewhere") == 0.0, "another account, region or service"


def test_throttles_of_one_moment_count_once_and_the_rate_has_a_floor() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    for _ in range(10):
        pacer.throttled("here")
    assert pacer.rate("here") == FIRST_RATE / 2
    for _ in range(50):
        clock.advance(2.0)
        pacer.throttled("here")
    assert pacer.rate("here") == LEAST_RATE


@pytest.mark.parametrize("allowed", [2.0, 10.0])
@pytest.mark.parametrize("clients", [1, 4])
def test_clients_that_know_nothing_of_each_other_settle_below_the_limit(allowed: float, clients: int) -> None:
    clock = FakeClock()
    platform = Limited(clock, allowed)
    pacers = [Pacer(FollowsItsOwn(clock)) for _ in range(clients)]
    may_call_at = [clock.monotonic() + pacer.wait("here") for pacer in pacers]
    calls = throttles = late_calls = late_throttles = 0
    for step in range(600 * 20):
        clock.advance(0.05)
        for number, pacer in enumerate(pacers):
            if may_call_at[number] > clock.monotonic():
                continue
            calls += 1
            late_calls += step > 6000
            if platform.call():
                pacer.passed("here")
            else:
                throttles += 1
                late_throttles += step > 6000
                pacer.throttled("here", 1.0)
            may_call_at[number] = clock.monotonic() + pacer.wait("here")
    assert calls - throttles > 0.3 * allowed * 600, "the limit is made use of"
    assert late_throttles <= 0.34 * late_calls, f"{late_throttles} of {late_calls} refused at the end"


class FollowsItsOwn(FakeClock):
    """The shared clock, whose sleep is left to the test: it drives several clients at once."""

    def __init__(self, shared: FakeClock) -> None:
        super().__init__()
        self.shared = shared

    def monotonic(self) -> float:
        return self.shared.monotonic()

    def sleep(self, seconds: float) -> None:
        return None
