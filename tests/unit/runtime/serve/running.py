"""A model server in a thread of the test, with models made of numpy, and a raw client that controls every byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from ml_toolbox.packages.manifest import ColumnSpec, Signature
from ml_toolbox.runtime.serve.model import Loaded
from ml_toolbox.runtime.serve.server import ModelServer, bound_socket
from ml_toolbox.runtime.serve.spec import Limits, ServeSpec, VariantSpec

Array = NDArray[Any]


def matrix(width: int, *, dtype: str = "float64", nullable: Sequence[str] = ()) -> Signature:
    """``f0`` ... of one dtype, answering a prediction and two probabilities."""
    names = [f"f{i}" for i in range(width)]
    return Signature(
        layout="matrix",
        inputs=tuple(ColumnSpec(name=name, dtype=dtype, nullable=name in nullable) for name in names),
        outputs=(
            ColumnSpec(name="prediction", dtype="float64"),
            ColumnSpec(name="probabilities", dtype="float64", shape=(2,)),
        ),
    )


def mixed() -> Signature:
    """One text, one integer, one nullable number, one truth value."""
    return Signature(
        layout="columns",
        inputs=(
            ColumnSpec(name="city", dtype="string"),
            ColumnSpec(name="rooms", dtype="int64"),
            ColumnSpec(name="area", dtype="float64", nullable=True),
            ColumnSpec(name="new", dtype="bool"),
        ),
        outputs=(ColumnSpec(name="prediction", dtype="float64"),),
    )


def linear(batch: Array) -> Array:
    """A prediction that differs for nearly every row: the sum of the values weighted by position, plus one half."""
    return batch @ np.arange(1, batch.shape[1] + 1, dtype=np.float64) + 0.5


@dataclass
class FakePredictor:
    """Answers by a function of the batch; remembers the sizes of its batches."""

    signature: Signature
    function: Callable[[Any], Array] = linear
    engine: str = "numpy"
    releases_gil: bool = False
    batches: list[int] = field(default_factory=list)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.signature.outputs)

    def __call__(self, batch: Any, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        prediction = self.function(batch)
        self.batches.append(len(prediction))
        share = 1 / (1 + np.abs(prediction.astype(np.float64)))
        every = {"prediction": prediction, "probabilities": np.stack([share, 1 - share], axis=1)}
        return {name: every[name] for name in outputs or self.outputs}


class Running:
    """A server in its own thread and loop."""

    def __init__(self, server: ModelServer, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.server = server
        self.loop = loop
        self.port = port

    def apply(self, spec: ServeSpec) -> None:
        asyncio.run_coroutine_threadsafe(self.server.apply(spec), self.loop).result(30)

    def drain(self) -> bool:
        return asyncio.run_coroutine_threadsafe(self.server.drain(), self.loop).result(30)

    def connect(self) -> Client:
        return Client(self.port)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a fresh connection; a non-bytes body is sent as JSON."""
        with self.connect() as client:
            client.send(request(method, path, body, **headers))
            return client.read(head=method == "HEAD")


@contextmanager
def serving(
    predictors: FakePredictor | dict[str, FakePredictor],
    *,
    weights: dict[str, float] | None = None,
    limits: Limits | None = None,
    name: str = "m",
) -> Iterator[Running]:
    """A running server over predictors by package name."""
    loaded = predictors if isinstance(predictors, dict) else {"v1": predictors}
    loop = uvloop.new_event_loop()
    started: list[Running] = []

    async def start() -> None:
        spec = spec_of({key: (weights or {}).get(key, 100.0) for key in loaded}, name=name)
        server = ModelServer(spec, lambda variant: Loaded(loaded[variant.package]), limits=limits)
        await server.apply(spec)
        sock = bound_socket("127.0.0.1", 0)
        await server.listen(sock)
        started.append(Running(server, loop, sock.getsockname()[1]))

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield started[0]
    finally:
        asyncio.run_coroutine_threadsafe(_close(started[0].server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _close(server: ModelServer) -> None:
    server.close()
    for connection in list(server.connections):
        connection._abort()
    await asyncio.sleep(0)


def spec_of(weights: dict[str, float], *, name: str = "m", revision: str = "1", model: str = "m") -> ServeSpec:
    """A spec whose packages are named like its variants."""
    variants = tuple(
        VariantSpec(name=key, package=key, model=f"{model}:{i}", weight=weight)
        for i, (key, weight) in enumerate(weights.items(), 1)
    )
    return ServeSpec(name=name, variants=variants, revision=revision)


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The bytes of one request; ``content_type="text/csv"`` becomes ``Content-Type: text/csv``."""
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    if body is not None:
        lines.append(f"Content-Length: {len(payload)}")
        headers.setdefault("content_type", "application/json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One TCP connection that reads whole answers."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, *, head: bool = False) -> Answer:
        """The next answer; ``ConnectionError`` when the server closes before it is whole."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        top, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = 0 if head else int(headers.get("content-length", 0))
        while len(self._buffer) < size:
            self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(first.split()[1]), headers, body)

    def closed(self) -> bool:
        """Whether the server ends the connection (waits for it up to the socket's time-out)."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionError("closed by the server")
        self._buffer += data
