"""Not found is not gone: only past the window, and only twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.engine.absence import PAUSE_S, Absence


def test_inside_the_window_nothing_counts() -> None:
    early = Absence().noticed(109.9, since=100.0, window_s=10.0)
    assert early == Absence()
    assert early.next_look_at(105.0, since=100.0, window_s=10.0) == 110.0


def test_two_sightings_with_a_pause_between() -> None:
    once = Absence().noticed(110.0, since=100.0, window_s=10.0)
    assert not once.certain
    assert once.noticed(110.0 + PAUSE_S - 0.1, since=100.0, window_s=10.0) == once, "the same replica may have answered"
    assert once.next_look_at(111.0, since=100.0, window_s=10.0) == 110.0 + PAUSE_S
    assert once.noticed(110.0 + PAUSE_S, since=100.0, window_s=10.0).certain


def test_a_platform_without_lag_is_believed_at_the_second_look_at_once() -> None:
    once = Absence().noticed(100.0, since=100.0, window_s=0.0)
    assert once.next_look_at(100.0, since=100.0, window_s=0.0) == 100.0
    assert once.noticed(100.0, since=100.0, window_s=0.0).certain


@given(window=st.floats(0, 100), looks=st.lists(st.floats(0, 300), max_size=20))
def test_never_certain_before_the_window_is_over(window: float, looks: list[float]) -> None:
    absence = Absence()
    for now in sorted(looks):
        absence = absence.noticed(now, since=0.0, window_s=window)
        if absence.certain:
            assert now >= window + min(window, PAUSE_S) - 1e-9


@given(window=st.floats(0, 100), now=st.floats(0, 300))
def test_looking_when_told_to_makes_certain_in_two_looks(window: float, now: float) -> None:
    absence = Absence()
    for _ in range(2):
        now = absence.next_look_at(now, since=0.0, window_s=window)
        absence = absence.noticed(now, since=0.0, window_s=window)
    assert absence.certain
