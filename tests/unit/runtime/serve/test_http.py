"""Bytes on the wire: whatever way they come, each request is answered once, in order; what is no request gets a 4xx."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_toolbox.runtime.serve.spec import Limits
from tests.unit.runtime.serve.running import Client, FakePredictor, Running, linear, matrix, request, serving

LIMITS = Limits(max_body=20_000, max_head=2000)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(FakePredictor(matrix(2)), limits=LIMITS) as running:
        yield running


def predict(a: float, b: float, path: str = "/invocations") -> bytes:
    return request("POST", path, {"instances": [[a, b]]})


def chunked(a: float, sizes: list[int]) -> bytes:
    body = b'{"instances":[[%d,2]]}' % a
    chunks, start = [], 0
    for size in sizes:
        piece = body[start : start + size]
        start += size
        if piece:
            chunks.append(b"%x\r\n%b\r\n" % (len(piece), piece))
    if body[start:]:
        chunks.append(b"%x;ext=1\r\n%b\r\n" % (len(body) - start, body[start:]))
    head = b"POST /invocations HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunks) + b"0\r\nTrailer: x\r\n\r\n"


PIECES = st.lists(
    st.one_of(
        st.integers(0, 99).map(lambda n: (predict(n, 2), n + 4.5)),
        st.tuples(st.integers(0, 99), st.lists(st.integers(1, 9), max_size=3)).map(
            lambda pair: (chunked(*pair), pair[0] + 4.5)
        ),
        st.just((request("GET", "/v2/health/live"), None)),
    ),
    min_size=1,
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(PIECES, st.lists(st.integers(1, 400), max_size=12))
def test_requests_split_anywhere_are_answered_in_order(
    server: Running, pieces: list[tuple[bytes, float | None]], cuts: list[int]
) -> None:
    data = b"".join(piece for piece, _ in pieces)
    with server.connect() as client:
        start = 0
        for cut in [*cuts, len(data)]:
            client.send(data[start : start + cut])
            start += cut
        for _, expected in pieces:
            got = client.read()
            assert got.status == 200
            assert got.json == ({"live": True} if expected is None else {"predictions": [expected]})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 5))
def test_broken_bytes_never_hang_the_server_nor_make_it_fail(server: Running, noise: bytes, at: int, cut: int) -> None:
    """A request with bytes replaced: the answers that come are right or 4xx, and the connection ends."""
    good = predict(1, 2)
    data = good[:at] + noise + good[at + cut :]
    with server.connect() as client:
        client.send(data)
        client.sock.shutdown(socket.SHUT_WR)
        while True:
            try:
                got = client.read()
            except ConnectionError:
                break
            assert got.status < 500 or got.status == 501
    assert server.ask("GET", "/ping").status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS on a plain port
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 20001\r\n\r\n", 413),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6000\r\n" + b"x" * 0x6000, 413),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 3000 + b"\r\n\r\n", 431),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\nContent-Length: 3\r\n\r\n", 417),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ],
)
def test_what_is_no_acceptable_request_is_refused_and_the_connection_ends(
    server: Running, data: bytes, status: int
) -> None:
    with server.connect() as client:
        client.send(predict(1, 2) + data)  # what came before is still answered
        assert client.read().json == {"predictions": [5.5]}
        got = client.read()
        assert got.status == status
        assert got.headers["connection"] == "close"
        assert client.closed()


def test_a_header_that_never_ends_is_refused_while_it_comes(server: Running) -> None:
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        for _ in range(200):
            try:
                client.send(b"a" * 100)
            except ConnectionError:
                break
        assert client.read().status == 431


def test_an_oversized_body_can_be_sent_whole_and_still_reads_its_413(server: Running) -> None:
    body = b"x" * 2_000_000
    with server.connect() as client:
        client.send(request("POST", "/predict", body))
        assert client.read().status == 413


def test_expect_continue(server: Running) -> None:
    body = b'{"instances":[[1,2]]}'
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server.connect() as client:
        client.send(predict(3, 2) + head)
        assert client.read().json == {"predictions": [7.5]}
        assert client.read().status == 100
        client.send(body)
        assert client.read().json == {"predictions": [5.5]}


def test_an_upgrade_is_ignored_and_its_body_is_not_taken_for_a_request(server: Running) -> None:
    hidden = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
    data = b"POST /v2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    data += b"Content-Length: %d\r\n\r\n%b" % (len(hidden), hidden)
    for split in (len(data), len(data) - 10, 60):
        with server.connect() as client:
            client.send(data[:split])
            client.send(data[split:] + predict(1, 2))
            assert client.read().status == 405  # POST /v2
            assert client.read().json == {"predictions": [5.5]}


def test_connections_are_kept_or_closed_as_the_client_says(server: Running) -> None:
    with server.connect() as client:
        client.send(b"GET /ping HTTP/1.0\r\n\r\n")
        assert client.read().status == 200
        assert client.closed()
    with server.connect() as client:
        client.send(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert client.read().headers["connection"] == "keep-alive"
        assert client.read().status == 200
    with server.connect() as client:
        client.send(request("POST", "/invocations", {"instances": [[1, 2]]}, connection="close"))
        got = client.read()
        assert (got.json, got.headers["connection"]) == ({"predictions": [5.5]}, "close")
        assert client.closed()


def test_a_client_that_closes_its_side_still_gets_its_answers(server: Running) -> None:
    with server.connect() as client:
        client.send(predict(1, 2) * 3)
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.read().json["predictions"] for _ in range(3)] == [[5.5]] * 3
        assert client.closed()


def test_thousands_of_pipelined_requests_from_a_client_that_reads_late() -> None:
    with serving(FakePredictor(matrix(2)), limits=Limits(max_pipelined=16)) as running, running.connect() as client:
        client.send(b"".join(predict(n, 2) for n in range(3000)))
        for n in range(3000):
            assert client.read().json == {"predictions": [linear_of(n)]}


def linear_of(n: int) -> float:
    import numpy as np

    return float(linear(np.array([[n, 2.0]]))[0])


def _ends(client: Client, within_s: float) -> bool:
    client.sock.settimeout(within_s)
    return client.closed()


def test_slow_and_silent_clients_are_sent_away() -> None:
    limits = Limits(head_timeout_s=0.3, body_timeout_s=0.3, idle_timeout_s=0.3)
    with serving(FakePredictor(matrix(2)), limits=limits) as running:
        with running.connect() as slow_head:
            slow_head.send(b"GET / HT")
            assert slow_head.read().status == 408
        with running.connect() as slow_body:
            slow_body.send(predict(1, 2)[:-5])
            assert slow_body.read().status == 408
        with running.connect() as silent:
            assert _ends(silent, 10)


def test_a_client_that_never_reads_is_cut_off_and_costs_bounded_memory() -> None:
    limits = Limits(write_timeout_s=0.3)
    with serving(FakePredictor(matrix(1)), limits=limits) as running, running.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.setblocking(False)
        assert _cut_off(client.sock, request("GET", "/openapi.json") * 2000, within_s=20)


def _cut_off(sock: socket.socket, data: bytes, within_s: float) -> bool:
    """Send without ever reading, until the server resets the connection."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            sock.send(data)
        except BlockingIOError:
            time.sleep(0.01)
        except ConnectionError:
            return True
    return False


TOKENS = [
    b"\r\n", b"\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"0\r\n\r\n", b"[", b"]", b"{", b"null", b"1e400",
    b"-", b"\x00", b"\xff", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n",
    b"HTTP/1.0", b",", b'"', b"NaN", b"9" * 30, b"[[", b'"parameters":{},',
]  # fmt: skip


def _mutated(rng: random.Random) -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    whole = [
        predict(1, 2),
        chunked(3, [4, 5]),
        request("GET", "/metrics"),
        request("POST", "/v2/models/m/infer", {"id": "a", "inputs": [tensor], "outputs": [{"name": "prediction"}]}),
        request("POST", "/invocations", b"1,2\n3,4\n", content_type="text/csv"),
        request("POST", "/predict", {"features": {"f0": 1, "f1": 2}}),
    ]
    data = bytearray(b"".join(rng.choice(whole) for _ in range(rng.randint(1, 3))))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + rng.randint(0, 8)] = rng.choice(TOKENS)
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.randint(1, 30)]
    return bytes(data)


def test_thousands_of_mutated_requests_get_an_answer_below_500_or_the_end_of_the_connection(server: Running) -> None:
    rng = random.Random(20)
    for _ in range(3000):
        data = _mutated(rng)
        with server.connect() as client:
            try:
                client.send(data)
                client.sock.shutdown(socket.SHUT_WR)
                while True:
                    assert client.read().status in (100, 200, 400, 404, 405, 408, 413, 415, 417, 431, 501), data
            except ConnectionError:
                continue
    assert server.ask("GET", "/ping").status == 200
