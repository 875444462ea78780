"""``kill -9`` of anything, under load: what serves goes on, what died comes back, nothing half-written is met."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_toolbox.base.processes import ProcessIdentity, marked
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, Variant
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.testing.endpoints import NAME, OWNER, BoundEndpoints
from tests.providers.local.endpoint_fixtures import (
    REQUEST,
    answers,
    bind,
    folder_of,
    make_context,
    make_packages,
    serve,
    until,
)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def context(tmp_path: Path) -> ProviderContext:
    return make_context(tmp_path / "home")


@pytest.fixture
def bound(context: ProviderContext, packages: Path) -> Iterator[BoundEndpoints]:
    yield from bind(context, packages)


class Clients:
    """Keep-alive clients. A connection cut off by a kill is opened again; an answer that is wrong is a fault."""

    def __init__(self, port: int) -> None:
        self.answers = 0
        self.cut = 0
        self.faults: list[object] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/invocations", REQUEST, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
            except ConnectionRefusedError as error:
                self.faults.append(error)  # somebody must always listen
                return
            except (ConnectionError, http.client.HTTPException):
                self.cut += 1
                connection.close()
                continue
            if answer.status == 200 and answers(body, 1.0):
                self.answers += 1
            else:
                self.faults.append((answer.status, body))
        connection.close()

    def more(self, count: int = 50) -> None:
        goal, deadline = self.answers + count, time.monotonic() + 30
        while self.answers < goal:
            assert time.monotonic() < deadline, (self.answers, self.cut, self.faults)
            time.sleep(0.005)


def _servers(context: ProviderContext) -> list[int]:
    return [replica["pid"] for replica in folder_of(context).read_observed()["replicas"] if replica["pid"]]


def test_a_killed_server_comes_back_and_the_others_serve_meanwhile(
    context: ProviderContext,
    bound: BoundEndpoints,
) -> None:
    serve(bound, replicas=2)
    port = int(until(bound.backend, EndpointState.READY).rpartition(":")[2])
    with Clients(port) as clients:
        clients.more()
        for _ in range(3):
            victim = _servers(context)[0]
            os.kill(victim, signal.SIGKILL)
            clients.more()
            deadline = time.monotonic() + 30
            while victim in _servers(context) or bound.backend.observe(NAME).state is not EndpointState.READY:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert clients.faults == []
    assert clients.cut <= 12  # at most each client's one connection per kill


def test_the_only_server_killed_refuses_nobody(context: ProviderContext, bound: BoundEndpoints) -> None:
    serve(bound)
    port = int(until(bound.backend, EndpointState.READY).rpartition(":")[2])
    with Clients(port) as clients:
        clients.more()
        os.kill(_servers(context)[0], signal.SIGKILL)
        clients.more()  # new connections waited in the supervisor's socket until the next server took them
    assert clients.faults == []


def test_servers_die_with_their_supervisor_and_come_back_on_the_same_port_at_the_next_look(
    context: ProviderContext,
    bound: BoundEndpoints,
) -> None:
    serve(bound, replicas=2)
    url = until(bound.backend, EndpointState.READY)
    folder = folder_of(context)
    os.kill(ProcessIdentity.parse(folder.read_observed()["supervisor"]).pid, signal.SIGKILL)
    deadline = time.monotonic() + 1.0
    while marked(folder.mark):
        assert time.monotonic() < deadline, "servers outlived their supervisor by a second"
        time.sleep(0.01)
    seen = bound.backend.observe(NAME)
    assert (seen.state, seen.replicas_ready) == (EndpointState.DEGRADED, 0)
    assert until(bound.backend, EndpointState.READY) == url
    assert answers(bound.backend.invoke(NAME, REQUEST).body, 1.0)


def test_two_looks_at_once_start_one_supervisor(context: ProviderContext, bound: BoundEndpoints) -> None:
    serve(bound)
    until(bound.backend, EndpointState.READY)
    folder = folder_of(context)
    os.kill(ProcessIdentity.parse(folder.read_observed()["supervisor"]).pid, signal.SIGKILL)
    look = (
        "import sys; from pathlib import Path\n"
        "from ml_toolbox.ports.provider import ProviderContext\n"
        "from ml_toolbox.providers.local.endpoints import LocalEndpointBackend\n"
        "context = ProviderContext(home=Path(sys.argv[1]), install='suite', settings={})\n"
        "LocalEndpointBackend(context).observe(sys.argv[2])\n"
    )
    lookers = [subprocess.Popen([sys.executable, "-c", look, str(context.home), NAME]) for _ in range(3)]
    assert [looker.wait(60) for looker in lookers] == [0, 0, 0]
    until(bound.backend, EndpointState.READY)
    assert len(marked(folder.mark)) == 2


APPLIER = """
import itertools, sys
from pathlib import Path
from ml_toolbox.domain.endpoints import EndpointSpec, Variant
from ml_toolbox.ports.jobs import Owner
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.endpoints import LocalEndpointBackend
backend = LocalEndpointBackend(ProviderContext(home=Path(sys.argv[1]), install="suite", settings={}))
owner = Owner(install="suite", row="01endpoint", attempt=1)
print("go", flush=True)
for n in itertools.count():
    weight = float(n % 100)
    first = Variant(name="v1", package=sys.argv[2], weight=100 - weight)
    variants = (first, Variant(name="v2", package=sys.argv[3], weight=weight))
    backend.apply(backend.build(EndpointSpec(name=sys.argv[4], variants=variants), owner))
    if n % 10 == 9:
        backend.delete(sys.argv[4])
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_client_killed_anywhere_leaves_an_endpoint_that_can_be_used_or_deleted(
    seed: int,
    context: ProviderContext,
    bound: BoundEndpoints,
) -> None:
    arguments = [str(context.home), bound.first.package, bound.second.package, NAME]
    applier = subprocess.Popen([sys.executable, "-c", APPLIER, *arguments], stdout=subprocess.PIPE)
    assert applier.stdout is not None
    assert applier.stdout.readline() == b"go\n"
    time.sleep(random.Random(seed).uniform(0.05, 1.0))  # the moment of the kill, any will do
    applier.kill()
    applier.wait()
    applier.stdout.close()
    variant = Variant(name="v1", package=bound.first.package)
    bound.backend.apply(bound.backend.build(EndpointSpec(name=NAME, variants=(variant,)), OWNER))
    until(bound.backend, EndpointState.READY)
    assert answers(bound.backend.invoke(NAME, REQUEST).body, 1.0)
    bound.backend.delete(NAME)
    assert [path.name for path in Path(folder_of(context).root.parent).iterdir()] == []
