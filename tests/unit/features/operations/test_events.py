"""One stream of everything that happened, read from any moment on."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.features.operations import Events, parse_since
from ml_toolbox.features.operations.events import follow
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.features.costs.books import begin


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(-3, 200))
def test_since_a_moment_is_everything_since_and_nothing_before(pauses: list[int], after: int) -> None:
    clock = FakeClock()
    store, start = MemoryStore(clock), clock.now()
    for number, pause in enumerate(pauses):
        clock.advance(pause)
        begin(store, f"row{number}")
    moment = start + after
    events = Events(store)
    assert [event.seq for event in events.since(moment)] == [
        one.seq for one in store.occurrences(limit=1000) if one.transition.at >= moment
    ]
    assert events.end() == len(pauses)
    assert list(events.after(events.end())) == []


def test_following_goes_on_where_it_was() -> None:
    store = MemoryStore(FakeClock())
    begin(store, "a")
    later = iter(["b", "c"])

    def pause() -> bool:
        name = next(later, None)
        if name is not None:
            begin(store, name)
        return name is not None

    assert [event.name for event in islice(follow(Events(store), 0, pause=pause), 10)] == ["a", "b", "c"]


NOW = 1_795_219_200.0  # 2026-11-21T00:00Z


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43200),
        ("7d", 604800),
        ("2026-11-20", 86400),
        ("2026-11-20T18:00:00Z", 21600),
    ],
)
def test_moments(text: str, ago_s: float) -> None:
    assert parse_since(text, NOW) == NOW - ago_s


def test_a_month_is_its_beginning() -> None:
    assert parse_since("2026-11", NOW) == NOW - 20 * 86400


@pytest.mark.parametrize("text", ["", "yesterday", "5", "h", "-3h", "2026-13", "2026-11-20T18:00:00", "٣h"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_since(text, NOW)
    assert caught.value.field == "since"
