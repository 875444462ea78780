"""The spec changes under load: no request is dropped, what is new is proven first, what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.runtime.serve.spec import Limits, parse_spec, read_spec
from tests.unit.runtime.serve.running import FakePredictor, Running, linear, matrix, request, serving, spec_of


class Load:
    """Clients that ask all the time and count who answered; any error is kept."""

    def __init__(self, running: Running, clients: int = 4) -> None:
        self.variants: Counter[str] = Counter()
        self.errors: list[Any] = []
        self._running = running
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _ask(self) -> None:
        with self._running.connect() as client:
            while not self._stop.is_set():
                try:
                    client.send(request("POST", "/invocations", {"instances": [[1.0]]}))
                    answer = client.read()
                except OSError as error:
                    self.errors.append(error)
                    return
                if answer.status != 200:
                    self.errors.append(answer)
                self.variants[answer.headers.get("x-mlt-variant", "")] += 1

    def until(self, variant: str, more: int = 20) -> None:
        """Wait until that variant has answered some more requests."""
        goal, deadline = self.variants[variant] + more, time.monotonic() + 20
        while self.variants[variant] < goal:
            assert time.monotonic() < deadline, (variant, self.variants, self.errors)
            time.sleep(0.002)


def test_weights_and_versions_change_under_load_without_an_error() -> None:
    loaded = {name: FakePredictor(matrix(1)) for name in ("v1", "v2", "v3")}
    with serving(loaded, weights={"v1": 100, "v2": 0, "v3": 0}) as running, Load(running) as load:
        load.until("v1")
        running.apply(spec_of({"v1": 50, "v2": 50}))
        load.until("v2")
        running.apply(spec_of({"v2": 100}))
        running.apply(spec_of({"v2": 50, "v3": 50}))  # loaded anew, beside what serves
        load.until("v3")
        for weight in range(100):
            running.apply(spec_of({"v2": weight, "v3": 100 - weight}))
        running.apply(spec_of({"v3": 100}))
        before = load.variants["v2"]
        load.until("v3")
        assert load.variants["v2"] <= before + 4  # the answers that were under way
    assert load.errors == []


def test_the_split_is_exact_after_a_change() -> None:
    with serving({"v1": FakePredictor(matrix(1)), "v2": FakePredictor(matrix(1))}) as running:
        running.apply(spec_of({"v1": 90, "v2": 10}))
        with running.connect() as client:
            client.send(request("POST", "/invocations", {"instances": [[1.0]]}) * 1000)
            answers = Counter(client.read().headers["x-mlt-variant"] for _ in range(1000))
    assert answers == {"v1": 900, "v2": 100}


def test_a_variant_that_does_not_answer_a_row_never_gets_traffic() -> None:
    def broken(batch: Any) -> Any:
        raise ValueError("no such operator")

    loaded = {"v1": FakePredictor(matrix(1)), "v2": FakePredictor(matrix(1))}
    with serving(loaded) as running, Load(running) as load:
        running.apply(spec_of({"v1": 100}))
        for _ in range(5):  # by then every connection has its answer to what it asked before the change
            load.until("v1")
        loaded["v2"].function = broken
        with pytest.raises(Invalid, match="no such operator"):
            running.apply(spec_of({"v1": 50, "v2": 50}, revision="bad"))
        before = load.variants["v2"]
        load.until("v1")
        assert load.variants["v2"] == before
        state = running.ask("GET", "/_mlt/state").json
        assert (state["revision"], state["wanted"]) == ("1", "bad")
        assert "no such operator" in state["error"]
        loaded["v2"].function = linear
        running.apply(spec_of({"v1": 50, "v2": 50}, revision="good"))
        load.until("v2")
        assert running.ask("GET", "/_mlt/state").json["revision"] == "good"
    assert load.errors == []


def test_requests_in_a_removed_variant_are_still_answered() -> None:
    release = threading.Event()

    def held(batch: Any) -> Any:
        if batch[0, 0] == 7:
            release.wait(20)
        return linear(batch)

    loaded = {"v1": FakePredictor(matrix(1), held), "v2": FakePredictor(matrix(1))}
    with serving(loaded, limits=Limits(inline_limit_s=0.0)) as running, running.connect() as client:
        old = running.server.model.variants["v1"]
        client.send(request("POST", "/invocations", {"instances": [[7.0]]}, x_mlt_variant="v1"))
        deadline = time.monotonic() + 10
        while old.lane.idle:
            assert time.monotonic() < deadline
        running.apply(spec_of({"v2": 100}))
        assert running.ask("POST", "/invocations", {"instances": [[1.0]]}, x_mlt_variant="v1").status == 404
        release.set()
        assert client.read().json == {"predictions": [7.5]}
        while not old.lane.idle:
            assert time.monotonic() < deadline


def test_the_watched_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    write_spec(path, {"v1": 100, "v2": 0}, "a")
    with serving({"v1": FakePredictor(matrix(1)), "v2": FakePredictor(matrix(1))}) as running:
        changed = asyncio.Event()
        watching = asyncio.run_coroutine_threadsafe(running.server.watch(path, changed), running.loop)
        for revision, weights in (("b", {"v1": 50.0, "v2": 50.0}), ("c", {"v2": 100.0})):
            write_spec(path, weights, revision)
            _until_revision(running, revision)
            assert {v["name"]: v["weight"] for v in running.ask("GET", "/_mlt/state").json["variants"]} == weights
        path.write_text("{")  # broken: what was in force stays, and the state says why
        deadline = time.monotonic() + 10
        while not (state := running.ask("GET", "/_mlt/state").json)["error"]:
            assert time.monotonic() < deadline
        assert state["revision"] == "c"
        write_spec(path, {"v1": 100}, "d")
        _until_revision(running, "d")
        assert running.ask("GET", "/_mlt/state").json["error"] == ""
        watching.cancel()


def _until_revision(running: Running, revision: str) -> None:
    deadline = time.monotonic() + 10
    while running.ask("GET", "/_mlt/state").json["revision"] != revision:
        assert time.monotonic() < deadline


def write_spec(path: Path, weights: dict[str, float], revision: str) -> None:
    variants = [{"name": name, "package": name, "weight": weight} for name, weight in weights.items()]
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"name": "m", "revision": revision, "variants": variants}))
    os.replace(temporary, path)


def test_draining_answers_what_is_there_and_closes() -> None:
    release = threading.Event()

    def held(batch: Any) -> Any:
        if batch[0, 0] == 7:
            release.wait(20)
        return linear(batch)

    limits = Limits(inline_limit_s=0.0, drain_idle_s=0.2)
    with serving(FakePredictor(matrix(1), held), limits=limits) as running:
        busy, idle, late = running.connect(), running.connect(), running.connect()
        for client in (idle, late):
            client.send(request("GET", "/ping"))
            assert client.read().status == 200
        busy.send(request("POST", "/invocations", {"instances": [[7.0]]}))
        deadline = time.monotonic() + 10
        while running.server.model.first().lane.idle:
            assert time.monotonic() < deadline
        result: list[bool] = []
        draining = threading.Thread(target=lambda: result.append(running.drain()))
        draining.start()
        while not running.server.draining:
            assert time.monotonic() < deadline
        late.send(request("GET", "/v2/health/ready"))  # already connected: answered, but not ready, and closed after it
        answer = late.read()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert idle.closed()
        release.set()
        answer = busy.read()
        assert (answer.json, answer.headers["connection"]) == ({"predictions": [7.5]}, "close")
        draining.join(20)
        assert result == [True]
        for client in (busy, idle, late):
            client.sock.close()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "spec"),
        ({}, "variants"),
        ({"variants": []}, "variants"),
        ({"variants": [3]}, "variants[0]"),
        ({"variants": [{"name": "v1"}]}, "variants[0].package"),
        ({"variants": [{"name": "../x", "package": "p"}]}, "variants[0].name"),
        ({"variants": [{"name": "v1", "package": "p", "weight": -1}]}, "variants[0].weight"),
        ({"variants": [{"name": "v1", "package": "p", "weight": True}]}, "variants[0].weight"),
        ({"variants": [{"name": "v1", "package": "p", "weight": float("nan")}]}, "variants[0].weight"),
        ({"variants": [{"name": "v1", "package": "p", "weight": 0}]}, "variants.weight"),
        ({"variants": [{"name": "v1", "package": "p", "model": "a:1\r\nX-Evil: 1"}]}, "variants[0].model"),
        ({"variants": [{"name": "v1", "package": "p"}, {"name": "v1", "package": "q"}]}, "variants"),
        ({"name": "a b", "variants": [{"name": "v1", "package": "p"}]}, "name"),
    ],
)
def test_a_wrong_spec_names_its_field(document: Any, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_spec(document)
    assert caught.value.field == field


def test_a_spec_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        read_spec(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff")
    with pytest.raises(Invalid):
        read_spec(tmp_path / "bad.json")


def test_ordinary_clients_are_served() -> None:
    with serving(FakePredictor(matrix(1))) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        for n in range(3):
            connection.request(
                "POST", "/predict", json.dumps({"features": [[n]]}), {"Content-Type": "application/json"}
            )
            assert json.loads(connection.getresponse().read())["prediction"] == n + 0.5
        connection.close()
