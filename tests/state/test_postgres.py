"""What only the PostgreSQL store promises: the server's time, lost connections, lost answers, and messages without secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ml_toolbox.base.errors import BudgetExceeded, Denied, Invalid, Unavailable, Unsupported
from ml_toolbox.engine.rows import Row, Write
from ml_toolbox.state import open_store, postgres
from ml_toolbox.state.postgres import PostgresDatabase, PostgresStore
from ml_toolbox.testing.state import change, never, reserve, row
from tests.postgres import Server, started


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    yield store
    store.close()


@pytest.fixture
def own_server(postgres_server: Server) -> Iterator[Server]:
    """One that a test may stop; the shared one is asked for only because it knows whether there are binaries."""
    yield from started()


def database(store: PostgresStore) -> PostgresDatabase:
    found = store._database
    assert isinstance(found, PostgresDatabase)
    return found


def test_time_is_the_servers(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as skewed:
        skewed.setattr(time, "time", lambda: 1.0)  # this worker's clock is wrong by decades
        assert store.insert(row(due_at=5.0), owner="o", lease_s=30.0).lease_until == pytest.approx(
            store.now() + 30, abs=9
        )
        assert store.claim("a", owner="p", lease_s=9.0, is_dead=never) is None
    assert store.now() == pytest.approx(time.time(), abs=9)
    first = store.now()
    assert store.now() >= first


def test_a_lease_ends_by_the_servers_time(store: PostgresStore) -> None:
    store.insert(row(due_at=5.0), owner="o", lease_s=0.2)
    deadline = time.monotonic() + 30
    while not (found := store.claim_due(["job"], owner="p", lease_s=9.0, is_dead=never, due_before=6.0, limit=1)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert found[0].lease_token == 2


def test_the_store_goes_on_after_the_server_was_started_anew(own_server: Server) -> None:
    store = open_store(own_server.url)
    store.insert(row())
    own_server.stop()
    with pytest.raises(Unavailable) as told:
        store.insert(row("b"))
    assert told.value.retryable
    with pytest.raises(Unavailable):
        store.get("a")
    own_server.start()
    assert store.get("a").id == "a"
    assert store.insert(row("b")).id == "b"
    own_server.stop()
    own_server.start()
    assert store.insert(row("c")).id == "c", "nothing was begun on the connection that lay idle: nobody is bothered"
    assert len(store.find("job")) == 3
    store.close()


class Cut:
    """Loses the connection around a commit: the server's backend goes before the commit is sent, or after it was done."""

    def __init__(self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
        self.left = 1
        honest = postgres._Session.send

        def send(session: Any, *, commit: bool = False) -> None:
            if not commit or not self.left:
                return honest(session, commit=commit)
            self.left -= 1
            if after:
                honest(session, commit=True)
            session.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(postgres._Session, "send", send)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    store.set_limit("all", "running", "", 10)
    Cut(store, monkeypatch, after=after)
    mine = store.insert(row(scopes=("all",)), owner="o", lease_s=9.0, postings=[reserve(1)])
    assert store.get("a") == mine
    Cut(store, monkeypatch, after=after)
    [written] = store.write([Write(row=mine, change=change(message="m", postings=(reserve(1),)))], lease_s=9.0)
    assert store.get("a") == written
    assert [line.message for line in store.history("a")] == ["created", "m"]
    assert len(store.lines()) == 2
    Cut(store, monkeypatch, after=after)
    claimed = store.claim("a", owner="p", lease_s=9.0, is_dead=never)
    assert store.get("a") == claimed
    assert isinstance(claimed, Row)
    assert claimed.lease_token == 2


def test_an_outcome_that_nobody_tells_is_said_to_be_unknown(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(own_server.url)
    monkeypatch.setattr(postgres, "_UNKNOWN_S", 0.3)
    Cut(store, monkeypatch, after=True)
    honest = PostgresDatabase._was_committed

    def with_the_server_gone(self: PostgresDatabase, number: str, lost: psycopg.Error) -> bool:
        own_server.stop()
        return honest(self, number, lost)

    monkeypatch.setattr(PostgresDatabase, "_was_committed", with_the_server_gone)
    with pytest.raises(Unavailable, match="what became of it"):
        store.insert(row())
    store.close()


def test_a_backend_that_is_ended_by_the_administrator_is_replaced(store: PostgresStore, postgres_url: str) -> None:
    store.insert(row())
    with psycopg.connect(postgres_url, autocommit=True) as other:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ml-toolbox'"
        other.execute(ended)
    assert store.wish("a", "stop").wish == "stop"


def test_a_deadlock_is_tried_again(store: PostgresStore) -> None:
    for row_id in "ab":
        store.insert(row(row_id))
    tries: list[str] = []

    def crosswise(first: str, second: str) -> None:
        def body(session: Any) -> None:
            tries.append(first)
            for row_id in (first, second):
                session.rows("SELECT id FROM work WHERE id = :id FOR UPDATE", {"id": row_id})
                time.sleep(0.05)

        database(store).write(body)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(crosswise, "a", "b"), threads.submit(crosswise, "b", "a")]
        for one in both:
            one.result(timeout=30)
    assert len(tries) >= 3


def test_a_holder_that_is_paused_in_a_transaction_loses_it(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PREPARE", "SET idle_in_transaction_session_timeout = '100ms'")
    short = PostgresStore(database(store)._url)
    paused: list[int] = []

    def body(session: Any) -> None:
        session.rows("SELECT 1", {})
        if not paused:
            paused.append(1)
            time.sleep(0.5)  # as a stopped process would
        session.count("INSERT INTO place (place, first_at) VALUES ('x', 1)", {})

    with pytest.raises(Unavailable):
        database(short).write(body)
    assert store.places() == ()
    short.close()


def test_no_message_shows_the_password(own_server: Server) -> None:
    for url, kind in (
        (own_server.url.replace("secret", "wrong%40word"), Unavailable),
        ("postgresql://mlt:wrong%40word@127.0.0.1:1/x", Unavailable),
        ("postgresql://mlt:wrong%40word@[::1/x", Invalid),
        ("mysql://mlt:wrong%40word@h/x", Invalid),
    ):
        with pytest.raises(kind) as told:
            open_store(url)
        for shown in (str(told.value), told.value.resource, str(told.value.to_problem())):
            assert "wrong" not in shown


def test_a_user_without_rights_is_denied(own_server: Server) -> None:
    with psycopg.connect(own_server.url, autocommit=True) as connection:
        connection.execute("CREATE USER guest PASSWORD 'secret'")
    with pytest.raises(Denied, match="42501"):
        open_store(own_server.url.replace("mlt:", "guest:"))


def test_a_server_that_is_too_old_is_said_so(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_OLDEST", 990_000)
    with pytest.raises(Unsupported, match="PostgreSQL"):
        open_store(postgres_url)


def test_a_value_that_does_not_fit_is_invalid(store: PostgresStore) -> None:
    with pytest.raises(Invalid, match="22001"):
        store.insert(row(name="x" * 1000))
    assert store.find("job") == ()


def test_a_newer_schema_is_refused_unless_it_says_that_we_may(postgres_url: str) -> None:
    PostgresStore(postgres_url).close()
    with psycopg.connect(postgres_url, autocommit=True) as raw:
        raw.execute("INSERT INTO schema_version VALUES (99, 0, 2)")
        PostgresStore(postgres_url).close()
        raw.execute("INSERT INTO schema_version VALUES (100, 0, 100)")
        with pytest.raises(Unsupported, match="upgrade"):
            PostgresStore(postgres_url)


def test_many_processes_make_and_use_one_database(postgres_url: str) -> None:
    program = (
        "import os, sys\n"
        "from ml_toolbox.state import open_store\n"
        "from ml_toolbox.testing.state import row\n"
        "store = open_store(sys.argv[1])\n"
        "store.insert(row(f'{sys.argv[2]}-parent'))\n"
        "child = os.fork()\n"
        "for n in range(10):\n"
        "    store.insert(row(f'{sys.argv[2]}-{n}-{child == 0}'))\n"
        "if child == 0:\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "store.get(f'{sys.argv[2]}-parent')\n"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", program, postgres_url, str(n)], env=os.environ, cwd=Path(__file__).parents[2]
        )
        for n in range(4)
    ]
    assert [process.wait(timeout=60) for process in racing] == [0, 0, 0, 0]
    store = open_store(postgres_url)
    assert len(store.find("job")) == 4 * 21
    store.close()


def test_a_refusal_leaves_the_connection_of_use(store: PostgresStore) -> None:
    store.set_limit("all", "cost", "", 1)
    connections = database(store)._connections
    idle = list(connections._idle)
    with pytest.raises(BudgetExceeded):
        store.insert(row(scopes=("all",)), postings=[reserve(2)])
    assert connections._idle == idle
