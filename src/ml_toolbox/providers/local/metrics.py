"""Metrics in a folder of this machine: one append-only file of JSON lines per series.

A series is a name with its dimensions. One call of ``record`` is one line in every series it touches, and a line that is
not whole does not count; where it touches several, an undo note is written first, so that a process killed in the middle
leaves all of them or none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import canonical_json
from ml_toolbox.ports.lacks import Lacking
from ml_toolbox.ports.metrics import MetricPoint

_UNDO = "undo.json"
_LOCK = "lock"


class _Header(msgspec.Struct, frozen=True):
    """First line of a file: what the series is."""

    name: str
    dimensions: dict[str, str]


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    """Every other line: the points of one ``record``."""

    order: int
    """Grows with every record over all series, so that points of equal time keep the order of writing."""
    points: list[tuple[float, float, int | None, int]]
    """(at, value, step, place among all points of the record)."""


class LocalMetricSink:
    """Implements the port ``MetricSink``. Safe across threads and processes; the folder is created at the first record."""

    lacks: Lacking = MappingProxyType({})

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    # The port

    def record(self, points: Iterable[MetricPoint]) -> None:
        series: dict[Path, tuple[_Header, list[tuple[float, float, int | None, int]]]] = {}
        for place, point in enumerate(points):
            _check(point)
            header = _Header(point.name, dict(point.dimensions))
            own = series.setdefault(self._path(header), (header, []))[1]
            own.append((float(point.at), float(point.value), point.step, place))
        if not series:
            return
        with self._locked(fcntl.LOCK_EX) as lock:
            self._undo()
            sizes = {path: _repair(path) for path in series}
            order = _next_order(lock)
            if len(series) > 1:
                self._note(sizes)
            for path, (header, own) in series.items():
                batch = _Batch(order, own)
                first = msgspec.json.encode(header) + b"\n" if not sizes[path] else b""
                _append(path, first + msgspec.json.encode(batch) + b"\n")
            for folder in {path.parent for path, size in sizes.items() if not size}:
                _sync_folder(folder)
            if len(series) > 1:
                self._forget_note()

    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, since: float = 0.0, until: float | None = None
    ) -> tuple[MetricPoint, ...]:
        wanted = dict(dimensions or {})
        end = math.inf if until is None else until
        found: list[tuple[float, int, int, MetricPoint]] = []
        with self._reading():
            for path in sorted(self._folder_of(name).glob("*.jsonl")):
                lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is not whole
                if not lines:
                    continue
                header = msgspec.json.decode(lines[0], type=_Header)
                if header.name != name or not wanted.items() <= header.dimensions.items():
                    continue
                for line in lines[1:]:
                    batch = msgspec.json.decode(line, type=_Batch)
                    for at, value, step, place in batch.points:
                        if since <= at < end:
                            point = MetricPoint(name, value, at, header.dimensions, step)
                            found.append((at, batch.order, place, point))
        found.sort(key=lambda entry: entry[:3])
        return tuple(entry[3] for entry in found)

    # Files

    def _folder_of(self, name: str) -> Path:
        return self._folder / "series" / hashlib.sha256(name.encode()).hexdigest()[:32]

    def _path(self, header: _Header) -> Path:
        """Named by hash: names and dimensions may be any text, also what no file may be called."""
        series = hashlib.sha256(canonical_json(header.dimensions)).hexdigest()[:32]
        return self._folder_of(header.name) / f"{series}.jsonl"

    @contextlib.contextmanager
    def _locked(self, mode: int) -> Iterator[int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, mode)
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """No writer is in the middle of a record while this is held; one that died there is undone first."""
        while True:
            with self._locked(fcntl.LOCK_SH):
                if not (self._folder / _UNDO).exists():
                    yield
                    return
            with self._locked(fcntl.LOCK_EX):
                self._undo()

    def _note(self, sizes: Mapping[Path, int]) -> None:
        """Say how long the files were, durably, before any of them grows."""
        note = self._folder / _UNDO
        temporary = note.with_suffix(".new")
        lengths = {str(path.relative_to(self._folder)): size for path, size in sizes.items()}
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(lengths))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note)
        _sync_folder(self._folder)

    def _forget_note(self) -> None:
        """The moment at which the record counts."""
        (self._folder / _UNDO).unlink()
        _sync_folder(self._folder)

    def _undo(self) -> None:
        """Cut off what a killed writer left; called with the exclusive lock held."""
        note = self._folder / _UNDO
        if not note.exists():
            return
        for name, size in msgspec.json.decode(note.read_bytes(), type=dict[str, int]).items():
            path = self._folder / name
            if path.exists():
                _cut(path, size)
        self._forget_note()


def _check(point: MetricPoint) -> None:
    if not _is_text(point.name) or not point.name:
        raise Invalid(f"name: a metric needs a name, not {point.name!r}", field="name")
    for field, value in (("value", point.value), ("at", point.at)):
        if not _is_finite(value):
            raise Invalid(
                f"{field}: {value!r} of the metric {point.name!r} is not a finite number",
                hint="leave out points that have no value",
                field=field,
            )
    if not all(_is_text(text) for pair in point.dimensions.items() for text in pair):
        raise Invalid(f"dimensions: those of {point.name!r} are not all text", field="dimensions")
    if point.step is not None and type(point.step) is not int:
        raise Invalid(f"step: {point.step!r} of {point.name!r} is not a whole number", field="step")


def _is_finite(value: Any) -> bool:
    """NumPy's scalars are numbers too; an integer beyond the range of a float is not one here."""
    try:
        return not isinstance(value, bool | str) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _next_order(lock: int) -> int:
    """Greater than every order before, also when the clock was set back; kept in the lock file."""
    last = os.pread(lock, 8, 0)
    order = max(time.time_ns(), struct.unpack(">q", last)[0] + 1 if len(last) == 8 else 0)
    os.pwrite(lock, struct.pack(">q", order), 0)
    return order


def _repair(path: Path) -> int:
    """Bytes of whole lines in the file, which is cut to them; 0 when it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            keep = size
            while keep:
                start = max(0, keep - 65_536)
                file.seek(start)
                newline = file.read(keep - start).rfind(b"\n")
                if newline >= 0:
                    keep = start + newline + 1
                    break
                keep = start
    except FileNotFoundError:
        return 0
    if keep < size:
        _cut(path, keep)
    return keep


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _append(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
