"""What the registry's tests share: packages to register, and a store that fails on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from ml_toolbox.base.errors import Conflict, Unavailable
from ml_toolbox.ports.lacks import Lacking
from ml_toolbox.ports.objects import (
    Body,
    CreateOnly,
    IfMatch,
    Listing,
    Object,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    Version,
)

COLUMN = {"name": "age", "dtype": "float32", "shape": [], "nullable": False}


def manifest_of(
    files: Mapping[str, bytes],
    *,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = ("age",),
    requirements: tuple[str, ...] = ("numpy==2.1",),
    job: str = "job-1",
) -> dict[str, Any]:
    return {
        "format_version": 1,
        "flavour": "sklearn",
        "created_at": "2026-01-01T00:00:00.000Z",
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "executes_code": False}
            for path, data in files.items()
        ],
        "engines": [],
        "signature": {
            "layout": "matrix",
            "inputs": [{**COLUMN, "name": name} for name in inputs],
            "outputs": [{**COLUMN, "name": "prediction"}],
            "classes": [0, 1],
        },
        "requirements": list(requirements),
        "environment": {"python": "3.11.9"},
        "lineage": {
            "job": job,
            "data": {"training": "file:///data.csv@sha256:12"},
            "code_sha256": "ab" * 32,
            "hyperparameters": dict(parameters or {"depth": 3}),
            "metrics": dict(metrics or {"accuracy": 0.9}),
        },
        "metadata": {},
    }


def make_package(folder: Path, files: Mapping[str, bytes] | None = None, **facts: Any) -> Path:
    """A package folder; ``facts`` as in ``manifest_of``."""
    contents = {"model.skops": b"weights", "code/train.py": b"print()"} if files is None else files
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mltoolbox.json").write_text(json.dumps(manifest_of(contents, **facts)))
    return folder


_OVERWRITE = Overwrite()

Fault = Callable[[str, str, Callable[[], Any]], Any]
"""``(method, key, proceed)``: returns what the call returns, or raises; calls ``proceed`` when the store is to do it."""


class FaultyStore:
    """A store between the registry and a real one. ``fault`` sees every put, get, head and delete."""

    def __init__(self, store: ObjectStore, fault: Fault | None = None) -> None:
        self.inner = store
        self.fault: Fault = fault or (lambda method, key, proceed: proceed())
        self.calls: list[tuple[str, str]] = []
        self._guard = threading.Lock()

    @property
    def uri(self) -> str:
        return self.inner.uri

    @property
    def lacks(self) -> Lacking:
        return self.inner.lacks

    def _pass(self, method: str, key: str, proceed: Callable[[], Any]) -> Any:
        with self._guard:
            self.calls.append((method, key))
        return self.fault(method, key, proceed)

    def get(self, key: str) -> Object:
        found: Object = self._pass("get", key, lambda: self.inner.get(key))
        return found

    def get_range(self, key: str, start: int, end: int) -> bytes:
        return self.inner.get_range(key, start, end)

    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        return self.inner.stream(key, chunk_size=chunk_size)

    def head(self, key: str) -> ObjectMeta:
        meta: ObjectMeta = self._pass("head", key, lambda: self.inner.head(key))
        return meta

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        version: Version = self._pass(f"put-{type(mode).__name__}", key, lambda: self.inner.put(key, body, mode=mode))
        return version

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        self.calls.append(("list", prefix))
        return self.inner.list(prefix, start_after=start_after)

    def list_level(self, prefix: str = "") -> Listing:
        self.calls.append(("list_level", prefix))
        return self.inner.list_level(prefix)

    def delete(self, key: str) -> None:
        self._pass("delete", key, lambda: self.inner.delete(key))

    def copy(self, source: str, target: str) -> None:
        self.inner.copy(source, target)

    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        return self.inner.presign(key, method=method, expires=expires)


def lost_answer(proceed: Callable[[], Any]) -> Any:
    """The store does it, and the answer never arrives."""
    proceed()
    raise Unavailable("connection reset")


def misread_conflict(proceed: Callable[[], Any]) -> Any:
    """The store does it, the answer is lost, and a repetition below us is refused: our own write looks like a conflict."""
    proceed()
    raise Conflict("precondition failed")


def never_sent(proceed: Callable[[], Any]) -> Any:
    """Nothing arrives."""
    raise Unavailable("connection refused")


def spurious_conflict(proceed: Callable[[], Any]) -> Any:
    """409 for racing requests: refused, although nothing is stored."""
    raise Conflict("conditional request conflict")


FAULTS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "lost answer": lost_answer,
    "misread conflict": misread_conflict,
    "never sent": never_sent,
    "spurious conflict": spurious_conflict,
}

CONDITIONAL = {f"put-{CreateOnly.__name__}", f"put-{IfMatch.__name__}"}
