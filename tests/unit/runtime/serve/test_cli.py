"""The command as platforms start it: a real process with a real package."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ml_toolbox.packages import open_package, save_model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(40, 3))
    folder = tmp_path_factory.mktemp("package") / "churn"
    save_model(LogisticRegression().fit(rows, rows[:, 0] > 0), folder, sample_input=rows)
    return folder


@contextmanager
def started(
    *arguments: str, module: tuple[str, ...] = ("ml_toolbox.runtime.serve",)
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and the port its log names."""
    command = [sys.executable, "-m", *module, *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process, _port(process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    descriptor, seen = process.stderr.fileno(), ""
    while select.select([descriptor], [], [], 60)[0]:
        data = os.read(descriptor, 65536)
        if not data:
            break
        seen += data.decode()
        found = re.search(r"serving \S+ on http://127\.0\.0\.1:(\d+) ", seen)
        if found:
            return int(found[1])
    raise AssertionError(f"it did not start: {seen}")


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(
        method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("module", [("ml_toolbox.runtime.serve",), ("ml_toolbox.runtime", "serve")])
def test_a_package_is_served_as_the_original_answers_and_ends_politely(package: Path, module: tuple[str, ...]) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    with started(str(package), "--model", "churn:3", module=module) as (process, port):
        status, answer = ask(port, "POST", "/v1/models/churn:predict", {"instances": rows.tolist()})
        assert (status, answer) == (200, {"predictions": open_package(package).load().predict(rows).tolist()})
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_spec_with_two_variants_is_served_and_followed(package: Path, tmp_path: Path) -> None:
    def write(weights: dict[str, float], revision: str) -> None:
        variants = [{"name": name, "package": str(package), "weight": weight} for name, weight in weights.items()]
        (tmp_path / "new").write_text(json.dumps({"name": "churn", "revision": revision, "variants": variants}))
        os.replace(tmp_path / "new", tmp_path / "serve.json")

    write({"a": 1, "b": 3}, "one")
    with started("--spec", str(tmp_path / "serve.json")) as (process, port):
        _, state = ask(port, "GET", "/_mlt/state")
        assert isinstance(state, dict)
        assert {v["name"]: v["weight"] for v in state["variants"]} == {"a": 1, "b": 3}
        write({"b": 1}, "two")
        process.send_signal(signal.SIGHUP)  # and without it within the time of a look
        while state["revision"] != "two":
            _, state = ask(port, "GET", "/_mlt/state")
            assert isinstance(state, dict)
        assert [v["name"] for v in state["variants"]] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "say what to serve"),
        (["/no/such/folder"], 2, "not a folder"),
        (["--spec", "/no/such/file"], 2, "cannot read the serving spec"),
        (["{tmp}"], 1, ""),
        (["--bogus"], 2, "bogus"),
    ],
)
def test_what_cannot_be_served_ends_with_a_reason(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    command = [sys.executable, "-m", "ml_toolbox.runtime.serve", *(a.format(tmp=tmp_path) for a in arguments)]
    ended = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_server_ends_when_its_lifeline_is_cut(package: Path) -> None:
    lifeline_read, lifeline_write = os.pipe()
    command = [sys.executable, "-m", "ml_toolbox.runtime.serve", str(package), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--lifeline-fd", str(lifeline_read)], pass_fds=(lifeline_read,), stderr=subprocess.PIPE, text=True
    )
    try:
        _port(process)
        os.close(lifeline_write)
        process.wait(5)
    finally:
        process.kill()
        process.wait()
        os.close(lifeline_read)
        assert process.stderr is not None
        process.stderr.close()
