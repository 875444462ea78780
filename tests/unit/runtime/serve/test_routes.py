"""Every platform's way to ask, against one running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.runtime.serve.running import FakePredictor, Running, matrix, mixed, serving

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
ANSWERS = [14.5, 32.5]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(
        {"v1": FakePredictor(matrix(3)), "v2": FakePredictor(matrix(3), lambda batch: batch[:, 0] * 0 - 1.0)},
        weights={"v1": 100.0, "v2": 0.0},
        name="churn",
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/models/churn:predict", {"instances": ROWS}, {"predictions": ANSWERS}),
        ("/v1/models/churn:predict", {"inputs": ROWS}, {"predictions": ANSWERS}),
        ("/v1/models/churn%3Apredict", {"instances": ROWS}, {"predictions": ANSWERS}),
        ("/v1/models/churn:predict?x=1", {"instances": ROWS, "parameters": {}}, {"predictions": ANSWERS}),
        ("/v1/models/churn:predict", {"instances": [{"f2": 3, "f0": 1, "f1": 2}]}, {"predictions": [14.5]}),
        ("/invocations", {"instances": ROWS}, {"predictions": ANSWERS}),
        ("/invocations", ROWS, {"predictions": ANSWERS}),
        ("/invocations", {"dataframe_split": {"columns": ["f0", "f1", "f2"], "data": ROWS}}, {"predictions": ANSWERS}),
        ("/invocations", {"dataframe_records": [{"f0": 1, "f1": 2, "f2": 3}]}, {"predictions": [14.5]}),
        ("/invocations", {"f0": 1, "f1": 2, "f2": 3}, {"predictions": [14.5]}),
        ("/invocations", {"inputs": {"f0": [1], "f1": [2], "f2": [3]}}, {"predictions": [14.5]}),
        ("/score", {"data": ROWS}, {"predictions": ANSWERS}),
        ("/predict", {"features": ROWS[0]}, {"prediction": 14.5, "probability": 1 - 1 / 15.5}),
        ("/predict", {"features": {"f0": 1, "f1": 2, "f2": 3}}, {"prediction": 14.5, "probability": 1 - 1 / 15.5}),
        ("/predict", {"features": ROWS}, {"predictions": ANSWERS, "probabilities": [1 - 1 / 15.5, 1 - 1 / 33.5]}),
    ],
)
def test_json_envelopes(server: Running, path: str, body: Any, answer: Any) -> None:
    got = server.ask("POST", path, body)
    assert (got.status, got.json) == (200, answer)
    assert got.headers["x-mlt-variant"] == "v1"
    assert got.headers["x-mlt-model-version"] == "1"


def test_open_inference(server: Running) -> None:
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP64", "data": ROWS}
    got = server.ask("POST", "/v2/models/churn/infer", {"id": "7", "inputs": [tensor]}).json
    assert got["id"] == "7"
    assert got["outputs"][0] == {"name": "prediction", "shape": [2], "datatype": "FP64", "data": ANSWERS}
    assert got["outputs"][1]["shape"] == [2, 2]
    only = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
    assert [o["name"] for o in server.ask("POST", "/v2/models/churn/infer", only).json["outputs"]] == ["probabilities"]
    columns = [{"name": f"f{i}", "shape": [1], "datatype": "INT64", "data": [i + 1]} for i in range(3)]
    got = server.ask("POST", "/v2/models/churn/versions/1/infer", {"inputs": columns}).json
    assert got["outputs"][0]["data"] == [14.5]
    got = server.ask("POST", "/v2/models/churn/versions/v2/infer", {"inputs": [tensor]})
    assert got.headers["x-mlt-variant"] == "v2"
    error = server.ask("POST", "/v2/models/churn/infer", {"inputs": []})
    assert (error.status, "error" in error.json) == (400, True)


def test_metadata_and_health(server: Running) -> None:
    described = server.ask("GET", "/v2/models/churn").json
    assert described["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}]
    assert described["versions"] == ["1", "2"]
    for path in ("/", "/ping", "/v2", "/v2/health/live", "/v2/health/ready", "/v1/models", "/v1/models/churn", "/docs"):
        assert server.ask("GET", path).status == 200, path
        head = server.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert server.ask("GET", "/v2/models/churn/ready").json == {"name": "churn", "ready": True}


def test_csv_and_json_lines(server: Running) -> None:
    form = "application/x-www-form-urlencoded"  # what curl -d says
    assert server.ask("POST", "/invocations", {"instances": ROWS}, content_type=form).json == {"predictions": ANSWERS}
    assert server.ask("POST", "/invocations", b"1,2,3\n", content_type="text/csv").json == {"predictions": [14.5]}
    got = server.ask("POST", "/invocations", b"1,2,3\n4,5,6", content_type="text/csv; charset=utf-8", accept="text/csv")
    assert (got.headers["content-type"], got.body) == ("text/csv", b"14.5\n32.5\n")
    got = server.ask("POST", "/invocations", b"[1,2,3]\n[4,5,6]", content_type="application/jsonlines")
    assert (got.headers["content-type"], got.body) == ("application/jsonlines", b"14.5\n32.5\n")
    got = server.ask("POST", "/invocations", {"instances": ROWS}, accept="text/html, text/csv;q=0.5")
    assert got.body == b"14.5\n32.5\n"


def test_outputs_and_variants_can_be_chosen(server: Running) -> None:
    body = {"instances": ROWS[:1], "parameters": {"output": "probabilities"}}
    assert server.ask("POST", "/invocations", body).json == {"predictions": [[1 / 15.5, 1 - 1 / 15.5]]}
    body["parameters"] = {"outputs": ["prediction", "probabilities"]}
    assert server.ask("POST", "/invocations", body).json["predictions"][0]["prediction"] == 14.5
    got = server.ask("POST", "/invocations", {"instances": ROWS}, x_mlt_variant="v2")
    assert (got.json, got.headers["x-mlt-variant"]) == ({"predictions": [-1.0, -1.0]}, "v2")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "field"),
    [
        ("POST", "/invocations", b"{", {}, 400, "body"),
        ("POST", "/invocations", b"", {}, 400, "body"),
        ("POST", "/invocations", b'{"instances":[[1,2,NaN]]}', {}, 400, "body"),
        ("POST", "/invocations", {"instances": [[1, 2]]}, {}, 400, "instances[0]"),
        ("POST", "/invocations", {"instances": [[1, 2, None]]}, {}, 400, "f2"),
        ("POST", "/invocations", {"instances": [[1, 2, "x"]]}, {}, 400, "f2"),
        ("POST", "/invocations", {"rows": ROWS}, {}, 400, "instances"),
        ("POST", "/invocations", {"instances": ROWS, "parameters": {"output": "x"}}, {}, 400, "outputs"),
        ("POST", "/invocations", {"instances": ROWS, "parameters": {"outputs": 3}}, {}, 400, "parameters.outputs"),
        ("POST", "/invocations", {"instances": ROWS, "parameters": [3]}, {}, 400, "parameters"),
        ("POST", "/invocations", {"instances": ROWS}, {"x_mlt_variant": "v9"}, 404, "X-MLT-Variant"),
        ("POST", "/invocations", b"x", {"content_type": "image/png"}, 415, "Content-Type"),
        ("POST", "/predict", b"1,2", {"content_type": "text/csv"}, 415, "Content-Type"),
        ("POST", "/v1/models/other:predict", {}, {}, 404, "model"),
        ("GET", "/v2/models/other", None, {}, 404, "model"),
        ("POST", "/v2/models/churn/versions/9/infer", {}, {}, 404, "version"),
        ("GET", "/nothing", None, {}, 404, None),
        ("GET", "/invocations", None, {}, 405, "method"),
        ("DELETE", "/v2", None, {}, 405, "method"),
        ("POST", "/v2/models/churn/infer", {"inputs": [{"name": "x", "shape": [1, 3], "data": []}]}, {}, 400,
         "inputs[0].datatype"),
        ("POST", "/v2/models/churn/infer",
         {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP16", "data": [1, 2, 3]}]}, {}, 400,
         "inputs[0].datatype"),
        ("POST", "/v2/models/churn/infer",
         {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP64", "data": [1, 2, 3]}]}, {}, 400, "inputs[0].data"),
        ("POST", "/v2/models/churn/infer",
         {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}]}, {}, 400, "instances"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_wrong(
    server: Running, method: str, path: str, body: Any, headers: dict[str, str], status: int, field: str | None
) -> None:
    got = server.ask(method, path, body, **headers)
    assert got.status == status
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json["status"] == status
    assert got.json.get("field") == field
    if status == 405:
        assert got.headers["allow"]


def test_openapi_describes_the_models_own_row(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    row = document["components"]["schemas"]["Row"]
    assert row["oneOf"][0]["required"] == ["f0", "f1", "f2"]
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"][
        0
    ]
    assert server.ask("POST", "/predict", example).status == 200  # the example of the page is a request that works


def test_the_page_brings_all_it_needs(server: Running) -> None:
    page = server.ask("GET", "/docs").body.decode()
    assert "f2" in page
    assert "//" not in page.replace("<!doctype html>", "")  # no address of another host


def test_metrics_count_by_variant_and_status() -> None:
    with serving(
        {"v1": FakePredictor(matrix(1)), "v2": FakePredictor(matrix(1))}, weights={"v1": 75, "v2": 25}
    ) as running:
        for _ in range(8):
            running.ask("POST", "/invocations", {"instances": [[1.0]]})
        running.ask("POST", "/invocations", {"instances": [["x"]]}, x_mlt_variant="v1")
        running.ask("GET", "/nothing")
        text = running.ask("GET", "/metrics").body.decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    v1 = 'model="m",version="1",variant="v1",replica="0"'
    assert samples[f'mlt_requests_total{{{v1},code="200"}}'] == "6"
    assert samples[f'mlt_requests_total{{{v1},code="400"}}'] == "1"
    assert samples[f'mlt_request_duration_seconds_bucket{{{v1},le="+Inf"}}'] == "6"
    assert samples[f"mlt_request_duration_seconds_count{{{v1}}}"] == "6"
    assert samples['mlt_requests_total{model="",version="",variant="",replica="",code="404"}'] == "1"
    assert len(samples) == sum(1 for line in text.splitlines() if not line.startswith("#"))  # no series twice


def test_text_features_and_text_answers() -> None:
    import numpy as np

    predictor = FakePredictor(mixed(), lambda batch: np.array([f"{c}!" for c in batch["city"]], object))
    with serving(_Labels(predictor)) as running:
        row = {"city": "Zürich", "rooms": 2, "area": None, "new": True}
        assert running.ask("POST", "/predict", {"features": row}).json == {"prediction": "Zürich!"}
        assert running.ask("POST", "/invocations", "Zürich,2,,true".encode(), content_type="text/csv").json == {
            "predictions": ["Zürich!"]
        }
        tensors = [
            {"name": "city", "shape": [1], "datatype": "BYTES", "data": ["Bern"]},
            {"name": "rooms", "shape": [1, 1], "datatype": "INT32", "data": [2]},
            {"name": "area", "shape": [1], "datatype": "FP32", "data": [None]},
            {"name": "new", "shape": [1], "datatype": "BOOL", "data": [False]},
        ]
        got = running.ask("POST", "/v2/models/m/infer", {"inputs": tensors}).json
        assert got["outputs"] == [{"name": "prediction", "shape": [1], "datatype": "BYTES", "data": ["Bern!"]}]
        assert json.dumps(running.ask("GET", "/openapi.json").json).count("city") >= 2


class _Labels(FakePredictor):
    """Answers labels only."""

    def __init__(self, inner: FakePredictor) -> None:
        super().__init__(inner.signature, inner.function)

    def __call__(self, batch: Any, outputs: Any = None) -> dict[str, Any]:
        return {"prediction": self.function(batch)}
