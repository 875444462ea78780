"""The files of one local endpoint, and its log. Shared by the backend that writes wishes and the supervisor that fulfils them.

    <name>/request.json   the wish: body and tags as built, and their digest (the revision)
    <name>/serve.json     what the servers watch, derived from the wish by the supervisor
    <name>/observed.json  what the supervisor sees, replaced at every change
    <name>/deleting       present once the endpoint is to go away
    <name>/logs/*.log     numbered pieces of one log

Every file is replaced in one step, so ``kill -9`` at any moment leaves the old or the new.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from ml_toolbox.base.processes import ProcessIdentity
from ml_toolbox.ports.jobs import LogChunk, LogLine
from ml_toolbox.runtime.job import read_json

_STREAMS = {"o": "out", "e": "err", "s": "system"}
_READ_BYTES = 1 << 20
"""Of log handed out per call."""


class EndpointFolder:
    """Paths and readings of one endpoint's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.request = root / "request.json"
        self.serve = root / "serve.json"
        self.observed = root / "observed.json"
        self.deleting = root / "deleting"
        self.logs = root / "logs"
        self.supervisor_lock = root / "supervisor.lock"

    @property
    def mark(self) -> str:
        """Carried in the environment by every process of the endpoint."""
        return f"endpoint:{self.root}"

    def read_request(self) -> dict[str, Any] | None:
        request: dict[str, Any] | None = read_json(str(self.request))
        return request

    def read_observed(self) -> dict[str, Any]:
        """What was seen last. Without the servers when its writer is dead: they died with it."""
        observed: dict[str, Any] = read_json(str(self.observed)) or {}
        if observed and ProcessIdentity.parse(observed["supervisor"]).is_gone:
            observed["replicas"] = []
        return observed

    def supervised(self) -> bool:
        """Whether a supervisor lives: it holds this lock from its first to its last moment, however it ends."""
        try:
            descriptor = os.open(self.supervisor_lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


class LogWriter:
    """Appends lines to numbered pieces and removes the oldest, so that a log never fills the disk."""

    def __init__(self, folder: Path, *, piece_bytes: int = 8 * 1024 * 1024, keep: int = 4) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._piece_bytes = piece_bytes
        self._keep = keep
        self._number = max(_pieces(folder), default=1)
        self._descriptor = self._open()

    def write(self, stream: str, lines: list[str]) -> None:
        """``stream``: ``o``, ``e`` or ``s`` (our own)."""
        at = time.time()
        os.write(self._descriptor, "".join(f"{at:.3f} {stream} {line}\n" for line in lines).encode("utf-8", "replace"))
        if os.fstat(self._descriptor).st_size >= self._piece_bytes:
            os.close(self._descriptor)
            self._number += 1
            self._descriptor = self._open()
            for number in _pieces(self._folder)[: -self._keep]:
                _piece(self._folder, number).unlink(missing_ok=True)

    def say(self, text: str) -> None:
        self.write("s", [text])

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(_piece(self._folder, self._number), flags, 0o644)


def read_log(folder: Path, cursor: str, *, ended: bool) -> LogChunk:
    """Whole lines after ``cursor`` (``PIECE:OFFSET``). A piece that was rotated away is skipped."""
    pieces = _pieces(folder)
    number, offset = _parsed(cursor)
    if not pieces:
        return LogChunk((), cursor, ended)
    if number < pieces[0]:
        number, offset = pieces[0], 0
    lines: list[LogLine] = []
    for piece in pieces:
        if piece < number:
            continue
        if piece > number:
            number, offset = piece, 0
        data = _whole_lines(_piece(folder, piece), offset)
        lines.extend(_line(text) for text in data.split(b"\n")[:-1])
        offset += len(data)
        if len(data) >= _READ_BYTES // 2:
            return LogChunk(tuple(lines), f"{number}:{offset}", ended=False)
    return LogChunk(tuple(lines), f"{number}:{offset}", ended)


def _whole_lines(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_READ_BYTES)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _line(data: bytes) -> LogLine:
    at, stream, text = data.decode("utf-8", "replace").split(" ", 2)
    return LogLine(float(at), text, _STREAMS[stream])  # type: ignore[arg-type]


def _parsed(cursor: str) -> tuple[int, int]:
    number, _, offset = cursor.partition(":")
    return (int(number), int(offset)) if number.isdigit() and offset.isdigit() else (0, 0)


def _pieces(folder: Path) -> list[int]:
    try:
        return sorted(int(name.removesuffix(".log")) for name in os.listdir(folder) if name.endswith(".log"))
    except FileNotFoundError:
        return []


def _piece(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.log"
