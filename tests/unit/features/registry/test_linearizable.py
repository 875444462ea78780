"""Concurrent histories are equivalent to one operation after the other, each at a moment between its call and return.

Many short histories of a few threads are recorded and searched for such an order (Wing and Gong's algorithm, which is
exponential in the worst case and quick for a dozen operations). The checker is itself checked on histories that have
none.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import NotFound
from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import make_package


@dataclass(frozen=True)
class State:
    """The sequential registry of one model: how many versions, the version in Production, the champion."""

    last: int = 1
    production: int = 0
    champion: int = 0


@dataclass(frozen=True)
class Operation:
    """``name`` with its argument and what it returned."""

    name: str
    argument: int
    result: Any
    called: float
    returned: float


def step(state: State, operation: Operation) -> State | None:
    """The state after the operation; ``None`` when it could not have returned this here."""
    if operation.name == "register":
        return replace(state, last=state.last + 1) if operation.result == state.last + 1 else None
    if operation.name == "promote":
        return replace(state, production=operation.argument, champion=operation.argument)
    if operation.name == "alias":
        return replace(state, champion=operation.argument)
    if operation.name == "latest":
        return state if operation.result == state.last else None
    if operation.name == "production":
        return state if operation.result == state.production else None
    assert operation.name == "champion"
    return state if operation.result == state.champion else None


def is_linearizable(history: list[Operation], start: State) -> bool:
    """Whether some order that respects real time explains every result."""
    seen: set[tuple[frozenset[int], State]] = set()

    def search(pending: frozenset[int], state: State) -> bool:
        if not pending:
            return True
        if (pending, state) in seen:
            return False
        seen.add((pending, state))
        horizon = min(history[i].returned for i in pending)
        for i in pending:
            if history[i].called <= horizon:
                after = step(state, history[i])
                if after is not None and search(pending - {i}, after):
                    return True
        return False

    return search(frozenset(range(len(history))), start)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([("register", 0, 2, 0, 5), ("register", 0, 3, 1, 2)], True),
        ([("register", 0, 3, 0, 1), ("register", 0, 2, 2, 3)], False),
        ([("register", 0, 2, 0, 1), ("register", 0, 2, 0, 1)], False),
        ([("register", 0, 3, 0, 1)], False),
        ([("promote", 1, None, 0, 1), ("production", 0, 0, 2, 3)], False),
        ([("promote", 1, None, 0, 3), ("production", 0, 0, 1, 2)], True),
        ([("promote", 1, None, 0, 9), ("production", 0, 1, 1, 2), ("production", 0, 0, 3, 4)], False),
        ([("promote", 1, None, 0, 9), ("production", 0, 1, 1, 2), ("champion", 0, 0, 3, 4)], False),
        ([("register", 0, 2, 0, 9), ("latest", 0, 2, 1, 2), ("latest", 0, 1, 3, 4)], False),
    ],
)
def test_the_checker_itself(history: list[tuple[str, int, Any, float, float]], expected: bool) -> None:
    assert is_linearizable([Operation(*operation) for operation in history], State()) is expected


def perform(registry: Registry, package: Path, generator: random.Random) -> Operation:
    name = generator.choice(["register", "promote", "promote", "alias", "latest", "production", "champion"])
    argument = generator.randint(1, 2) if name in ("promote", "alias") else 0
    actions: dict[str, Callable[[], Any]] = {
        "register": lambda: registry.register("m", package).number,
        "promote": lambda: (
            registry.promote(f"m:{argument}", "Production", archive_existing=True, alias="champion") and None
        ),
        "alias": lambda: registry.set_alias(f"m:{argument}", "champion") and None,
        "latest": lambda: registry.get("m").number,
        "production": lambda: registry.get("m@Production").number,
        "champion": lambda: registry.get("m@champion").number,
    }
    called = time.monotonic()
    try:
        result = actions[name]()
    except NotFound:
        result = 0
    return Operation(name, argument, result, called, time.monotonic())


def record(open_: Callable[[], ObjectStore], package: Path, seed: int) -> list[Operation]:
    """Three threads, each with its own registry as another process would have, four operations each."""
    for _ in range(2):
        Registry(open_(), actor="setup").register("m", package)
    history: list[Operation] = []
    barrier = threading.Barrier(3)

    def work(who: int) -> None:
        generator, registry = random.Random(seed * 10 + who), Registry(open_(), actor=f"t{who}")
        barrier.wait()
        done = [perform(registry, package, generator) for _ in range(4)]
        history.extend(done)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history) == 12
    return history


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_short_histories_of_threads_are_linearizable(scheme: str, tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    for seed in range(40):
        uri = f"memory://{tmp_path.name}-{seed}" if scheme == "memory" else f"file://{tmp_path}/{seed}"
        history = record(lambda uri=uri: open_store(uri), package, seed)  # type: ignore[misc]
        assert is_linearizable(history, State(last=2)), (seed, history)
