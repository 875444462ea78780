"""Rows never mix, one bad request harms nobody, and a slow model stops nobody."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ml_toolbox.runtime.serve.batching import CostModel
from ml_toolbox.runtime.serve.spec import Limits
from tests.unit.runtime.serve.running import FakePredictor, Running, linear, matrix, request, serving


def _requests(rng: random.Random, count: int) -> list[tuple[bytes, str, list[float], list[float]]]:
    """Random ones of several protocols and sizes; the bytes, the kind, the predictions and the probabilities expected."""
    made = []
    for _ in range(count):
        rows = [[rng.uniform(-9, 9) for _ in range(4)] for _ in range(rng.choice([1, 1, 2, 7, 40]))]
        kind = rng.choice(["v1", "v2", "probabilities", "named"])
        answers = linear(np.array(rows))
        share = 1 / (1 + np.abs(answers))
        body: Any = {"instances": rows}
        path = "/v1/models/m:predict"
        if kind == "v2":
            path = "/v2/models/m/infer"
            body = {"inputs": [{"name": "x", "shape": [len(rows), 4], "datatype": "FP64", "data": rows}]}
        elif kind == "probabilities":
            body["parameters"] = {"output": "probabilities"}
        elif kind == "named":
            body = {"instances": [{f"f{i}": value for i, value in enumerate(row)} for row in rows]}
        made.append((request("POST", path, body), kind, answers.tolist(), share.tolist()))
    return made


def _check(body: Any, kind: str, answers: list[float], shares: list[float]) -> None:
    if kind == "v2":
        got = {output["name"]: output["data"] for output in body["outputs"]}
        np.testing.assert_allclose(got["prediction"], answers, rtol=1e-12)
        np.testing.assert_allclose(got["probabilities"][::2], shares, rtol=1e-12)
    elif kind == "probabilities":
        np.testing.assert_allclose([row[0] for row in body["predictions"]], shares, rtol=1e-12)
    else:
        np.testing.assert_allclose(body["predictions"], answers, rtol=1e-12)


@pytest.mark.parametrize("inline_limit_s", [10.0, 0.0], ids=["in the loop", "on the thread"])
def test_64_connections_each_get_the_answers_to_their_own_rows(inline_limit_s: float) -> None:
    predictor = FakePredictor(matrix(4))

    def talk(running: Running, seed: int) -> int:
        rng = random.Random(seed)
        with running.connect() as client:
            for _ in range(4):
                asked = _requests(rng, rng.randint(1, 12))
                data = b"".join(raw for raw, *_ in asked)
                while data:
                    cut = rng.randint(1, 3000)
                    client.send(data[:cut])
                    data = data[cut:]
                for _, kind, answers, shares in asked:
                    got = client.read()
                    assert got.status == 200
                    _check(got.json, kind, answers, shares)
        return 1

    with serving(predictor, limits=Limits(inline_limit_s=inline_limit_s)) as running, ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(lambda seed: talk(running, seed), range(64))) == 64
    assert max(predictor.batches) > 40  # requests did share calls


def test_requests_that_wait_together_go_to_the_model_together() -> None:
    release = threading.Event()

    def slow_first(batch: Any) -> Any:
        if batch[0, 0] == -1:
            release.wait(20)
        return linear(batch)

    predictor = FakePredictor(matrix(1), slow_first)
    with serving(predictor, limits=Limits(inline_limit_s=0.0)) as running:
        blocker = running.connect()
        blocker.send(request("POST", "/invocations", {"instances": [[-1]]}))
        _until(lambda: running.server.model.first().lane._away)
        clients = [running.connect() for _ in range(10)]
        for i, client in enumerate(clients):
            client.send(request("POST", "/invocations", {"instances": [[i], [i]]}))
        _until(lambda: running.server.model.first().metrics.queued_rows == 20)
        # The model is busy, health and metrics answer, and say what waits.
        assert running.ask("GET", "/v2/health/ready").status == 200
        assert (
            'mlt_queue_rows{model="m",version="1",variant="v1",replica="0"} 20'
            in running.ask("GET", "/metrics").body.decode()
        )
        release.set()
        assert [client.read().json for client in clients] == [{"predictions": [i + 0.5] * 2} for i in range(10)]
        for client in [blocker, *clients]:
            client.sock.close()
    assert predictor.batches[-1] == 20


def test_one_bad_request_does_not_harm_its_batch() -> None:
    def touchy(batch: Any) -> Any:
        if (batch[:, 0] == 13).any():
            raise RuntimeError("secret value 13")
        return linear(batch)

    with serving(FakePredictor(matrix(1), touchy)) as running, running.connect() as client:
        client.send(b"".join(request("POST", "/invocations", {"instances": [[n]]}) for n in (1, 13, 2)))
        answers = [client.read() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert answers[0].json == {"predictions": [1.5]}
    assert answers[2].json == {"predictions": [2.5]}
    assert "secret" not in answers[1].body.decode()
    assert "RuntimeError" in answers[1].json["detail"]


def test_a_number_too_large_for_the_model_harms_only_its_sender() -> None:
    with serving(FakePredictor(matrix(1, dtype="float32"))) as running, running.connect() as client:
        client.send(b"".join(request("POST", "/invocations", {"instances": [[n]]}) for n in (1.0, 1e300, 2.0)))
        answers = [client.read() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert answers[1].json["field"] == "f0"


def test_a_model_that_answers_too_few_rows_is_caught() -> None:
    with serving(FakePredictor(matrix(1), lambda batch: linear(batch)[:1])) as running, running.connect() as client:
        client.send(b"".join(request("POST", "/invocations", {"instances": [[n]] * n}) for n in (1, 2)))
        assert client.read().json == {"predictions": [1.5]}
        assert client.read().status == 500


def test_a_full_queue_says_come_back_later() -> None:
    release = threading.Event()

    def held(batch: Any) -> Any:
        if len(batch) > 1:  # not the trial row at loading
            release.wait(20)
        return linear(batch)

    with serving(FakePredictor(matrix(1), held), limits=Limits(inline_limit_s=0.0, max_queue_rows=10)) as running:
        first, second = running.connect(), running.connect()
        first.send(request("POST", "/invocations", {"instances": [[1], [2]]}))
        _until(lambda: running.server.model.first().lane._away)
        second.send(request("POST", "/invocations", {"instances": [[1]] * 8}))
        _until(lambda: running.server.model.first().metrics.queued_rows == 8)
        refused = running.ask("POST", "/invocations", {"instances": [[1]] * 3})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        release.set()
        assert first.read().status == second.read().status == 200
        first.sock.close()
        second.sock.close()


def test_a_client_that_leaves_does_not_disturb_the_others() -> None:
    with serving(FakePredictor(matrix(1)), limits=Limits(inline_limit_s=0.0)) as running:
        for n in range(30):
            with running.connect() as leaving:
                leaving.send(request("POST", "/invocations", {"instances": [[n]]}))
                leaving.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with a reset
            assert running.ask("POST", "/invocations", {"instances": [[n]]}).json == {"predictions": [n + 0.5]}


def _until(condition: Any, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_answers_are_json_even_when_the_model_says_nan() -> None:
    with serving(FakePredictor(matrix(1), lambda batch: batch[:, 0] * np.nan)) as running:
        answer = running.ask("POST", "/invocations", {"instances": [[1], [2]]})
    assert json.loads(answer.body) == {"predictions": [None, None]}


def test_the_cost_model_follows_the_model_and_not_the_noise() -> None:
    cost = CostModel(20e-6)
    for n in range(1000):
        cost.learn(1, 20e-3 if n % 20 == 0 else 20e-6)  # a busy machine holds up one call in twenty
    assert cost.expect(1) < 100e-6
    for _ in range(60):
        cost.learn(1, 5e-3)  # the model has become slow
    assert cost.expect(1) > 2e-3
    for _ in range(60):
        cost.learn(1, 20e-6)
    assert cost.expect(1) < 100e-6
    for _ in range(20):
        cost.learn(1000, 3e-3)
    assert 2e-3 < cost.expect(1000) < 4e-3
    assert cost.expect(1) < 100e-6
