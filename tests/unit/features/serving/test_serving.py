"""Deploying, shifting, scaling and deleting, on a backend in memory and a store in memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, NotYet, ToolboxError, Unavailable, Unsupported
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState
from ml_toolbox.domain.jobs import Resources
from ml_toolbox.domain.offers import Offer, Plan
from ml_toolbox.engine import crash
from ml_toolbox.features.serving import ResolvedModel, Serving
from ml_toolbox.features.serving.endpoint import error_of
from ml_toolbox.features.serving.life import CHECK_S
from ml_toolbox.features.serving.rows import encode_rows
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.conformance.memory_endpoints import Cloud, MemoryEndpoints


class Flaky(MemoryEndpoints):
    """Raises what it is told to, a number of times."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.errors: list[ToolboxError] = []

    def apply(self, request: EndpointRequest) -> None:
        self._fail()
        super().apply(request)

    def delete(self, endpoint: str) -> None:
        self._fail()
        super().delete(endpoint)

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class World:
    """One home with its store and backend; ``serving()`` opens it as a new process would."""

    def __init__(self, home: Path) -> None:
        self.cloud = Cloud()
        self.backend = Flaky(self.cloud)
        self.home = home
        self.planned: list[tuple[EndpointSpec, str]] = []
        self.store = MemoryStore()

    def serving(self) -> Serving:
        return Serving(self.store, self._backend, resolve=self._resolve, planner=self._plan, install="i")

    def close(self) -> None:
        self.store.close()

    def _backend(self, name: str) -> MemoryEndpoints:
        if name not in ("memory", "other"):
            raise NotFound(f"no backend {name}")
        return self.backend

    @staticmethod
    def _resolve(target: str) -> ResolvedModel:
        if target.startswith("constant:"):
            return ResolvedModel(target, "")
        name, _, version = target.partition(":")
        return ResolvedModel(f"constant:{version}", f"{name}:{version}")

    def _plan(self, spec: EndpointSpec, backend: str) -> Plan:
        from ml_toolbox.domain.money import Money

        self.planned.append((spec, backend))
        return Plan(
            summary="",
            backend=backend,
            creates=(),
            requests=(),
            offer=Offer(backend=backend, instance_type="memory"),
            max_duration_s=None,
            cost_per_hour=Money(),
            max_cost=None,
        )


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def serving(world: World) -> Serving:
    return world.serving()


def weights(serving: Serving, endpoint: str = "churn") -> dict[str, float]:
    return {variant.name: variant.weight for variant in serving.show(endpoint).status.variants}


def test_the_life_of_an_endpoint(serving: Serving) -> None:
    endpoint = serving.deploy("churn:1", "churn", on="memory")
    assert endpoint.wait_ready(5).state is EndpointState.READY
    assert weights(serving) == {"v1": 100.0}
    serving.deploy("churn:2", "churn", weight=10, on="memory")
    assert weights(serving) == {"v1": 90.0, "v2": 10.0}
    serving.deploy("churn:2", "churn", weight=25, on="memory")  # the same model again: only its share changes
    assert weights(serving) == {"v1": 75.0, "v2": 25.0}
    assert serving.traffic("churn", {"2": 100}).spec.variant("v1").weight == 0
    assert serving.traffic("churn", {"churn:1": 40}).spec.variant("v2").weight == 60
    assert serving.remove_variant("churn", "v1").spec.variants[0].weight == 100
    assert serving.scale("churn", 3).status.replicas_wanted == 3
    serving.deploy("churn:3", "churn", on="memory")  # without a weight it takes over
    assert weights(serving) == {"v3": 100.0}
    assert serving.show("churn").spec.replicas == 3
    assert [record.name for record in serving.list()] == ["churn"]
    serving.delete("churn")
    assert serving.list() == ()
    with pytest.raises(NotFound):
        serving.show("churn")


def test_variants_of_packages_and_of_other_models_get_free_names(serving: Serving) -> None:
    serving.deploy("constant:5", "e", on="memory")
    serving.deploy("constant:6", "e", weight=50, on="memory")
    serving.deploy("churn:1", "e", weight=10, on="memory")
    assert set(weights(serving, "e")) == {"v1", "v2", "churn-v1"}


def test_every_change_is_in_the_history(serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    serving.scale("churn", 2)
    messages = [line.message for line in serving.history("churn")]
    assert "wish 2: 2 replica(s), v1 100 %" in messages
    assert messages[-1] == "applied wish 2"


def test_a_name_can_be_used_again_after_deletion(serving: Serving) -> None:
    for version in (1, 2, 3):
        serving.deploy(f"churn:{version}", "churn", on="memory")
        assert weights(serving) == {f"v{version}": 100.0}
        serving.delete("churn")


def test_what_the_backend_refuses_is_raised_and_leaves_the_old_wish(world: World, serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    with pytest.raises(Unsupported, match="no accelerators"):
        serving.deploy("churn:2", "churn", weight=10, on="memory", resources=Resources(accelerators="T4:1"))
    assert weights(serving) == {"v1": 100.0}
    assert serving.show("churn").status.state is EndpointState.READY
    serving.deploy("churn:2", "churn", weight=10, on="memory")
    assert weights(serving) == {"v1": 90.0, "v2": 10.0}


def test_what_is_refused_at_first_leaves_nothing(world: World, serving: Serving) -> None:
    with pytest.raises(Unsupported):
        serving.deploy("churn:1", "churn", on="memory", resources=Resources(accelerators="T4:1"))
    assert serving.list() == ()
    assert world.cloud.wishes == {}
    serving.deploy("churn:1", "churn", on="memory")
    assert weights(serving) == {"v1": 100.0}


def test_wrong_wishes_change_nothing(serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    for wrong, error in (
        (lambda: serving.traffic("churn", {"v9": 10}), NotFound),
        (lambda: serving.traffic("churn", {"v1": 110}), Invalid),
        (lambda: serving.traffic("churn", {"v1": 50}), Invalid),
        (lambda: serving.scale("churn", 0), Invalid),
        (lambda: serving.deploy("churn:2", "churn", weight=101, on="memory"), Invalid),
        (lambda: serving.deploy("churn:2", "churn", on="other"), Conflict),
        (lambda: serving.deploy("churn:2", "../x", on="memory"), Invalid),
        (lambda: serving.deploy("churn:2", "new", on="nowhere"), NotFound),
        (lambda: serving.remove_variant("churn", "v1"), Invalid),
        (lambda: serving.show("nothing"), NotFound),
        (lambda: serving.delete("nothing"), NotFound),
    ):
        with pytest.raises(error):
            wrong()
    assert weights(serving) == {"v1": 100.0}
    assert len(serving.list()) == 1
    serving.scale("churn", 2)  # and nothing stays locked


def test_a_passing_fault_is_tried_again_by_the_next_look(world: World, serving: Serving) -> None:
    world.backend.errors = [Unavailable("reset"), Unavailable("reset")]
    endpoint = serving.deploy("churn:1", "churn", on="memory")
    assert serving.show("churn").message == "reset"
    assert endpoint.wait_ready(20).state is EndpointState.READY
    assert serving.show("churn").message == ""


def test_deleting_never_gives_up(world: World, serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    world.backend.errors = [NotYet("still ending"), Unavailable("reset"), Unsupported("odd")]
    serving.delete("churn")
    assert world.cloud.wishes == {}
    serving.deploy("churn:1", "churn", on="memory")
    world.backend.errors = [NotYet("still ending")] * 3
    with pytest.raises(NotYet):
        serving.delete("churn", timeout_s=0.0)
    world.backend.errors = []
    other, deadline = world.serving(), time.monotonic() + 20
    while other.list() != ():  # a later look of any process finishes it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert world.cloud.wishes == {}


def test_what_vanished_behind_our_back_is_made_again(world: World, serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    world.cloud.wishes.clear()
    assert serving.show("churn").status.state is EndpointState.UPDATING
    assert serving.show("churn").status.state is EndpointState.READY


def test_of_many_changes_at_once_none_is_lost(world: World, serving: Serving) -> None:
    serving.deploy("churn:1", "churn", on="memory")
    serving.deploy("churn:2", "churn", weight=50, on="memory")
    errors: list[Exception] = []

    def change(act: Any) -> None:
        try:
            act(world.serving())
        except ToolboxError as error:
            errors.append(error)

    def deploy(version: int) -> Any:
        return lambda opened: opened.deploy(f"churn:{version}", "churn", weight=1, on="memory")

    acts = [lambda opened: opened.scale("churn", 4), lambda opened: opened.traffic("churn", {"v2": 20})]
    threads = [threading.Thread(target=change, args=(act,)) for act in [*acts, *map(deploy, range(3, 9))]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    record = serving.show("churn")
    assert record.spec.replicas == 4
    assert {variant.name for variant in record.spec.variants} == {f"v{n}" for n in range(1, 9)}
    assert {v.name: v.weight for v in record.spec.variants} == weights(serving)  # the backend has the last wish


def test_two_that_create_at_once_make_one_endpoint(world: World) -> None:
    servings = [world.serving() for _ in range(4)]
    gate = threading.Barrier(4)
    errors: list[Exception] = []

    def create(serving: Serving, version: int) -> None:
        gate.wait()
        try:
            serving.deploy(f"churn:{version}", "churn", weight=10, on="memory")
        except ToolboxError as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=(serving, n)) for n, serving in enumerate(servings, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(servings[0].list()) == 1
    assert world.cloud.made == {"churn": 1}
    assert set(weights(servings[0])) == {"v1", "v2", "v3", "v4"}


def test_plan_shows_the_wish_and_launches_nothing(world: World, serving: Serving) -> None:
    serving.plan("churn:1", "churn", replicas=2, on="memory")
    serving.deploy("churn:1", "churn", on="memory")
    serving.plan("churn:2", "churn", weight=10, on="memory")
    (first, _), (second, backend) = world.planned
    assert (first.replicas, [v.name for v in first.variants]) == (2, ["v1"])
    assert ({v.name: v.weight for v in second.variants}, backend) == ({"v1": 90.0, "v2": 10.0}, "memory")
    assert weights(serving) == {"v1": 100.0}


def test_wait_ready_says_why_it_does_not_start(serving: Serving) -> None:
    with pytest.raises(Unavailable, match="cannot be served"):
        serving.deploy("constant:broken", "churn", on="memory").wait_ready(5)


@pytest.mark.parametrize(
    ("rows", "sent", "single"),
    [
        ([[1, 2], [3, 4]], "[[1, 2], [3, 4]]", False),
        ([1, 2], "[[1, 2]]", True),
        ((1, 2), "[[1, 2]]", True),
        ({"a": 1}, '[{"a": 1}]', True),
        ([{"a": 1}, {"a": 2}], '[{"a": 1}, {"a": 2}]', False),
        (np.array([[1.5, np.nan]]), "[[1.5, null]]", False),
        (np.array([1, 2]), "[[1, 2]]", True),
        ([np.float32(1.5), np.int64(2)], "[[1.5, 2]]", True),
        ([np.array([1, 2])], "[[1, 2]]", False),
        ([["x", None, True, float("inf")]], '[["x", null, true, null]]', False),
    ],
)
def test_rows_become_json(rows: Any, sent: str, single: bool) -> None:
    assert encode_rows(rows) == (f'{{"instances": {sent}}}'.encode(), single)


def test_frames_become_json() -> None:
    import pandas as pd
    import polars as pl

    expected = b'{"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": null}]}'
    assert encode_rows(pl.DataFrame({"a": [1, 2], "b": ["x", None]}))[0] == expected
    assert encode_rows(pd.DataFrame({"a": [1, 2], "b": ["x", None]}, dtype=object))[0] == expected
    assert encode_rows(pd.DataFrame({"a": [1.5, float("nan")]}))[0] == b'{"instances": [{"a": 1.5}, {"a": null}]}'
    assert (
        encode_rows(pd.DataFrame({"a": pd.array([1, None], "Int64")}))[0] == b'{"instances": [{"a": 1}, {"a": null}]}'
    )


@pytest.mark.parametrize("rows", [3, "text", b"bytes", [], None, object(), [object()]])
def test_what_is_no_row_is_refused(rows: Any) -> None:
    with pytest.raises(Invalid):
        encode_rows(rows)


def test_http_errors_become_ours_with_the_field() -> None:
    body = b'{"detail":"feature is missing","field":"f2","hint":"send it"}'
    error = error_of(Invocation(status=400, body=body, content_type="application/problem+json"), "churn")
    assert (type(error), error.field, error.hint) == (Invalid, "f2", "send it")
    assert type(error_of(Invocation(status=503, body=b"<html>", content_type=""), "churn")) is Unavailable
    assert type(error_of(Invocation(status=404, body=b"[]", content_type=""), "churn")) is NotFound


def test_a_command_that_waits_for_a_deletion_does_not_put_off_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    world.store = MemoryStore(clock)
    serving = Serving(
        world.store, world._backend, resolve=world._resolve, planner=world._plan, install="i", clock=clock
    )
    serving.deploy("churn:1", "churn", on="memory")
    monkeypatch.setattr(world.backend, "delete", lambda endpoint: None)  # accepted, and not done yet
    with pytest.raises(NotYet):
        serving.delete("churn", timeout_s=3.0)
    (row,) = world.store.find("endpoint")
    assert row.due_at is not None
    assert row.due_at - clock.now() <= 5.0


def test_an_older_wish_that_is_applied_late_does_not_stay(world: World) -> None:
    """A process stands still just before it applies, and goes on when a newer wish has been applied by another."""
    clock = FakeClock()
    world.store = MemoryStore(clock)
    world.serving().deploy("churn:1", "churn", on="memory")
    newer = iter(["churn:3"])

    def stand_still(label: str) -> None:
        for model in newer if label == "before:apply" else ():
            clock.advance(120.0)  # longer than any lease
            world.serving().deploy(model, "churn", on="memory")

    crash.arm(stand_still)
    try:
        world.serving().deploy("churn:2", "churn", on="memory")
    finally:
        crash.arm(None)
    clock.advance(CHECK_S + 1.0)
    serving = world.serving()
    serving.tick()
    assert serving.show("churn").spec.variants[0].model == "churn:3"
    assert [variant.model for variant in world.backend.observe("churn").variants] == ["churn:3"]
