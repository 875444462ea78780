"""A PostgreSQL server of the tests' own, from the system's binaries: one for each test process, a schema for each test.

The server's files lie in a temporary folder, its port is a free one of 127.0.0.1. A small process of ours starts it, and stops
it as soon as the test process has gone, however that ended; so none is left behind. PostgreSQL refuses to run as root: then it
runs as the user ``postgres`` that its package made, or ``nobody``.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ml_toolbox.base.ids import new_ulid

_KEEPER = """
import json, os, shutil, subprocess, sys
order = json.loads(sys.argv[1])
log = open(order["log"], "wb")
server = None
for command in iter(sys.stdin.readline, ""):
    if command == "start\\n":
        server = subprocess.Popen(order["command"], stdout=log, stderr=log, **order["user"])
    elif command == "stop\\n":  # at once, as a crash would
        server.send_signal(3)
        server.wait()
    print("done", flush=True)
if server is not None and server.poll() is None:
    server.send_signal(3)
    server.wait()
shutil.rmtree(order["folder"], ignore_errors=True)
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    _keeper: subprocess.Popen[str]
    _log: Path

    @property
    def url(self) -> str:
        return f"postgresql://mlt:secret@127.0.0.1:{self.port}/postgres"

    def new_schema(self) -> str:
        """The URL of an empty place for one store."""
        import psycopg

        name = f"t_{new_ulid().lower()}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"'.encode())
        return f"{self.url}?options={quote(f'-csearch_path={name}')}"

    def stop(self) -> None:
        """As a crash would: nothing is told to the clients, nothing written at the end."""
        self._tell("stop")

    def start(self) -> None:
        """Returns when it answers."""
        import psycopg

        self._tell("start")
        deadline = time.monotonic() + 60.0
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._keeper.poll() is not None:
                    raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()}") from None
                time.sleep(0.02)

    def _tell(self, word: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{word}\n")
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline() == "done\n", "the server's keeper has died"


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` are; ``None`` when they are not installed."""
    found = shutil.which("initdb")
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    places = [*([Path(found).resolve()] if found else []), *reversed(packaged)]
    return next((place.parent for place in places if (place.parent / "postgres").exists()), None)


def started(*, durable: bool = False) -> Iterator[Server]:
    """A server, stopped when the generator is closed. ``durable``: with real syncs, for what is measured or killed hard."""
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="mlt-pg-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    user = _server_user()
    if user:
        os.chown(folder, user["user"], user["group"])
    password = folder / "password"
    password.write_text("secret")
    words = f"-D {folder}/data -U mlt --pwfile={password} -A scram-sha-256 --locale=C.UTF-8 -E UTF8 -N".split()
    made = subprocess.run([programs / "initdb", *words], capture_output=True, text=True, check=False, cwd="/", **user)
    if made.returncode:
        shutil.rmtree(folder)
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "max_connections": 200}
    if not durable:
        settings |= {"fsync": "off", "full_page_writes": "off"}
    command = [programs / "postgres", "-D", folder / "data", *(f"--{name}={value}" for name, value in settings.items())]
    log = folder / "log"
    order = {"command": list(map(str, command)), "folder": str(folder), "log": str(log), "user": {**user, "cwd": "/"}}
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEPER, json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests; the keeper ends when they have
    )
    server = Server(port, keeper, log)
    try:
        server.start()
        yield server
    finally:
        keeper.communicate(timeout=60)


def _server_user() -> dict[str, Any]:
    """Who runs the server, for ``subprocess``: somebody else when we are root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid}
    raise RuntimeError("root may not run PostgreSQL, and there is neither a user postgres nor nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql (or put its initdb on the PATH)")
    yield from started()


@pytest.fixture
def postgres_url(postgres_server: Server) -> str:
    """An empty place for one store, on the server that this test process shares."""
    return postgres_server.new_schema()
