"""HTTP/1.1 on one connection: llhttp parses, answers leave in the order of the requests, nobody can hold us up.

A message llhttp refuses (both lengths, a repeated length, odd line ends, ...) ends the connection after its 400: what
follows such bytes cannot be trusted to be a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from ml_toolbox.runtime.serve.exchange import CONTINUE, Exchange
from ml_toolbox.runtime.serve.problems import Refused
from ml_toolbox.runtime.serve.spec import Limits

if TYPE_CHECKING:
    from ml_toolbox.runtime.serve.model import LoadedVariant

KEPT: Final = frozenset({b"content-type", b"accept", b"x-mlt-variant", b"content-length", b"expect", b"host"})
_LINGER_S: Final = 2.0
"""How long input is read and thrown away after a final error, so that the client can still read that error: closing
with unread input would make the kernel send a reset, which discards the answer."""
_LINGER_BYTES: Final = 256 * 1024 * 1024


class Server(Protocol):
    """What a connection needs of the process."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    draining: bool
    date_line: bytes
    connections: set[Connection]

    def dispatch(self, exchange: Exchange) -> None: ...

    def count(self, status: int, variant: LoadedVariant | None) -> None: ...


class _Stop(Exception):
    """Raised in a parser callback to stop parsing; the reason is in ``Connection._refused``."""


class Connection(asyncio.Protocol):
    """Parser callbacks (``on_*``), transport callbacks, and the queue of unanswered requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._now = monotonic()
        self._quiet_since = self._now
        self._began: float | None = None
        """When the request now being read began; ``None`` between requests."""
        self._in_head = False
        self._head_size = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._refused: Refused | None = None
        self._fed = 0
        self._began_in_feed = -1
        self._raw_left: int | None = None
        """Bytes of body still to come of a request with an ``Upgrade`` header, which the parser leaves to us."""
        self._deaf = False
        """Input is thrown away: the connection ends with the answers it still owes."""
        self._discarded = 0
        self._linger_until: float | None = None
        self._stalled_since: float | None = None
        self._reading = True
        self._eof = False

    # -- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._queue.clear()
        self.server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discarded += len(data)
            if self._discarded > _LINGER_BYTES:
                self._abort()
            return
        self._now = self._quiet_since = monotonic()
        self._fed += 1
        self._feed(data)
        if self._in_head and self._began_in_feed != self._fed:
            self._head_size += len(data)
            if self._head_size > self.server.limits.max_head:
                self._end_with(Refused(431, "the request line and headers are too large"))

    def eof_received(self) -> bool:
        self._eof = True
        self._deaf = True
        return bool(self._queue)  # the client may have closed its side only and still wait for answers

    def pause_writing(self) -> None:
        self._stalled_since = monotonic()
        self._read_or_wait()

    def resume_writing(self) -> None:
        self._stalled_since = None
        self._read_or_wait()

    # -- parser ---------------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        while data:
            if self._raw_left is not None:
                data = self._feed_raw(data)
                continue
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._deaf:
                    return
            except httptools.HttpParserError as error:
                self._end_with(self._refused or Refused(400, f"not an HTTP/1.1 request: {error}"))
                return

    def _feed_raw(self, data: bytes) -> bytes:
        left = self._raw_left or 0
        self._parts.append(data[:left])
        self._raw_left = left - len(self._parts[-1])
        if self._raw_left == 0:
            self._raw_left = None
            self._complete(close=False, http10=False)
        return data[left:]

    def on_message_begin(self) -> None:
        self._began = self._now
        self._began_in_feed = self._fed
        self._in_head = True
        self._head_size = 0
        self._target = b""
        self._headers = {}
        self._parts = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if not self._in_head:
            return  # a trailer: read, counted, not believed
        name = name.lower()
        if name in KEPT:
            if name in self._headers and name != b"accept":
                raise self._stop(Refused(400, f"the header {name.decode()} is there twice"))
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        limits, headers = self.server.limits, self._headers
        if self._head_size > limits.max_head:
            raise self._stop(Refused(431, "the request line and headers are too large"))
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise self._stop(Refused(400, "HTTP/1.1 or 1.0 is needed"))
        if b"host" not in headers and version == "1.1":
            raise self._stop(Refused(400, "the header host is missing"))
        if int(headers.get(b"content-length") or 0) > limits.max_body:
            raise self._stop(too_large(limits))
        if b"expect" in headers:
            if headers[b"expect"].lower() != b"100-continue":
                raise self._stop(Refused(417, "only 100-continue can be expected"))
            self._send_continue()

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self.server.limits.max_body:
            raise self._stop(too_large(self.server.limits))
        self._parts.append(part)

    def on_message_complete(self) -> None:
        parser = self._parser
        http10 = parser.get_http_version() == "1.0"
        if parser.should_upgrade():
            self._complete_upgrade()
            return
        self._complete(close=not parser.should_keep_alive(), http10=http10)

    def _complete_upgrade(self) -> None:
        """No protocol is offered, so the request is answered as plain HTTP/1.1, as RFC 9110 section 7.8 wants. llhttp
        hands its body over unread; Java's HttpClient sends such requests for every first POST."""
        length = self._headers.get(b"content-length")
        if self._parser.get_method() == b"CONNECT":
            raise self._stop(Refused(501, "this server is no proxy"))
        if length is not None and int(length) > 0:
            self._raw_left = int(length)
            return
        # Without a length there is no body, or a chunked one that is not parsed here: nothing after it is believed.
        self._complete(close=True, http10=False)
        self._deaf = True

    def _complete(self, *, close: bool, http10: bool) -> None:
        parts = self._parts
        body = b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._began = None
        exchange = Exchange(
            self,
            self._parser.get_method(),
            self._target,
            self._headers,
            body,
            started=self._now,
            close=close,
            http10=http10,
        )
        self._queue.append(exchange)
        if len(self._queue) >= self.server.limits.max_pipelined:
            self._read_or_wait()
        if close:
            self._deaf = True
        self.server.dispatch(exchange)

    def _stop(self, refused: Refused) -> _Stop:
        self._refused = refused
        return _Stop()

    def _send_continue(self) -> None:
        if not self._queue:
            self._write(CONTINUE)
            return
        interim = Exchange(self, b"", b"", {}, b"", started=self._now, close=False, http10=False)
        interim.data = CONTINUE
        self._queue.append(interim)

    # -- answers --------------------------------------------------------------------------------------------------

    def ready(self, exchange: Exchange) -> None:
        """``exchange.data`` is there: write it and all ready ones behind it, if it is its turn."""
        queue = self._queue
        if not queue or queue[0] is not exchange:
            return
        queue.popleft()
        data = exchange.data or b""
        while queue and queue[0].data is not None and not exchange.close:
            exchange = queue.popleft()
            data += exchange.data or b""
        self._quiet_since = self._now
        self._write(data)
        if exchange.close:
            self._finish()
        elif self._eof and not queue:
            self._close()
        elif not self._reading:
            self._read_or_wait()

    def _end_with(self, refused: Refused) -> None:
        """The last answer of this connection, after those still owed."""
        if self._deaf:
            return
        self._deaf = True
        self._in_head = False
        self._began = None
        method, target = b"", self._target
        exchange = Exchange(self, method, target, {}, b"", started=self._now, close=True, http10=False)
        self._queue.append(exchange)
        exchange.refuse(refused)

    def _finish(self) -> None:
        self._queue.clear()
        if self._transport is None or self._transport.is_closing():
            return
        if self._eof or not self._transport.can_write_eof():
            self._close()
            return
        self._deaf = True
        self._linger_until = monotonic() + _LINGER_S
        self._reading = True
        self._transport.resume_reading()
        self._transport.write_eof()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _read_or_wait(self) -> None:
        wanted = self._stalled_since is None and len(self._queue) < self.server.limits.max_pipelined
        if wanted == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- time -----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called about once a second: enforce the time limits."""
        limits = self.server.limits
        if self._linger_until is not None:
            if now > self._linger_until:
                self._abort()
        elif self._stalled_since is not None and now - self._stalled_since > limits.write_timeout_s:
            self._abort()
        elif self._began is not None:
            allowed = limits.head_timeout_s if self._in_head else limits.body_timeout_s
            if now - self._began > allowed:
                self._now = now
                self._end_with(Refused(408, "the request did not arrive in time"))
        elif not self._queue:
            quiet_s = limits.drain_idle_s if self.server.draining else limits.idle_timeout_s
            if now - self._quiet_since > quiet_s:
                self._close()

    @property
    def owes(self) -> int:
        """Requests not answered yet, counting one that is being read."""
        return len(self._queue) + (self._began is not None)


def too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.max_body} bytes", field="body")
