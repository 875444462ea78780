"""An endpoint's folder seen from outside: what a backend that starts one model server writes into it and reads from it.

    serve.json    the wish: variants and weights, watched by the server, with the tags and revision beside them
    status.json   what is in force, replaced by the server at every change
    log           what the server printed

For any backend that can see the folder (a process, a container with a mounted volume). :func:`ask` needs only the URL.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ml_toolbox.base.errors import Invalid, NotFound, NotYet, Unavailable
from ml_toolbox.base.ids import check_name, digest
from ml_toolbox.base.processes import ProcessIdentity
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus, VariantStatus
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.ports.jobs import LogChunk, LogLine
from ml_toolbox.runtime.job import read_json, write_json

_LOG_BYTES = 1 << 20
"""Most that one call of :func:`log_chunk` returns."""


class EndpointLayout:
    """The files of one endpoint below its root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.name = os.path.basename(root)
        self.serve = os.path.join(root, "serve.json")
        self.status = os.path.join(root, "status.json")
        self.log = os.path.join(root, "log")

    @property
    def arguments(self) -> list[str]:
        """The runtime's arguments that serve this folder, on any free port of 127.0.0.1."""
        return ["serve", "--spec", self.serve, "--status", self.status, "--port", "0"]


def package_folder(package: str) -> str | None:
    """The absolute folder named by a path or ``file://`` URI; ``None`` for anything else."""
    if package.startswith("file://"):
        parts = urlsplit(package)
        return unquote(parts.path) if parts.netloc in ("", "localhost") else None
    return package if package.startswith("/") and "://" not in package else None


def refuses(spec: EndpointSpec) -> str | None:
    """Why no server on this host can serve it, whatever the backend: a package elsewhere. Pure."""
    elsewhere = (variant.package for variant in spec.variants if package_folder(variant.package) is None)
    return next((f"{package} is not a folder on this machine" for package in elsewhere), None)


def order(spec: EndpointSpec) -> dict[str, Any]:
    """The spec as the server wants it told. Pure; ``refuses`` comes first."""
    variants = [
        {
            "name": check_name(variant.name, field="variant"),
            "package": package_folder(variant.package),
            "model": variant.model,
            "weight": variant.weight,
        }
        for variant in spec.variants
    ]
    return {"name": check_name(spec.name, field="endpoint"), "variants": variants, "replicas": spec.replicas}


def with_digests(body: Mapping[str, Any]) -> dict[str, Any]:
    """The order with the hash of each package's manifest, which names the hash of every file: a package written anew
    under the same path is then another wish. ``Invalid`` where no package is."""
    variants = []
    for variant in body["variants"]:
        try:
            manifest = (Path(variant["package"]) / "mltoolbox.json").read_bytes()
        except OSError as error:
            raise Invalid(
                f"{variant['package']} is not a folder with a model package", field="package", resource=body["name"]
            ) from error
        variants.append({**variant, "digest": hashlib.sha256(manifest).hexdigest()})
    return {**body, "variants": variants}


def wish(layout: EndpointLayout, request: EndpointRequest) -> None:
    """Record the request durably; a server that runs sees it within moments. The same again: nothing changes."""
    body = with_digests(request.body)
    document = {**body, "tags": dict(request.tags), "revision": digest(body)}
    if read_json(layout.serve) != document:
        os.makedirs(layout.root, exist_ok=True)
        write_json(layout.serve, document, durable=True)


def is_served(layout: EndpointLayout, process: ProcessIdentity | None) -> bool:
    """Whether the process serves the folder or may still come to: one that could not load its first wish is leaving."""
    if process is None or process.is_gone:
        return False
    seen = _seen(layout, process)
    return bool(seen.get("url")) or not seen.get("error")


def observation(layout: EndpointLayout, process: ProcessIdentity | None) -> EndpointStatus:
    """What the folder shows now of the server started last for it (``runtime.detached.started``). ``NotFound`` when
    there is no such endpoint."""
    asked = read_json(layout.serve)
    if asked is None:
        raise NotFound(f"there is no endpoint {layout.name!r}", resource=layout.name)
    seen = _seen(layout, process)
    gone = process is not None and process.is_gone
    serving = not gone and bool(seen.get("url")) and bool(seen.get("ready"))
    in_force = seen["variants"] if serving else []
    state, error = EndpointState.CREATING, str(seen.get("error") or "")
    if gone:
        state, error = EndpointState.FAILED, error or "its server has ended; apply it again"
    elif serving and seen["revision"] == asked["revision"]:
        state = EndpointState.READY
    elif serving:
        state = EndpointState.DEGRADED if error else EndpointState.UPDATING
    return EndpointStatus(
        state=state,
        url=seen["url"] if serving else "",
        variants=variant_statuses(asked["variants"], in_force, error),
        replicas_ready=int(serving),
        replicas_wanted=int(asked["replicas"]),
        message="" if state is EndpointState.READY else error,
    )


def variant_statuses(
    asked: Iterable[Mapping[str, Any]], in_force: Iterable[Mapping[str, Any]], error: str
) -> tuple[VariantStatus, ...]:
    """Those asked for and those a server says to be in force, with the weights really in force in percent; ``error``
    says why one is not."""
    wanted, seen = ({variant["name"]: variant for variant in variants} for variants in (asked, in_force))
    total = sum(variant["weight"] for variant in seen.values())
    return tuple(
        VariantStatus(
            name=name,
            model=seen.get(name, wanted.get(name, {})).get("model", ""),
            weight=float(round(100.0 * seen[name]["weight"] / total, 9)) if name in seen and total else 0.0,
            healthy=name in seen,
            message="" if name in seen else error or "not loaded yet",
        )
        for name in {**wanted, **seen}
    )


def ask(
    endpoint: str, status: EndpointStatus, body: bytes, *, content_type: str, variant: str, timeout_s: float
) -> Invocation:
    """One prediction over HTTP, as ``EndpointBackend.invoke`` promises it: ``NotYet`` unless a server is ready,
    ``Unavailable`` when it does not answer, an error status returned."""
    import http.client  # brings ssl along, which no other command should wait for that only lists this provider

    if not status.replicas_ready or status.state is EndpointState.DELETING:
        raise NotYet(f"endpoint {endpoint} is {status.state.value}", hint=status.message or "look again in a moment")
    headers = {"Content-Type": content_type} | ({"X-MLT-Variant": variant} if variant else {})
    connection = http.client.HTTPConnection(urlsplit(status.url).netloc, timeout=timeout_s)
    try:
        connection.request("POST", "/invocations", body, headers)
        answer = connection.getresponse()
        return Invocation(
            status=answer.status,
            body=answer.read(),
            content_type=answer.headers.get("Content-Type", ""),
            variant=answer.headers.get("X-MLT-Variant", ""),
        )
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"endpoint {endpoint} did not answer: {error}", resource=endpoint) from error
    finally:
        connection.close()


def log_chunk(layout: EndpointLayout, cursor: str = "") -> LogChunk:
    """Whole lines after the cursor. ``NotFound`` without the endpoint, ``Invalid`` for what no call returned."""
    if not os.path.exists(layout.serve):
        raise NotFound(f"there is no endpoint {layout.name!r}", resource=layout.name)
    offset, _, time_before = (cursor or "0@0.0").partition("@")
    try:
        start, at = int(offset), float(time_before)
        if start < 0:
            raise ValueError(offset)
    except ValueError as error:
        raise Invalid(f"{cursor!r} is no cursor of an endpoint's log", field="cursor") from error
    data = b""
    if os.path.exists(layout.log):
        with open(layout.log, "rb") as file:
            file.seek(start)
            data = file.read(_LOG_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for line in whole.decode("utf-8", "replace").split("\n")[:-1]:
        at = _written_at(line) or at
        lines.append(LogLine(at, line, "err"))
    return LogChunk(lines=tuple(lines), cursor=f"{start + len(whole)}@{at!r}", ended=False)


def _seen(layout: EndpointLayout, process: ProcessIdentity | None) -> dict[str, Any]:
    """What this very server wrote last; nothing while there is only what an earlier one wrote."""
    seen: dict[str, Any] = read_json(layout.status) or {}
    return seen if seen.get("process") == str(process) else {}


def _written_at(line: str) -> float | None:
    """The time with which the server's own lines begin; a library's line without one came after the line before it."""
    try:
        whole = time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
        return whole + int(line[20:23]) / 1000
    except ValueError:
        return None
