"""The process: loads what the spec names, listens, keeps watching the spec, and leaves without dropping a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from time import monotonic
from typing import Any

from ml_toolbox.base.errors import Invalid, ToolboxError
from ml_toolbox.runtime.serve.connection import Connection
from ml_toolbox.runtime.serve.exchange import Exchange
from ml_toolbox.runtime.serve.metrics import VariantMetrics
from ml_toolbox.runtime.serve.model import LoadedVariant, Loader, Proven, ServedModel, load_and_prove
from ml_toolbox.runtime.serve.problems import Refused
from ml_toolbox.runtime.serve.routes import Routes
from ml_toolbox.runtime.serve.spec import Limits, ServeSpec, VariantSpec, read_spec

log = logging.getLogger("mlt.serve")

_WATCH_S = 0.2
"""Between two looks at the spec file: one ``stat``, so cheap that no kernel notification is worth its portability."""
VERSION = "1"


class ModelServer:
    """One served model in one event loop. ``loader`` turns a variant's spec into a predictor, off the loop."""

    def __init__(
        self,
        spec: ServeSpec,
        loader: Loader,
        *,
        limits: Limits | None = None,
        replica: str = "0",
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.connections: set[Connection] = set()
        self.version = VERSION
        self.other: dict[int, int] = {}
        self.metrics: dict[str, VariantMetrics] = {}
        self.date_line = b""
        self.model = ServedModel(spec.name)
        self.error = ""
        """Why the spec last seen is not in force; empty when it is."""
        self.wanted = spec.revision
        self._loader = loader
        self._replica = replica
        self._on_change = on_change or (lambda: None)
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._routes = Routes(self.model, self)
        self._listeners: list[asyncio.AbstractServer] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._tick()

    # -- what connections and routes ask -------------------------------------------------------------------------------

    def dispatch(self, exchange: Exchange) -> None:
        """Answer, queue or refuse one request; nothing escapes."""
        try:
            self._routes.dispatch(exchange)
        except Refused as refused:
            exchange.refuse(refused)
        except ToolboxError as error:
            exchange.refuse(Refused.of(error))
        except Exception:  # the edge of the process: one request must not take the connection of others with it
            log.exception("a request could not be handled")
            exchange.refuse(Refused(500, "an internal error; the server's log has more"))

    def count(self, status: int, variant: LoadedVariant | None) -> None:
        if variant is None:
            self.other[status] = self.other.get(status, 0) + 1
        elif status == 200:
            variant.metrics.ok += 1
        else:
            variant.metrics.count(status)

    @property
    def ready(self) -> bool:
        return self.model.ready and not self.draining

    @property
    def listening(self) -> bool:
        return bool(self._listeners)

    def gauges(self) -> dict[str, float]:
        return {"mlt_connections": float(len(self.connections)), "mlt_ready": float(self.ready)}

    def state(self) -> dict[str, Any]:
        """What is really in force, for whoever runs the server."""
        spec = self.model.spec
        return {
            "name": self.model.name,
            "pid": os.getpid(),
            "replica": self._replica,
            "ready": self.ready,
            "draining": self.draining,
            "revision": spec.revision if spec else "",
            "wanted": self.wanted,
            "error": self.error,
            "variants": [
                {
                    "name": variant.spec.name,
                    "model": variant.spec.model,
                    "weight": self.model.weights[variant.spec.name],
                    "engine": variant.predictor.engine,
                }
                for variant in self.model.variants.values()
            ],
        }

    # -- desired state -------------------------------------------------------------------------------------------------

    async def apply(self, spec: ServeSpec) -> None:
        """Bring ``spec`` into force: load and prove what is new beside what serves, then switch in one step. On an error
        what served before goes on serving; the error is raised, and kept for :meth:`state`."""
        self.wanted = spec.revision
        try:
            if spec.name != self.model.name:
                raise Invalid(f"this server serves {self.model.name}; it cannot become {spec.name}", field="name")
            missing = self.model.missing(spec)
            proven = [await self._load(variant) for variant in missing]
        except ToolboxError as error:
            self.error = error.message
            log.error("spec %r is not in force: %s", spec.revision, error)
            self._on_change()
            raise
        new = {variant.name: self._loaded(variant, p) for variant, p in zip(missing, proven, strict=True)}
        self.model.replace(spec, new)
        self.error = ""
        if new:
            gc.collect()
            gc.freeze()  # loaded models live long: the collector need not walk them at every turn
        shares = ", ".join(f"{name} {weight:g}" for name, weight in self.model.weights.items())
        log.info("in force: %s: %s", self.model.name, shares)
        self._on_change()

    async def _load(self, spec: VariantSpec) -> Proven:
        return await self.loop.run_in_executor(self._loading, load_and_prove, self._loader, spec)

    def _loaded(self, spec: VariantSpec, proven: Proven) -> LoadedVariant:
        metrics = VariantMetrics(model=self.model.name, variant=spec.name, version=spec.version, replica=self._replica)
        metrics = self.metrics.setdefault(metrics.labels, metrics)
        return LoadedVariant(spec, proven, metrics, limits=self.limits, loop=self.loop)

    async def watch(self, path: Path, changed: asyncio.Event) -> None:
        """Apply the spec file whenever it changes (or ``changed`` is set), until cancelled. The first look reads it in any
        case: it may have changed while the first models were loading."""
        seen: tuple[int, int, int] | None = None
        while True:
            try:
                await asyncio.wait_for(changed.wait(), _WATCH_S)
                changed.clear()
            except TimeoutError:
                if _mark(path) == seen:
                    continue
            seen = _mark(path)
            try:
                spec = read_spec(path)
                if spec != self.model.spec or self.error:
                    await self.apply(spec)
            except ToolboxError as error:
                if self.error != error.message:
                    self.error = error.message
                    self._on_change()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=4096)
        self._listeners.append(server)

    async def drain(self) -> bool:
        """Accept nothing new, answer what is there, and close. ``False`` when the time limit cut requests off."""
        self.draining = True
        self._on_change()
        await asyncio.sleep(self.limits.drain_accept_s)
        for listener in self._listeners:
            listener.close()
        give_up_at = monotonic() + self.limits.drain_timeout_s
        while self.connections and monotonic() < give_up_at:
            self._sweep()
            await asyncio.sleep(0.02)
        return not any(connection.owes for connection in self.connections)

    def close(self) -> None:
        """Stop timers and threads. For tests that run several servers in one process."""
        if self._ticker is not None:
            self._ticker.cancel()
        for listener in self._listeners:
            listener.close()
        for variant in self.model.variants.values():
            variant.lane.close()
        self._loading.shutdown(wait=False)

    def _tick(self) -> None:
        self.date_line = b"Date: " + formatdate(usegmt=True).encode() + b"\r\n"
        self._sweep()
        self._ticker = self.loop.call_later(1.0, self._tick)

    def _sweep(self) -> None:
        now = monotonic()
        for connection in list(self.connections):
            connection.sweep(now)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is replaced or rewritten."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to ``host:port`` (0: any free one). ``Invalid`` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise Invalid(
            f"cannot listen on {host}:{port}: {error.strerror}", field="port", hint="choose another with --port"
        ) from error
    return sock


def on_signals(loop: asyncio.AbstractEventLoop, *, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """SIGTERM and SIGINT: drain, a second one: end at once. SIGHUP: read the spec again."""

    def stopping() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stopping)
    loop.add_signal_handler(signal.SIGINT, stopping)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
