"""A network that loses answers, and servers that misbehave: what each call reports is still the truth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from ml_toolbox.base.errors import Conflict, Denied, Invalid, Unavailable, Unsupported
from ml_toolbox.objects import S3Credentials, Secret, StoreSettings, open_store
from ml_toolbox.objects import conditional as conditional_module
from ml_toolbox.objects.conditional import Probe
from ml_toolbox.objects.connecting import client_options
from ml_toolbox.objects.remote import RemoteObjectStore
from ml_toolbox.ports.objects import CreateOnly, IfMatch
from tests.unit.objects.scripted_s3 import Fault, ScriptedS3, scripted_s3

KEYS = S3Credentials(access_key_id="key", secret_access_key=Secret("secret"))


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as state:
        yield state


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_module, "_FIRST_PAUSE_S", 0.001)


def settings(server: ScriptedS3, **more: object) -> StoreSettings:
    return StoreSettings(endpoint=server.endpoint, allow_http=True, credentials=KEYS, **more)  # type: ignore[arg-type]


def trusted(server: ScriptedS3, **more: object) -> RemoteObjectStore:
    """A store whose server has passed the probe already, so that scripts and counts are about the test's own requests."""
    store = open_store("s3://bucket", settings=settings(server, **more))
    assert isinstance(store, RemoteObjectStore)
    store.put("warm-up", b"", mode=CreateOnly())
    server.requests.clear()
    return store


LOST: tuple[Fault, ...] = ("apply-drop", "apply-500")


@pytest.mark.parametrize("fault", LOST)
def test_a_create_whose_answer_was_lost_is_not_a_conflict(server: ScriptedS3, fault: Fault) -> None:
    store = trusted(server)
    server.next("PUT", fault)
    version = store.put("o", b"mine", mode=CreateOnly())
    assert store.head("o").version == version
    assert server.objects["o"][0] == b"mine"
    assert server.count("PUT", "o") == 1  # read back, not sent again


@pytest.mark.parametrize("fault", LOST)
def test_a_swap_whose_answer_was_lost_is_not_a_conflict(server: ScriptedS3, fault: Fault) -> None:
    store = trusted(server)
    first = store.put("o", b"1", mode=CreateOnly())
    server.next("PUT", fault)
    second = store.put("o", b"2", mode=IfMatch(first))
    assert store.head("o").version == second
    with pytest.raises(Conflict):
        store.put("o", b"3", mode=IfMatch(first))


def test_equal_bytes_of_another_writer_do_not_count_as_ours(server: ScriptedS3) -> None:
    store = trusted(server)
    store.put("o", b"same", mode=CreateOnly())
    with pytest.raises(Conflict):
        store.put("o", b"same", mode=CreateOnly())


@pytest.mark.parametrize("swap", [False, True])
def test_an_outcome_that_nobody_can_know_is_neither_success_nor_conflict(server: ScriptedS3, swap: bool) -> None:
    store = trusted(server)
    mode = IfMatch(store.put("o", b"1")) if swap else CreateOnly()
    server.next("PUT", "apply-overwrite-drop")
    with pytest.raises(Unavailable, match="cannot be known"):
        store.put("o", b"mine", mode=mode)


@pytest.mark.parametrize("swap", [False, True])
def test_a_request_that_never_arrived_is_sent_again(server: ScriptedS3, swap: bool) -> None:
    store = trusted(server)
    mode = IfMatch(store.put("o", b"1")) if swap else CreateOnly()
    server.next("PUT", "drop", "drop")
    version = store.put("o", b"mine", mode=mode)
    assert server.objects["o"][0] == b"mine"
    assert store.head("o").version == version


def test_409_with_nothing_stored_is_tried_again(server: ScriptedS3) -> None:
    store = trusted(server)
    server.next("PUT", "409", "409")
    store.put("o", b"mine", mode=CreateOnly())
    assert server.objects["o"][0] == b"mine"
    first = store.head("o").version
    server.next("PUT", "409")
    store.put("o", b"next", mode=IfMatch(first))
    assert server.objects["o"][0] == b"next"


def test_409_without_end_is_unavailable_and_not_a_conflict(server: ScriptedS3) -> None:
    store = trusted(server, retries=2)
    server.next("PUT", "409", "409", "409", "409")
    with pytest.raises(Unavailable):
        store.put("o", b"mine", mode=CreateOnly())


@pytest.mark.parametrize("fault", ["503", "429"])
def test_an_overloaded_server_is_asked_again(server: ScriptedS3, fault: Fault) -> None:
    store = trusted(server)
    server.next("PUT", fault, fault)
    store.put("created", b"1", mode=CreateOnly())
    server.next("PUT", fault)
    store.put("plain", b"2")
    server.next("GET", fault)
    assert store.get("plain").data == b"2"


def test_a_definite_conflict_costs_one_write(server: ScriptedS3) -> None:
    store = trusted(server)
    store.put("o", b"1")
    server.requests.clear()
    with pytest.raises(Conflict):
        store.put("o", b"2", mode=CreateOnly())
    assert server.count("PUT") == 1


@pytest.mark.parametrize("swap", [False, True])
def test_an_answer_without_a_tag(server: ScriptedS3, swap: bool) -> None:
    store = trusted(server)
    mode = IfMatch(store.put("o", b"1")) if swap else CreateOnly()
    server.next("PUT", "apply-no-tag")
    version = store.put("o", b"mine", mode=mode)
    assert version.e_tag
    assert store.head("o").version == version
    server.next("PUT", "apply-no-tag")
    with pytest.raises(Unavailable, match="ETag"):  # without a nonce nobody can say whose object that is
        store.put("o", b"plain")


def test_a_truncated_body_is_completed(server: ScriptedS3) -> None:
    store = trusted(server)
    store.put("o", bytes(range(256)) * 1000)
    server.next("GET", "half")
    assert store.get("o").data == bytes(range(256)) * 1000
    server.next("GET", "half")
    assert b"".join(store.stream("o", chunk_size=100_000)) == bytes(range(256)) * 1000


def test_an_object_replaced_while_it_is_streamed_is_a_conflict(server: ScriptedS3) -> None:
    store = trusted(server)
    store.put("o", b"first" * 10)
    stream = store.stream("o", chunk_size=20)
    assert next(stream) == b"first" * 4
    store.put("o", b"other" * 10)
    with pytest.raises(Conflict):
        list(stream)


def test_refused_credentials_are_denied(server: ScriptedS3) -> None:
    store = trusted(server)
    server.next("GET", "403")
    with pytest.raises(Denied):
        store.get("o")


# time


def test_no_limit_on_a_whole_transfer_only_on_silence() -> None:
    options = client_options(StoreSettings(connect_timeout_s=3, read_timeout_s=45), allow_http=False)
    assert options["timeout"].total_seconds() > 86_400  # the library's default of 30 s ends any longer stream
    assert options["read_timeout"].total_seconds() == 45
    assert options["connect_timeout"].total_seconds() == 3
    assert "read_timeout" not in client_options(StoreSettings(read_timeout_s=0), allow_http=False)


def test_a_slow_stream_outlives_the_read_timeout(server: ScriptedS3) -> None:
    store = trusted(server, read_timeout_s=0.5)
    store.put("o", b"x" * 1000)
    server.next("GET", "drip")  # one second in all
    assert store.get("o").data == b"x" * 1000


def test_silence_ends_in_unavailable(server: ScriptedS3) -> None:
    store = trusted(server, read_timeout_s=0.2, retries=0)
    store.put("o", b"x")
    server.next("GET", "stall")
    with pytest.raises(Unavailable):
        store.get("o")


# servers that ignore conditions


def test_a_server_that_ignores_conditions_is_found_out_and_refused(server: ScriptedS3) -> None:
    server.honours_conditions = False
    store = open_store("s3://bucket/prefix", settings=settings(server))
    store.put("plain", b"works")
    for mode in (CreateOnly(), IfMatch(store.head("plain").version)):
        with pytest.raises(Unsupported, match="ignores conditional writes") as refusal:
            store.put("o", b"x", mode=mode)
        assert "single-writer" in refusal.value.hint
    assert list(server.objects) == ["prefix/plain"]  # the probe has cleaned up
    assert all(one.key.startswith("prefix/") for one in server.requests if one.method == "PUT")


def test_single_writer_mode_is_said_aloud_once_and_still_compares(server: ScriptedS3) -> None:
    server.honours_conditions = False
    store = open_store("s3://bucket", settings=settings(server, on_unconditional="single-writer"))
    with pytest.warns(RuntimeWarning, match="only safe while this process is the only writer"):
        first = store.put("o", b"1", mode=CreateOnly())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Conflict):
            store.put("o", b"2", mode=CreateOnly())
        second = store.put("o", b"2", mode=IfMatch(first))
        with pytest.raises(Conflict):
            store.put("o", b"3", mode=IfMatch(first))
        assert store.head("o").version == second


def test_an_honest_server_is_probed_once(server: ScriptedS3) -> None:
    store = open_store("s3://bucket", settings=settings(server))
    store.put("a", b"", mode=CreateOnly())
    probed = len([one for one in server.requests if ".mlt~probe" in one.key])
    assert probed > 0
    store.put("b", b"", mode=CreateOnly())
    assert len([one for one in server.requests if ".mlt~probe" in one.key]) == probed
    assert list(server.objects) == ["a", "b"]


def test_the_clouds_own_endpoints_are_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    amazon = open_store("s3://bucket")
    assert isinstance(amazon, RemoteObjectStore)
    assert amazon.probe == Probe(needed=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    other = open_store("s3://bucket")
    assert isinstance(other, RemoteObjectStore)
    assert other.probe.needed


def test_plain_http_needs_leave(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://bucket", settings=StoreSettings(endpoint=server.endpoint, credentials=KEYS))
    with pytest.raises(Invalid, match="no TLS") as refusal:
        store.get("o")
    assert "allow_http=True" in refusal.value.hint
    assert server.requests == []
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_store("s3://bucket", settings=StoreSettings(endpoint=server.endpoint, credentials=KEYS)).put("o", b"")
    assert "o" in server.objects
