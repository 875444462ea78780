"""One request and the answer it gets: the object that travels from the connection to the model and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ml_toolbox.runtime.serve.problems import PROBLEM_JSON, REASONS, Refused

if TYPE_CHECKING:
    from ml_toolbox.runtime.serve.connection import Connection
    from ml_toolbox.runtime.serve.model import LoadedVariant

JSON: Final = b"application/json"
_CLOSE: Final = b"Connection: close\r\n"
_KEEP: Final = b"Connection: keep-alive\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code} {reason}\r\n".encode() for code, reason in REASONS.items()}


class Exchange:
    """A request as parsed, and the bytes of its answer once they exist."""

    __slots__ = (
        "body", "close", "connection", "data", "headers", "http10", "method", "path", "query", "started", "target", "variant",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        method: bytes,
        target: bytes,
        headers: Mapping[bytes, bytes],
        body: bytes,
        *,
        started: float,
        close: bool,
        http10: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        """Only those of ``connection.KEPT``, names in lower case."""
        self.body = body
        self.started = started
        """Monotonic time when its last byte was read."""
        self.close = close
        """No further request is answered on this connection."""
        self.http10 = http10
        self.data: bytes | None = None
        self.variant: LoadedVariant | None = None

    def answer(self, body: bytes) -> None:
        """200 with JSON from the chosen variant: the hot path."""
        variant = self.variant
        connection = self.connection
        server = connection.server
        if variant is None or self.close or self.http10 or server.draining or self.method == b"HEAD":
            self.send(200, body)
            return
        variant.metrics.ok += 1
        self.data = b"%b%bContent-Length: %d\r\n\r\n%b" % (variant.head, server.date_line, len(body), body)
        connection.ready(self)

    def send(
        self, status: int, body: bytes = b"", *, content_type: bytes = JSON, extra: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Any answer, in one write."""
        server = self.connection.server
        self.close = self.close or server.draining
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status]
        if body:
            lines.append(b"Content-Type: %b\r\n" % content_type)
        if self.variant is not None:
            lines.append(self.variant.identity_lines)
        for name, value in (extra or {}).items():
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(server.date_line)
        if self.close:
            lines.append(_CLOSE)
        elif self.http10:
            lines.append(_KEEP)
        lines.append(b"Content-Length: %d\r\n\r\n" % len(body))
        if self.method != b"HEAD":
            lines.append(body)
        self.data = b"".join(lines)
        server.count(status, self.variant)
        self.connection.ready(self)

    def refuse(self, refused: Refused) -> None:
        """The problem document of a refusal."""
        extra: dict[bytes, bytes] = {}
        if refused.retry_after_s is not None:
            extra[b"Retry-After"] = b"%d" % refused.retry_after_s
        if refused.allow:
            extra[b"Allow"] = refused.allow.encode()
        body = refused.body(v2=self.path.startswith(b"/v2"))
        self.send(refused.status, body, content_type=PROBLEM_JSON, extra=extra)
