"""The local endpoint backend keeps every promise of the port, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.base.processes import marked
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, Variant
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.endpoint_folder import EndpointFolder, LogWriter, read_log
from ml_toolbox.providers.local.endpoint_sockets import SharedPort
from ml_toolbox.providers.local.endpoint_status import status_of
from ml_toolbox.providers.local.endpoint_supervisor import SILENCE_READY_S, Replica, Supervisor, restart_delay_s
from ml_toolbox.testing.endpoints import NAME, OWNER, BoundEndpoints, EndpointBackendTests
from tests.providers.local.endpoint_fixtures import (
    REQUEST,
    answers,
    bind,
    folder_of,
    free_port,
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


class TestLocalEndpoints(EndpointBackendTests):
    port = free_port()

    @pytest.fixture
    def bound(self, bound: BoundEndpoints) -> BoundEndpoints:
        return bound


def test_delete_leaves_no_process_no_port_and_no_file(context: ProviderContext, bound: BoundEndpoints) -> None:
    serve(bound, replicas=2)
    port = int(until(bound.backend, EndpointState.READY).rpartition(":")[2])
    folder = folder_of(context)
    assert len(marked(folder.mark)) == 3  # the supervisor and two servers
    bound.backend.delete(NAME)
    assert marked(folder.mark) == set()
    assert os.listdir(folder.root.parent) == []
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_fixed_port_that_is_taken_is_said_and_taken_once_free(bound: BoundEndpoints) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serve(bound, port=port)
        until(bound.backend, EndpointState.FAILED)
        assert str(port) in bound.backend.observe(NAME).message
    assert until(bound.backend, EndpointState.READY).endswith(f":{port}")


def test_file_uris_are_folders_and_other_places_are_refused(bound: BoundEndpoints) -> None:
    def spec(package: str) -> EndpointSpec:
        return EndpointSpec(name=NAME, variants=(Variant(name="v1", package=package),))

    request = bound.backend.build(spec(f"file://{bound.first.package}"), OWNER)
    assert request.body["variants"][0]["package"] == bound.first.package
    for package in ("s3://bucket/model", "relative/folder", "file://elsewhere/model"):
        with pytest.raises(Unsupported, match="not a folder on this machine"):
            bound.backend.build(spec(package), OWNER)
    with pytest.raises(Invalid):
        bound.backend.apply(bound.backend.build(spec("/no/such/folder"), OWNER))


def test_a_package_written_anew_under_its_path_is_served_anew(
    bound: BoundEndpoints, packages: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    shutil.copytree(packages / "one", place)
    spec = EndpointSpec(name=NAME, variants=(Variant(name="v1", package=str(place)),))
    bound.backend.apply(bound.backend.build(spec, OWNER))
    until(bound.backend, EndpointState.READY)
    shutil.rmtree(place)
    shutil.copytree(packages / "two", place)
    bound.backend.apply(bound.backend.build(spec, OWNER))
    until(bound.backend, EndpointState.READY)
    assert answers(bound.backend.invoke(NAME, REQUEST).body, 2.0)


def test_a_server_over_its_memory_is_ended_and_the_reason_shown(bound: BoundEndpoints) -> None:
    from ml_toolbox.domain.jobs import Resources

    serve(bound, resources=Resources(memory_gib=0.001))
    deadline = time.monotonic() + 30
    while "memory" not in bound.backend.observe(NAME).message:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_log_is_cut_into_pieces_and_the_oldest_are_removed(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, piece_bytes=1000, keep=3)
    cursor, seen = "", []
    for n in range(200):
        writer.write("o", [f"line {n}"])
        if n % 7 == 0:
            chunk = read_log(tmp_path, cursor, ended=False)
            seen += [line.text for line in chunk.lines]
            cursor = chunk.cursor
    seen += [line.text for line in read_log(tmp_path, cursor, ended=False).lines]
    assert seen == [f"line {n}" for n in range(200)]  # a reader that keeps up misses nothing
    assert len(os.listdir(tmp_path)) == 3
    late = [line.text for line in read_log(tmp_path, "1:0", ended=False).lines]
    assert late[-1] == "line 199"
    assert len(late) < 200  # and a late one goes on with what is left


def test_a_line_being_written_is_not_handed_out_before_its_end(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.write("e", ["whole"])
    with next(tmp_path.iterdir()).open("ab") as piece:
        piece.write(b"1.0 o ha")
        piece.flush()
        chunk = read_log(tmp_path, "", ended=False)
        assert [line.text for line in chunk.lines] == ["whole"]
        piece.write(b"lf\n")
    assert [line.text for line in read_log(tmp_path, chunk.cursor, ended=False).lines] == ["half"]


def test_restarts_grow_slower_but_never_stop() -> None:
    delays = [restart_delay_s(n) for n in range(1, 50)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == 15.0


def _replica(revision: str, *, ready: bool = True, error: str = "", failures: int = 0, weight: float = 100) -> object:
    variants = [{"name": "v1", "model": "m:1", "weight": weight}] if ready else []
    return {"slot": 0, "pid": 1, "ready": ready, "revision": revision, "wanted": "b", "variants": variants, "error": error,
            "failures": failures, "restarts": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "served", "state"),
    [
        ([], False, EndpointState.CREATING),
        ([_replica("", ready=False)], False, EndpointState.CREATING),
        ([_replica("", ready=False, failures=3)], False, EndpointState.FAILED),
        ([_replica("", ready=False, failures=1)], True, EndpointState.DEGRADED),
        ([_replica("a")], True, EndpointState.UPDATING),
        ([_replica("a", error="bad package")], True, EndpointState.DEGRADED),
        ([_replica("b")], True, EndpointState.UPDATING),  # the second replica has not been started yet
        ([_replica("b"), _replica("a")], True, EndpointState.UPDATING),
        ([_replica("b"), _replica("", ready=False, failures=1)], True, EndpointState.DEGRADED),
        ([_replica("b"), _replica("b")], True, EndpointState.READY),
        ([_replica("b"), _replica("b"), _replica("b")], True, EndpointState.UPDATING),
    ],
)
def test_the_state_follows_from_wish_and_sight(replicas: list[object], served: bool, state: EndpointState) -> None:
    body = {"replicas": 2, "variants": [{"name": "v1", "model": "m:1", "weight": 100}]}
    request = {"body": body, "revision": "b"}
    observed = {"replicas": replicas, "served": served, "port": 1234, "error": ""}
    assert status_of(request, observed, supervised=True, deleting=False).state is state
    assert status_of(request, observed, supervised=True, deleting=True).state is EndpointState.DELETING
    dead = status_of(request, observed, supervised=False, deleting=False)
    assert dead.state is (EndpointState.DEGRADED if served else EndpointState.CREATING)
    assert dead.replicas_ready == 0


def test_a_server_that_hangs_is_killed(tmp_path: Path) -> None:
    folder = EndpointFolder(tmp_path)
    supervisor = Supervisor(folder)
    replica = Replica(0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        replica.process = process
        replica.hear(['{"ready": true, "revision": "a"}'])
        supervisor._replicas[0] = replica
        supervisor._judge()
        assert process.poll() is None  # it has just been heard
        replica.heard_at -= SILENCE_READY_S + 1
        supervisor._judge()
        assert process.wait(10) == -signal.SIGKILL
    assert replica.error == "the server hung"


def test_a_port_somebody_shares_is_not_joined() -> None:
    first = SharedPort(None)
    try:
        with pytest.raises(OSError, match="in use"):
            SharedPort(first.port)
    finally:
        first.close()


def test_new_connections_go_to_the_chosen_slots_only() -> None:
    shared = SharedPort(None)
    try:
        listeners = [shared.socket_of(slot) for slot in range(3)]
        for chosen in ([0, 2], [1], [0, 1, 2], []):
            assert shared.choose(chosen)
            clients = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(40)]
            accepted = [_accept_all(listener) for listener in listeners]
            assert [slot for slot, count in enumerate(accepted) if count] == (chosen or [0, 1, 2])
            assert sum(accepted) == 40
            for client in clients:
                client.close()
        shared.keep(1)
        assert shared.choose([0])
        assert len(shared._sockets) == 1
    finally:
        shared.close()


def _accept_all(listener: socket.socket) -> int:
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1
