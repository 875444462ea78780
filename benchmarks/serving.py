"""Requests per second and CPU time per request of the model server, beside a hand-written FastAPI service, MLServer, and the
limit: the same event loop answering a constant without parsing.

    python benchmarks/serving.py [--quick] [--peers fastapi,mlserver] [--write]

Makes a virtual environment per peer below ``--cache`` (pip, once). Every server's answers are compared with scikit-learn
before anything is timed. Server on one core, client on another, rounds interleaved, medians. Load comes from ``wrk`` where it
is installed, else from a small epoll client. CPU time is that of the server's process tree and counts for more than
requests per second, which a busy machine or a slow client holds down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CONSTANT = """
import asyncio, sys, uvloop
BODY = b'{"predictions":[[0.125,0.875]]}'
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
ANSWER = HEAD % len(BODY) + BODY
class Constant(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport; self.left = 0
    def data_received(self, data):
        if not self.left:  # the length of a request is learnt from its head, nothing else is looked at
            head, _, body = data.partition(b"\\r\\n\\r\\n")
            at = head.lower().find(b"content-length:")
            self.left = (int(head[at + 15:].split(b"\\r\\n", 1)[0]) if at >= 0 else 0) - len(body)
        else:
            self.left -= len(data)
        if self.left <= 0:
            self.left = 0
            self.transport.write(ANSWER)
async def main():
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())
"""

FASTAPI = """
import joblib, sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
model = joblib.load(sys.argv[2])
app = FastAPI()
class Request(BaseModel):
    instances: list[list[float]]
@app.post("/predict")
def predict(request: Request):
    return {"predictions": model.predict_proba(request.instances).tolist()}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


@dataclass
class Server:
    """How to start one, and how to ask it."""

    name: str
    command: list[str]
    path: str
    wire: str
    """``plain`` (instances) or ``v2``."""
    port: int
    variables: dict[str, str] = field(default_factory=dict)
    checked: bool = True
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    rss_mb: float = 0.0


@dataclass
class Cell:
    model: str
    rows: int
    connections: int


CELLS = [
    Cell(model, rows, connections)
    for model in ("LR", "RF")
    for rows, connections in ((1, 1), (1, 16), (1, 64), (100, 4), (1000, 4))
]


def main() -> None:
    options = _options()
    cache = Path(options.cache)
    versions = fit(cache)
    pythons = {peer: environment(cache, peer) for peer in options.peers}
    measured: dict[tuple[str, str, int, int], list[tuple[float, float]]] = {}
    facts: dict[tuple[str, str], tuple[float, float, float]] = {}
    rounds, seconds = (1, 0.4) if options.quick else (options.rounds, 2.0)
    for number in range(rounds):
        for model in ("LR", "RF"):
            for server in servers(cache, model, pythons):
                with_server(server, lambda s=server, m=model: _round(s, m, seconds, measured, facts, cache))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    text = table(measured, facts, versions, rounds, seconds)
    print(text)
    if options.write:
        (ROOT / "docs" / "benchmarks" / "serving.md").write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, proves nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="fastapi,mlserver", type=lambda text: [p for p in text.split(",") if p])
    parser.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "ml-toolbox-bench-serving"))
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/serving.md")
    return parser.parse_args()


# -- what is served ----------------------------------------------------------------------------------------------------


def fit(cache: Path) -> dict[str, str]:
    """Two models as our packages and as the peers' joblib files; the versions that matter."""
    import joblib
    import numpy
    import onnxruntime
    import sklearn
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from ml_toolbox.packages import save_model

    rows, labels = load_breast_cancer(return_X_y=True)
    models = {
        "LR": make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels),
        "RF": RandomForestClassifier(100, max_depth=10, random_state=0).fit(rows, labels),
    }
    for name, model in models.items():
        (cache / name).mkdir(parents=True, exist_ok=True)
        joblib.dump(model, cache / name / "model.joblib")
        shutil.rmtree(cache / name / "package", ignore_errors=True)
        save_model(model, cache / name / "package", sample_input=rows[:64])
        bodies(cache / name, rows, model)
    (cache / "constant.py").write_text(CONSTANT)
    (cache / "fastapi_app.py").write_text(FASTAPI)
    return {"scikit-learn": sklearn.__version__, "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}


def bodies(folder: Path, rows: Any, model: Any) -> None:
    """The request bodies, and the answers they must get."""
    for count in (1, 100, 1000):
        chosen = rows[[i % len(rows) for i in range(count)]]
        plain = {"instances": chosen.tolist(), "parameters": {"output": "probabilities"}}
        (folder / f"plain-{count}").write_text(json.dumps(plain))
        (folder / f"peer-{count}").write_text(json.dumps({"instances": chosen.tolist()}))
        for wire, output in (("v2", "probabilities"), ("mlserver", "predict_proba")):
            tensor = {
                "name": "input",
                "shape": list(chosen.shape),
                "datatype": "FP64",
                "data": chosen.reshape(-1).tolist(),
            }
            document = {"inputs": [tensor], "outputs": [{"name": output}]}
            (folder / f"{wire}-{count}").write_text(json.dumps(document))
        (folder / f"answers-{count}").write_text(json.dumps(model.predict_proba(chosen).tolist()))


def environment(cache: Path, peer: str) -> str:
    """A virtual environment with the peer and the same scikit-learn; its interpreter."""
    import sklearn

    wanted = {"fastapi": ["fastapi", "uvicorn[standard]", "joblib"], "mlserver": ["mlserver", "mlserver-sklearn"]}[peer]
    folder = cache / f"venv-{peer}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = [*wanted, f"scikit-learn=={sklearn.__version__}"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "done").touch()
    return str(python)


def servers(cache: Path, model: str, pythons: dict[str, str]) -> list[Server]:
    """In the order they are measured."""
    folder = cache / model
    ours = [sys.executable, "-m", "ml_toolbox.runtime.serve", str(folder / "package"), "--name", "m", "--threads", "1"]
    found = [
        Server(
            "constant (limit)",
            [sys.executable, str(cache / "constant.py"), "{port}"],
            "/",
            "plain",
            free_port(),
            checked=False,
        ),
        Server("ml-toolbox", [*ours, "--port", "{port}"], "/v1/models/m:predict", "plain", free_port()),
        Server("ml-toolbox V2", [*ours, "--port", "{port}"], "/v2/models/m/infer", "v2", free_port()),
    ]
    if "fastapi" in pythons:
        command = [pythons["fastapi"], str(cache / "fastapi_app.py"), "{port}", str(folder / "model.joblib")]
        found.append(Server("FastAPI", command, "/predict", "peer", free_port()))
    if "mlserver" in pythons:
        found.append(_mlserver(folder, pythons["mlserver"]))
    return found


def _mlserver(folder: Path, python: str) -> Server:
    port = free_port()
    place = folder / "mlserver"
    place.mkdir(exist_ok=True)
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0, "debug": False,
                "host": "127.0.0.1"}  # fmt: skip
    (place / "settings.json").write_text(json.dumps(settings))
    implementation = "mlserver_sklearn.SKLearnModel"
    document = {"name": "m", "implementation": implementation, "parameters": {"uri": str(folder / "model.joblib")}}
    (place / "model-settings.json").write_text(json.dumps(document))
    command = [str(Path(python).parent / "mlserver"), "start", str(place)]
    return Server("MLServer V2", command, "/v2/models/m/infer", "mlserver", port)


# -- one server --------------------------------------------------------------------------------------------------------


def with_server(server: Server, work: Any) -> None:
    """Start, wait, work, stop."""
    command = [part.format(port=server.port) for part in server.command]
    began = time.monotonic()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    server.process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    try:
        _pin(server.process.pid, 0)
        _wait(server)
        server.started_s = time.monotonic() - began
        work()
    finally:
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.process is not None and server.process.poll() is not None:
            raise SystemExit(f"{server.name} ended with status {server.process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=1):
                if not server.checked or _answered(server):
                    return
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"{server.name} did not start")


def _answered(server: Server) -> bool:
    path = "/v2/health/ready" if server.wire in ("v2", "plain", "mlserver") else "/openapi.json"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _round(server: Server, model: str, seconds: float, measured: Any, facts: Any, cache: Path) -> None:
    folder = cache / model
    worst = max(check(server, folder, rows) for rows in (1, 100, 1000)) if server.checked else 0.0
    tree = _tree(server.process.pid if server.process else 0)
    facts[server.name, model] = (server.started_s, sum(map(_pss_mb, tree)), worst)
    for cell in CELLS:
        if cell.model == model:
            body = (folder / f"{server.wire}-{cell.rows}").read_bytes()
            load(server, body, cell.connections, min(seconds, 0.3))
            before = sum(map(_cpu_s, tree))
            requests, elapsed = load(server, body, cell.connections, seconds)
            used = sum(map(_cpu_s, tree)) - before
            key = (server.name, model, cell.rows, cell.connections)
            measured.setdefault(key, []).append((requests / elapsed, 1e6 * used / max(1, requests)))


def check(server: Server, folder: Path, rows: int) -> float:
    """Largest difference of the server's answers to scikit-learn's."""
    body = (folder / f"{server.wire}-{rows}").read_bytes()
    url = f"http://127.0.0.1:{server.port}{server.path}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        got = json.load(answer)
    expected = [value for row in json.loads((folder / f"answers-{rows}").read_text()) for value in row]
    rows_got = [got["outputs"][0]["data"]] if "outputs" in got else got["predictions"]
    values = [value for row in rows_got for value in row]
    if len(values) != len(expected):
        raise SystemExit(f"{server.name} answered {len(values)} values, {len(expected)} are right")
    worst = float(max(abs(a - b) for a, b in zip(values, expected, strict=True)))
    if worst > 1e-6:
        raise SystemExit(f"{server.name} answers wrongly: off by {worst:g}")
    return worst


# -- load --------------------------------------------------------------------------------------------------------------


def load(server: Server, body: bytes, connections: int, seconds: float) -> tuple[int, float]:
    """Closed loop over keep-alive connections; requests answered and the time they took."""
    if shutil.which("wrk"):
        return _wrk(server, body, connections, seconds)
    head = f"POST {server.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    _pin(os.getpid(), 1)
    selector = selectors.DefaultSelector()
    socks = []
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
        selector.register(sock, selectors.EVENT_READ, _Reader(sock, request))
        sock.sendall(request)
    began = time.perf_counter()
    answered = 0
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(0.1):
            answered += key.data.read()
    for sock in socks:
        sock.close()
    selector.close()
    return answered, now - began


class _Reader:
    """One connection: a whole answer read, the next request sent."""

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self._sock, self._request, self._data = sock, request, b""
        self._whole = -1

    def read(self) -> int:
        self._data = data = self._data + self._sock.recv(262144)
        if self._whole < 0:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return 0
            found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[: end + 2])
            if not data.startswith(b"HTTP/1.1 200") or not found:
                raise SystemExit(f"not an answer: {data[:200]!r}")
            self._whole = end + 4 + int(found[1])
        if len(data) < self._whole:
            return 0
        self._data, self._whole = b"", -1
        self._sock.sendall(self._request)
        return 1


def _wrk(server: Server, body: bytes, connections: int, seconds: float) -> tuple[int, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n')
        script.write(f"wrk.body = [==[{body.decode()}]==]\n")
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name]
        pinned = ["taskset", "-c", "1", *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else command
        said = subprocess.run(
            [*pinned, f"http://127.0.0.1:{server.port}{server.path}"], capture_output=True, text=True, check=True
        )
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", said.stdout)
    if not found or "Non-2xx" in said.stdout or "Socket errors" in said.stdout:
        raise SystemExit(f"wrk: {said.stdout}")
    return int(found[1]), float(found[2]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[3]]


# -- the machine -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _pin(pid: int, core: int) -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def _tree(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_mb(pid: int) -> float:
    found = re.search(r"Pss: *(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(found[1]) / 1024 if found else 0.0


# -- the table ---------------------------------------------------------------------------------------------------------


def table(measured: Any, facts: Any, versions: dict[str, str], rounds: int, seconds: float) -> str:
    """Markdown: medians over the rounds."""
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    client = (
        "wrk"
        if shutil.which("wrk")
        else "the script's own epoll client (Python, one core; it is the limit above about 60,000/s)"
    )
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {said}"
    how = f"{rounds} interleaved round(s) of {seconds:g} s per cell, medians; load by {client}"
    checked = "Answers are `predict_proba` and were compared with scikit-learn before timing"
    lines = [
        "# Serving",
        "",
        "`python benchmarks/serving.py --write`: one core for the server, one for the client.",
        "",
    ]
    lines.append(f"{where}. {how}. {checked}. CPU: microseconds of the server's process tree per request.")
    for model, title in (("LR", "Scaler + logistic regression"), ("RF", "Random forest, 100 trees of depth 10")):
        lines += ["", f"## {title}, 30 features", ""]
        cells = [(cell.rows, cell.connections) for cell in CELLS if cell.model == model]
        heads = [f"{rows} row{'s' if rows > 1 else ''}, {c} conn." for rows, c in cells]
        lines.append(
            "| server | ready s | PSS MB | max diff | " + " | ".join(f"{head}: req/s (CPU us)" for head in heads) + " |"
        )
        lines.append("|---" * (4 + len(heads)) + "|")
        for name in dict.fromkeys(key[0] for key in measured):
            start, memory, worst = facts[name, model]
            row = [name, f"{start:.2f}", f"{memory:.0f}", f"{worst:.1g}"]
            for rows, connections in cells:
                runs = measured[name, model, rows, connections]
                rate, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
                row.append(f"{rate:,.0f} ({cpu:,.1f})")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
