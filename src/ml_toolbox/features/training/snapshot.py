"""Freezes a source folder under the hash of its content: editing a script after ``submit`` changes nothing.

What ``.gitignore`` and ``.mltignore`` (in any folder, the deepest wins) leave out stays at home, and so do version
control and caches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import nonce

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_BYTES = 256 * 2**20
MAX_FILES = 5000
"""A snapshot above either is refused: it would hold data, which belongs into inputs. (Azure ML's own limit for code is
300 MB and 2,000 files.)"""

_NEVER = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        ".venv",
        "venv",
        "node_modules",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    }
    | {".ipynb_checkpoints", ".tox", ".DS_Store"}
)
_UNUSED_S = 86400.0
"""An unreferenced snapshot younger than this is kept: a submit in another process may be about to refer to it."""


class Snapshot(NamedTuple):
    """A frozen folder."""

    sha256: str
    folder: Path


class Measure(NamedTuple):
    """What would travel."""

    files: int
    size: int


def measure(source: Path, *, without: Path | None = None) -> Measure:
    """Count what a snapshot would hold. Raises ``Invalid`` like :func:`take`."""
    without = without.resolve() if without else None
    count = size = 0
    largest: list[tuple[int, str]] = []
    for path in _files(source, without):
        length = os.stat(source / path).st_size
        count, size = count + 1, size + length
        largest = sorted([*largest, (length, path)], reverse=True)[:3]
        if count > MAX_FILES or size > MAX_BYTES:
            names = ", ".join(f"{name} ({length / 2**20:.0f} MiB)" for length, name in largest)
            raise Invalid(
                f"source: {source} is too large to travel with a job (more than {MAX_FILES} files or "
                f"{MAX_BYTES // 2**20} MiB); largest so far: {names}",
                hint="list data and results in .mltignore, or put the script into a folder of its own",
                field="source",
                resource=str(source),
            )
    return Measure(count, size)


def take(source: Path, store: Path, *, without: Path | None = None) -> Snapshot:
    """Copy what travels to ``store/<sha256>``; the same content again costs no new place.

    Names, bytes and the executable bit count; times do not. ``without`` is a folder that stays at home wherever it lies (our
    own, which may lie in the user's). Raises ``Invalid`` for a folder that is absent or too large.
    """
    if not source.is_dir():
        raise Invalid(f"source: {source} is not a folder", field="source", resource=str(source))
    measure(source, without=without)
    without = without.resolve() if without else None
    store.mkdir(parents=True, exist_ok=True)
    new = store / f".new-{nonce()[:12]}"
    new.mkdir()
    try:
        total = hashlib.sha256()
        for path in _files(source, without):
            total.update(f"{path}\0{_copy(source / path, new / path)}\n".encode("utf-8", "surrogateescape"))
        final = store / total.hexdigest()
        try:
            new.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            os.utime(final)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Snapshot(total.hexdigest(), final)


def prune(store: Path, used: frozenset[str], *, now: float | None = None) -> None:
    """Remove snapshots that nothing refers to any more and that nobody took lately."""
    moment = time.time() if now is None else now
    for folder in store.iterdir() if store.is_dir() else ():
        if folder.name not in used and moment - folder.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(1 << 20):
            content.update(chunk)
            writer.write(chunk)
    executable = os.access(source, os.X_OK)
    target.chmod(0o755 if executable else 0o644)
    return f"{'x' if executable else '-'}{content.hexdigest()}"


def _files(source: Path, without: Path | None) -> Iterator[str]:
    """Relative ``/``-separated paths of what travels, in a fixed order."""
    root = source.resolve()
    hidden = without.relative_to(root).as_posix() if without and without.is_relative_to(root) else ""
    yield from _below(source, "", [], hidden)


def _below(source: Path, prefix: str, ignores: list[tuple[str, GitIgnoreSpec]], hidden: str) -> Iterator[str]:
    folder = source / prefix
    ignores = [*ignores, *_ignore_files(folder, prefix)]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{prefix}{entry.name}"
        is_folder = entry.is_dir()
        if entry.name in _NEVER or path == hidden or _ignored(path, is_folder, ignores):
            continue
        if is_folder:
            if entry.is_symlink():
                raise Invalid(
                    f"source: {path} is a link to a folder, which cannot travel",
                    hint=f"name it in .mltignore, or give the folder with --input {entry.name}=PATH",
                    field="source",
                )
            yield from _below(source, f"{path}/", ignores, hidden)
        elif entry.is_file():
            yield path


def _ignore_files(folder: Path, prefix: str) -> list[tuple[str, GitIgnoreSpec]]:
    found = []
    for name in (".gitignore", ".mltignore"):
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        from pathspec import GitIgnoreSpec

        found.append((prefix, GitIgnoreSpec.from_lines(lines)))
    return found


def _ignored(path: str, is_folder: bool, ignores: list[tuple[str, GitIgnoreSpec]]) -> bool:
    for prefix, spec in reversed(ignores):
        verdict = spec.check_file(path.removeprefix(prefix) + ("/" if is_folder else "")).include
        if verdict is not None:
            return bool(verdict)
    return False
