"""``EndpointBackend`` on this machine: one supervisor process per endpoint, its servers sharing one port.

The wish is a file; writing it is all that ``apply`` does besides making sure that a supervisor lives. Nothing here waits
for a model to load.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ml_toolbox.base.errors import MissingExtra, NotFound, NotYet, Unavailable, Unsupported
from ml_toolbox.base.ids import check_name, digest, nonce
from ml_toolbox.base.locks import exclusive
from ml_toolbox.base.processes import MARK_VARIABLE, ProcessIdentity, kill_until_gone, supported
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointStatus
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation, needs
from ml_toolbox.ports.jobs import Idempotency, LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking, declared_reason
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.endpoint_folder import EndpointFolder, read_log
from ml_toolbox.providers.local.endpoint_status import status_of
from ml_toolbox.providers.local.lacks import ENDPOINTS as LACKS
from ml_toolbox.providers.local.price import price_per_hour
from ml_toolbox.runtime import served
from ml_toolbox.runtime.job import write_json

_STOP_S: Final = 30.0
"""How long ``delete`` lets servers finish their requests before it kills."""
_START_S: Final = 20.0
"""Longest wait for a supervisor's first sign of life; it takes about 0.1 s on an idle machine."""


class LocalEndpointBackend:
    """Endpoints below ``context.home / providers / local / endpoints``."""

    name = "local"
    lacks: Lacking = LACKS
    idempotency = Idempotency(kind="name", visibility_window_s=0.0)

    def __init__(self, context: ProviderContext) -> None:
        self._root = context.home / "providers" / "local" / "endpoints"
        self._locks = context.home / "providers" / "local" / "endpoint-locks"
        self._started: set[int] = set()
        self._price = price_per_hour(context.settings)

    # -- the request ----------------------------------------------------------------------------------------------------

    def refuses(self, spec: EndpointSpec) -> str | None:
        return declared_reason(LACKS, needs(spec)) or served.refuses(spec)

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        if self.refuses(spec) is not None:
            return ()
        return (
            Offer(
                backend=self.name,
                instance_type="this-machine",
                vcpus=float(os.cpu_count() or 1),
                price_hourly=self._price,
            ),
        )

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        reason = self.refuses(spec)
        if reason is not None:
            raise Unsupported(f"local cannot serve {spec.name}: {reason}", provider=self.name, resource=spec.name)
        resources = {"cpus": spec.resources.cpus, "memory_gib": spec.resources.memory_gib}
        body = {**served.order(spec), "port": spec.port, "resources": resources}
        return EndpointRequest.of(spec, owner, body)

    def apply(self, request: EndpointRequest) -> None:
        _need_serving_extra()
        body = served.with_digests(request.body)
        folder = self._folder(request.name)
        wish = {"body": body, "tags": dict(request.tags), "revision": digest(body)}
        with exclusive(self._lock(request.name)):
            if folder.deleting.exists():
                self._remove(request.name, folder)
            if folder.read_request() != wish:
                folder.logs.mkdir(parents=True, exist_ok=True)
                write_json(str(folder.request), wish, durable=True)
            self._ensure_supervised(folder)

    # -- what is there ----------------------------------------------------------------------------------------------------

    def observe(self, endpoint: str) -> EndpointStatus:
        folder = self._folder(endpoint)
        request = self._wish(endpoint, folder)
        deleting = folder.deleting.exists()
        supervised = folder.supervised()
        status = status_of(request, folder.read_observed(), supervised=supervised, deleting=deleting)
        if not supervised and not deleting:
            with exclusive(self._lock(endpoint)):
                if folder.request.exists() and not folder.deleting.exists():
                    self._ensure_supervised(folder)
        return status

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        status = self.observe(endpoint)
        return served.ask(endpoint, status, body, content_type=content_type, variant=variant, timeout_s=timeout_s)

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        folder = self._folder(endpoint)
        self._wish(endpoint, folder)
        return read_log(folder.logs, cursor, ended=False)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        for name in sorted(os.listdir(self._root)) if self._root.is_dir() else []:
            if name.startswith("."):
                continue
            request = self._folder(name).read_request()
            if request is not None and tags.items() <= request["tags"].items():
                yield name, request["tags"]

    # -- the end ----------------------------------------------------------------------------------------------------------

    def delete(self, endpoint: str) -> None:
        folder = self._folder(endpoint)
        with exclusive(self._lock(endpoint)):
            if folder.root.exists():
                folder.deleting.touch()
                self._remove(endpoint, folder)

    def _remove(self, endpoint: str, folder: EndpointFolder) -> None:
        """Stop the processes, politely first, and make the folder disappear in one step."""
        self._stop_supervisor(folder)
        if not kill_until_gone(folder.mark):
            raise NotYet(f"processes of endpoint {endpoint} are still ending", provider=self.name, resource=endpoint)
        gone = self._root / f".gone-{nonce()}"
        os.rename(folder.root, gone)
        shutil.rmtree(gone, ignore_errors=True)
        for left in self._root.glob(".gone-*"):  # of a delete that was killed here
            shutil.rmtree(left, ignore_errors=True)

    def _stop_supervisor(self, folder: EndpointFolder) -> None:
        supervisor = folder.read_observed().get("supervisor")
        if supervisor is not None:
            known = ProcessIdentity.parse(supervisor)
            if not known.is_gone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(known.pid, signal.SIGTERM)
        # The mark of deletion ends a supervisor too that has not written who it is.
        deadline = time.monotonic() + _STOP_S
        while folder.supervised() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._reap()

    # -- processes --------------------------------------------------------------------------------------------------------

    def _ensure_supervised(self, folder: EndpointFolder) -> None:
        """Start a supervisor unless one lives. Called with the endpoint's lock held."""
        self._reap()
        if folder.supervised():
            return
        if not supported():
            raise Unsupported("local endpoints need /proc to tell living processes from dead ones", provider=self.name)
        folder.logs.mkdir(parents=True, exist_ok=True)
        errors = str(folder.root / "supervisor.err")
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "ml_toolbox.providers.local.endpoint_supervisor", str(folder.root)],
            {**os.environ, MARK_VARIABLE: folder.mark},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._started.add(pid)
        deadline = time.monotonic() + _START_S
        while not folder.supervised():
            ended = pid not in self._reap()
            if ended or time.monotonic() > deadline:
                detail = Path(errors).read_text("utf-8", "replace").strip().rpartition("\n")[2]
                raise Unavailable(
                    f"the supervisor of {folder.root.name} did not start: {detail or 'no message'}", provider=self.name
                )
            time.sleep(0.005)

    def _reap(self) -> set[int]:
        """Collect supervisors of ours that have ended, so that none stays a zombie as long as we run; the living ones."""
        for pid in list(self._started):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # collected by somebody else in this process
                ended = pid
            if ended:
                self._started.discard(pid)
        return self._started

    def _folder(self, endpoint: str) -> EndpointFolder:
        return EndpointFolder(self._root / check_name(endpoint, field="endpoint"))

    def _lock(self, endpoint: str) -> Path:
        return self._locks / endpoint

    def _wish(self, endpoint: str, folder: EndpointFolder) -> dict[str, Any]:
        request = folder.read_request()
        if request is None:
            raise NotFound(f"there is no local endpoint {endpoint!r}", provider=self.name, resource=endpoint)
        return request


def _need_serving_extra() -> None:
    for package in ("uvloop", "httptools", "simdjson", "orjson", "numpy"):
        if find_spec(package) is None:
            raise MissingExtra.named(package, "serving", "a local endpoint")
