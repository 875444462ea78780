"""The lease of a holder that waits for a slow platform does not run out; nobody is kept awake otherwise."""

from __future__ import annotations

import threading

from ml_toolbox.engine.keeper import Keeper


def test_renews_while_an_effect_is_under_way_and_stops_after() -> None:
    beats = threading.Semaphore(0)
    keeper = Keeper(beats.release, every_s=0.005)
    with keeper.keeping():
        with keeper.keeping():
            assert beats.acquire(timeout=5)
        assert beats.acquire(timeout=5), "the outer effect goes on"
    for thread in threading.enumerate():
        if thread.name == "lease-keeper":
            thread.join(5)
            assert not thread.is_alive()


def test_a_store_that_cannot_be_reached_is_tried_again_at_the_next_beat() -> None:
    beats: list[int] = []
    twice = threading.Event()

    def renew() -> None:
        beats.append(1)
        if len(beats) > 1:
            twice.set()
        raise OSError("no connection")

    with Keeper(renew, every_s=0.005).keeping():
        assert twice.wait(5)


def test_a_short_effect_renews_nothing() -> None:
    beats: list[int] = []
    with Keeper(lambda: beats.append(1), every_s=60.0).keeping():
        assert any(thread.name == "lease-keeper" for thread in threading.enumerate())
    assert beats == []
