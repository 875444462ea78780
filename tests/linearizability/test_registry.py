"""The registry is linearizable, model by model: histories of four clients with fifty random operations each, on every store.

``make test`` checks 240 histories, ``make slow`` 1,500 more. A failure names its seed; the same operations run again with

    MLT_HISTORY=<seed> pytest tests/linearizability -k memory

In memory the seed decides the interleaving too, so that it is the same history; on the other stores the machine does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from ml_toolbox.base.errors import Conflict, Unavailable
from ml_toolbox.base.ids import nonce
from ml_toolbox.features.registry import Registry, heads, layout, reading
from ml_toolbox.features.registry.background import Background
from ml_toolbox.features.registry.records import Head
from ml_toolbox.features.registry.resolution import Resolver
from ml_toolbox.objects import open_store
from ml_toolbox.testing.linearizability import Verdict, assert_linearizable, check
from tests.linearizability import planted
from tests.linearizability.clients import CLIENTS, OPERATIONS
from tests.linearizability.histories import Open, Processes, Record, in_threads, in_turns
from tests.linearizability.model import REGISTRY
from tests.providers.objects.conftest import Server, create_container
from tests.unit.features.registry.support import CONDITIONAL, FAULTS, Fault, make_package

ONLY = os.environ.get("MLT_HISTORY", "")
PLANTED_LIMIT = 25
"""Histories within which a planted bug must show."""


def blocks(ordinary: int, slow: int, size: int) -> list[Any]:
    """Seeds in blocks, each one test: ``ordinary`` seeds in `make test`, the next ``slow`` ones in the slow suite."""
    if ONLY:
        return [pytest.param([int(ONLY)], id=f"seed-{ONLY}")]
    return [
        pytest.param(
            range(first, first + size), id=f"{first}-{first + size - 1}", marks=[pytest.mark.slow] * (first >= ordinary)
        )
        for first in range(0, ordinary + slow, size)
    ]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path / "package")


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the seed decides what happens when: no pool of threads, no work behind the clients' backs. And what
    happens only in large registries (lines and notes leaving the head, index segments) happens in small ones."""
    monkeypatch.setattr(Background, "run", lambda self, work: self._guarded(work))
    monkeypatch.setattr(reading, "_WORTH_A_THREAD_S", float("inf"))
    monkeypatch.setattr(heads, "AUDIT_TAIL", 6)
    monkeypatch.setattr(heads, "NOTES_TAIL", 3)
    monkeypatch.setattr(layout, "FANOUT", 4)
    monkeypatch.setattr(layout, "LEVEL_SPAN", {1: 4, 2: 16})
    monkeypatch.setattr(layout, "NOTES_PER_BUCKET", 4)


def judge(record: Record, where: str, seed: int) -> Verdict:
    replay = f"MLT_HISTORY={seed} pytest tests/linearizability -k {where}"
    verdict = assert_linearizable(REGISTRY, record.history, about=f"{where}, seed {seed}; again: {replay}")
    # The victim of a kill has fewer; nobody has more.
    assert (CLIENTS - 1) * OPERATIONS < record.operations <= CLIENTS * OPERATIONS
    return verdict


def memory(planted_: Callable[..., Any] | None = None) -> Open:
    store = open_store(f"memory://{nonce()}")
    return lambda client: planted_(store, client) if planted_ else store


def unclear(seed: int) -> Fault:
    """Every tenth conditional write: answer lost, not sent, reported as a conflict, or arriving only when the client has
    long gone on."""
    generator, late = random.Random(f"unclear {seed}"), list[Callable[[], Any]]()

    def arrive_late(proceed: Callable[[], Any]) -> Any:
        late.append(proceed)
        raise Unavailable("timed out")

    faults = [*(FAULTS[name] for name in sorted(FAULTS)), arrive_late]

    def act(method: str, key: str, proceed: Callable[[], Any]) -> Any:
        if late and generator.random() < 0.1:
            try:
                late.pop()()
            except Conflict:
                pass  # it comes too late
        if method in CONDITIONAL and generator.random() < 0.1:
            return generator.choice(faults)(proceed)
        return proceed()

    return act


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("seeds", blocks(100, 600, 20))
def test_memory(package: Path, seeds: range) -> None:
    for seed in seeds:
        judge(in_turns(memory(), package, seed), "memory", seed)


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("seeds", blocks(60, 400, 20))
def test_memory_with_unclear_answers(package: Path, seeds: range) -> None:
    for seed in seeds:
        judge(in_turns(memory(), package, seed, fault=unclear(seed)), "memory_with_unclear_answers", seed)


@pytest.mark.parametrize("seeds", blocks(24, 150, 12))
def test_file_threads(tmp_path: Path, package: Path, seeds: range) -> None:
    for seed in seeds:
        judge(in_threads(lambda _, n=seed: open_store(f"file://{tmp_path}/{n}"), package, seed), "file_threads", seed)  # type: ignore[misc]


@pytest.fixture
def processes(package: Path) -> Iterator[Processes]:
    running = Processes(package)
    yield running
    running.close()


@pytest.mark.parametrize("seeds", blocks(24, 150, 12))
def test_file_processes(tmp_path: Path, processes: Processes, seeds: range) -> None:
    """Every other history loses one of its clients to SIGKILL."""
    for seed in seeds:
        record = processes.record(f"file://{tmp_path}/{seed}", seed, kill=seed % 2 == 1)
        judge(record, "file_processes", seed)


def remote(server: Server, scheme: str) -> Open:
    uri = f"{scheme}://histories/{nonce()}"
    return lambda _: open_store(uri, settings=server.settings)


@pytest.mark.parametrize("seeds", blocks(16, 100, 4))
def test_s3(moto: Server, package: Path, seeds: range) -> None:
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", **credentials)
    client.create_bucket(Bucket="histories")
    client.close()
    for seed in seeds:
        judge(in_threads(remote(moto, "s3"), package, seed), "s3", seed)


@pytest.mark.parametrize("seeds", blocks(16, 100, 4))
def test_azure(azurite: Server, package: Path, seeds: range) -> None:
    create_container(azurite.endpoint, "histories")
    for seed in seeds:
        judge(in_threads(remote(azurite, "az"), package, seed), "azure", seed)


# What the histories are worth: bugs that they must show


def first_caught(package: Path, open_: Callable[[], Open]) -> tuple[int, Verdict]:
    for seed in range(PLANTED_LIMIT):
        verdict = check(REGISTRY, in_turns(open_(), package, seed).history)
        if not verdict.ok:
            return seed, verdict
    pytest.fail(f"not seen in {PLANTED_LIMIT} histories")


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("store", planted.STORES, ids=lambda store: store.__name__)
def test_a_store_that_breaks_its_promise_is_seen(package: Path, store: Callable[..., Any]) -> None:
    _, verdict = first_caught(package, lambda: memory(store))
    assert verdict.outcome == "violated"
    assert verdict.culprit is not None


@pytest.mark.usefixtures("repeatable")
def test_the_same_histories_on_honest_stores_are_not_accused(package: Path) -> None:
    """The wrapper itself changes nothing: what is seen above is the planted bug."""
    for seed in range(5):
        judge(in_turns(memory(planted.Planted), package, seed), "memory", seed)


@pytest.mark.usefixtures("repeatable")
def test_a_head_and_a_number_of_different_moments_are_seen(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the registry once did: list versions that are newer than the stages shown with them."""

    def torn(self: Resolver, name: str) -> tuple[Head, int]:
        head = self._heads.read(name)
        return head, self._commits.last(name, head.last)

    monkeypatch.setattr(Resolver, "moment", torn)
    _, verdict = first_caught(package, memory)
    assert verdict.culprit is not None
    assert verdict.culprit.input.kind in ("versions", "model", "listed", "found")


@pytest.mark.usefixtures("repeatable")
def test_a_promotion_that_sets_its_alias_afterwards_is_seen(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Registry.promote

    def in_two(
        self: Registry, ref: Any, stage: Any, *, archive_existing: bool = False, alias: str | None = None
    ) -> Any:
        found = honest(self, ref, stage, archive_existing=archive_existing)
        return self.set_alias(ref, alias) if alias else found

    monkeypatch.setattr(Registry, "promote", in_two)
    first_caught(package, memory)


@pytest.mark.usefixtures("repeatable")
def test_a_seed_brings_its_history_again(package: Path) -> None:
    once, again, other = (in_turns(memory(), package, seed, fault=unclear(seed)).history for seed in (5, 5, 6))
    assert once == again
    assert once != other
