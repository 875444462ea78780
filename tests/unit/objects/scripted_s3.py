"""A very small S3 in memory that fails on command: the next request of a method meets the next fault scripted for it."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = Literal[
    "drop",  # close without doing anything
    "apply-drop",  # do it, then close without an answer
    "apply-500",  # do it, then say 500
    "apply-overwrite-drop",  # do it, let another writer replace it, then close without an answer
    "apply-no-tag",  # do it, and answer without an ETag
    "409",  # ConditionalRequestConflict, nothing stored
    "429",
    "503",
    "403",
    "half",  # send half of the body, then close
    "drip",  # send the body in ten steps of 0.1 s
    "stall",  # send nothing for two seconds
]


@dataclass
class Request:
    method: str
    key: str
    headers: dict[str, str]


@dataclass
class ScriptedS3:
    """The state shared with the test."""

    endpoint: str = ""
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    honours_conditions: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)

    def next(self, method: str, *faults: Fault) -> None:
        self.faults.setdefault(method, deque()).extend(faults)

    def count(self, method: str, key: str = "") -> int:
        return sum(one.method == method and (not key or one.key == key) for one in self.requests)


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _handler(server: ScriptedS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
            return

        def _begin(self) -> tuple[str, bytes, Fault | None]:
            key = unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with server.lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append(Request(self.command, key, headers))
                waiting = server.faults.get(self.command)
                return key, body, waiting.popleft() if waiting else None

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _drop(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _refused(self, fault: Fault | None) -> bool:
            """Whether the fault alone is the answer."""
            if fault == "drop":
                self._drop()
            elif fault in ("409", "429", "503", "403"):
                self._answer(int(fault), b"<Error><Code>Scripted</Code></Error>")
            elif fault == "stall":
                time.sleep(2)
                self._drop()
            else:
                return False
            return True

        def do_PUT(self) -> None:
            key, body, fault = self._begin()
            if self._refused(fault):
                return
            with server.lock:
                old = server.objects.get(key)
                if server.honours_conditions:
                    match = self.headers.get("If-Match")
                    if (self.headers.get("If-None-Match") == "*" and old) or (
                        match and (not old or _tag(old[0]) != match)
                    ):
                        self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                        return
                meta = {
                    name.lower(): value
                    for name, value in self.headers.items()
                    if name.lower().startswith("x-amz-meta-")
                }
                server.objects[key] = (body, meta)
                if fault == "apply-overwrite-drop":
                    server.objects[key] = (b"another's", {"x-amz-meta-mltwrite": "another"})
            if fault in ("apply-drop", "apply-overwrite-drop"):
                self._drop()
            elif fault == "apply-500":
                self._answer(500)
            elif fault == "apply-no-tag":
                self._answer(200)
            else:
                self._answer(200, ETag=_tag(body))

        def do_GET(self) -> None:
            key, _, fault = self._begin()
            if self._refused(fault):
                return
            found = server.objects.get(key)
            if found is None:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            data, meta = found
            headers = {"ETag": _tag(data), "Last-Modified": "Fri, 20 Nov 2026 12:00:00 GMT"}
            headers |= {name.replace("-", "_"): value for name, value in meta.items()}
            if (match := self.headers.get("If-Match")) and match != _tag(data):
                self._answer(412)
                return
            status = 200
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(asked[1]), int(asked[2] or len(data)) + 1
                if start >= len(data):
                    self._answer(416)
                    return
                headers["Content-Range"] = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
                data, status = data[start:end], 206
            if fault == "half":
                self._answer(status, data[: len(data) // 2], Content_Length=str(len(data)), **headers)
                self._drop()
            elif fault == "drip":
                step = -(-len(data) // 10)
                self._answer(status, b"", Content_Length=str(len(data)), **headers)
                for at in range(0, len(data), step):
                    time.sleep(0.1)
                    self.wfile.write(data[at : at + step])
                    self.wfile.flush()
            elif self.command == "HEAD":
                self._answer(status, b"", Content_Length=str(len(data)), **headers)
            else:
                self._answer(status, data, **headers)

        do_HEAD = do_GET

        def do_DELETE(self) -> None:
            key, _, fault = self._begin()
            if not self._refused(fault):
                server.objects.pop(key, None)
                self._answer(204)

    return Handler


@contextmanager
def scripted_s3(prepare: Callable[[ScriptedS3], None] | None = None) -> Iterator[ScriptedS3]:
    state = ScriptedS3()
    if prepare is not None:
        prepare(state)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    http.daemon_threads = True
    state.endpoint = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
