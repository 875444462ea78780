"""What the tests of local endpoints share: tiny packages, a backend in its own home, and waiting for a state."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ml_toolbox.base.processes import marked
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, Variant
from ml_toolbox.packages import save_model
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.endpoint_folder import EndpointFolder
from ml_toolbox.providers.local.endpoints import LocalEndpointBackend
from ml_toolbox.testing.endpoints import NAME, OWNER, BoundEndpoints, SampleModel

REQUEST = json.dumps({"instances": [[1.0, 2.0]]}).encode()


def answers(body: bytes, constant: float) -> bool:
    """Whether this is the answer of the model that always says ``constant``."""
    (prediction,) = json.loads(body)["predictions"]
    return bool(abs(prediction - constant) < 1e-6)


def make_packages(root: Path) -> Path:
    """Two constant models that answer differently, and one whose files are damaged."""
    from sklearn.linear_model import LinearRegression

    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])
    for name, constant in (("one", 1.0), ("two", 2.0)):
        save_model(LinearRegression().fit(rows, [constant] * 3), root / name, sample_input=rows)
    shutil.copytree(root / "two", root / "broken")
    for path in (root / "broken").rglob("*"):
        if path.is_file() and path.name != "mltoolbox.json":
            path.write_bytes(b"damaged")
    return root


def make_context(home: Path) -> ProviderContext:
    return ProviderContext(home=home, install="suite", settings={})


def bind(context: ProviderContext, packages: Path) -> Iterator[BoundEndpoints]:
    """The backend bound to the suite; afterwards nothing of it may be left."""
    yield BoundEndpoints(
        backend=LocalEndpointBackend(context),
        again=lambda: LocalEndpointBackend(context),
        first=_sample(packages, "one", 1.0),
        second=_sample(packages, "two", 2.0),
        broken=str(packages / "broken"),
    )
    LocalEndpointBackend(context).delete(NAME)
    assert marked(folder_of(context).mark) == set()  # no process is left, whatever the test did


def _sample(packages: Path, name: str, constant: float) -> SampleModel:
    return SampleModel(package=str(packages / name), request=REQUEST, recognises=lambda body: answers(body, constant))


def folder_of(context: ProviderContext, name: str = NAME) -> EndpointFolder:
    return EndpointFolder(context.home / "providers" / "local" / "endpoints" / name)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def serve(bound: BoundEndpoints, **changes: object) -> EndpointSpec:
    spec = EndpointSpec(name=NAME, variants=(Variant(name="v1", package=bound.first.package),), **changes)  # type: ignore[arg-type]
    bound.backend.apply(bound.backend.build(spec, OWNER))
    return spec


def until(backend: EndpointBackend, state: EndpointState, within_s: float = 30.0) -> str:
    deadline = time.monotonic() + within_s
    while (status := backend.observe(NAME)).state is not state:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status.url
