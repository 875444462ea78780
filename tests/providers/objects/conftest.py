"""The servers behind the bindings: moto for S3, Azurite for Azure. One of each per test process, on a free port."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_toolbox.objects import AzureCredentials, S3Credentials, Secret, StoreSettings

REPOSITORY = Path(__file__).parents[3]
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_LIMIT_S = 60


@dataclass(frozen=True)
class Server:
    endpoint: str
    settings: StoreSettings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Start ``command``, wait until it listens, end it afterwards. A server that dies fails the test with its own words."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("serial_moto.py")), str(port)]
    with running(command, port, tmp_path_factory.mktemp("moto") / "log"):
        endpoint = f"http://127.0.0.1:{port}"
        yield Server(
            endpoint,
            StoreSettings(
                endpoint=endpoint,
                allow_http=True,
                credentials=S3Credentials(access_key_id="test", secret_access_key=Secret("test")),
            ),
        )


def azurite_binary() -> str:
    for place in (os.environ.get("MLT_AZURITE", ""), str(REPOSITORY / "node_modules" / ".bin" / "azurite-blob")):
        if place and (found := shutil.which(place)):
            return found
    pytest.fail(
        "Azurite is not installed: run `npm install` in the repository root, or set MLT_AZURITE to an azurite-blob binary"
    )


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    folder = tmp_path_factory.mktemp("azurite")
    command = [azurite_binary(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data")]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port, folder / "log"):
        endpoint = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
        yield Server(
            endpoint,
            StoreSettings(
                endpoint=endpoint,
                allow_http=True,
                credentials=AzureCredentials(account=AZURITE_ACCOUNT, account_key=Secret(AZURITE_KEY)),
            ),
        )


def create_container(endpoint: str, name: str) -> None:
    """Azure's "Create Container", signed with the account key: the object stores themselves create no containers."""
    date = email.utils.formatdate(usegmt=True)
    canonical = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2021-08-06\n"
        f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(AZURITE_KEY), canonical.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        },
    )
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request):  # 409: it is there already
        pass
