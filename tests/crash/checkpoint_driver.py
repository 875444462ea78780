"""Saves checkpoints and dies. ``python -m tests.crash.checkpoint_driver every|forever folder|objects ROOT``.

``every``: forks once for each operation on the file system that some checkpoints take, and kills that fork with -9 just
before the operation; after each death it looks at what a next attempt would find. Prints a JSON report.
``forever``: saves until it is killed from outside, printing each step that was saved.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from ml_toolbox.runtime import checkpoint_folder, checkpoint_objects
from ml_toolbox.runtime.checkpoints import Saved

KEEP = 1
_STEPS = (1, 2, 2)


class Place:
    """Saves to and reads from a folder, or the same folder as object storage."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self.root = root / "place"
        self.source = root / "state"
        self.scratch = root / "scratch"

    def save(self, step: int, size: int) -> None:
        shutil.rmtree(self.source, ignore_errors=True)
        self.source.mkdir()
        for name, data in content(step, size).items():
            (self.source / name).write_bytes(data)
        if self.kind == "folder":
            checkpoint_folder.commit(str(self.root), str(self.source), step, KEEP)
        else:
            checkpoint_objects.commit(f"file://{self.root}", str(self.source), step, KEEP)

    def torn(self) -> list[str]:
        """What is wrong with those to fall back to. Takes each newest away to see the next, so it leaves none."""
        wrong: list[str] = []
        while True:
            found, refused = self._look()
            wrong += refused
            if found is None:
                return wrong
            gone = found[1].uri.removeprefix("file://")
            shutil.rmtree(gone) if self.kind == "folder" else os.unlink(gone)

    def _look(self) -> tuple[tuple[str, Saved] | None, list[str]]:
        refused = io.StringIO()
        with contextlib.redirect_stderr(refused):
            if self.kind == "folder":
                found = checkpoint_folder.latest(str(self.root))
            else:
                found = checkpoint_objects.latest(f"file://{self.root}", str(self.scratch))
        return found, refused.getvalue().splitlines()

    def problems(self, acknowledged: int, size: int) -> list[str]:
        """What is wrong with what a next attempt finds, when step ``acknowledged`` is known to have been saved."""
        found, wrong = self._look()
        if found is None:
            return [*wrong, *(["a saved checkpoint is lost"] if acknowledged else [])]
        path, saved = found
        if saved.step < acknowledged:
            wrong.append(f"step {acknowledged} was saved, {saved.step} is the newest")
        there = {name: Path(path, name).read_bytes() for name in os.listdir(path)}
        return wrong if there == content(saved.step, size) else [*wrong, f"step {saved.step} is not what was saved"]


def content(step: int, size: int) -> dict[str, bytes]:
    return {f"part-{part}": bytes([step % 251, part]) * size for part in range(2)}


def every(kind: str, root: Path) -> None:
    size, number, violations = 2048, 0, []
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]
    while True:
        number += 1
        place = Place(kind, root / str(number))
        place.root.parent.mkdir(parents=True)
        acks = os.open(place.root.parent / "acks", os.O_RDWR | os.O_CREAT)
        child = os.fork()
        if child == 0:
            die_before(number)
            for step in _STEPS:
                place.save(step, size)
                os.write(acks, bytes([step]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        acknowledged = max(os.pread(acks, 100, 0), default=0)
        os.close(acks)
        violations += [f"operation {number}: {problem}" for problem in place.problems(acknowledged, size)]
        violations += [f"operation {number}: {problem}" for problem in place.torn()]
        place.save(9, size)  # the next attempt goes on, whatever was left
        violations += [f"after operation {number}: {problem}" for problem in place.problems(9, size)]
        shutil.rmtree(place.root.parent)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                violations.append(f"operation {number}: exit status {os.WEXITSTATUS(status)}")
            break
    print(json.dumps({"operations": number - 1, "violations": violations}))


def die_before(number: int) -> None:
    """Kill this process just before its ``number``-th operation on the file system from here on."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, _arguments: object) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            count()

    # The one operation that raises no audit event. Not really done: a killed process, unlike a power cut, loses nothing.
    os.fsync = lambda _descriptor: count()  # type: ignore[assignment]
    sys.addaudithook(hook)


def forever(kind: str, root: Path, first: int, size: int) -> None:
    place, step = Place(kind, root), first
    while True:
        place.save(step, size)
        print(step, flush=True)
        step += 1


def main() -> None:
    mode, kind, root, *rest = sys.argv[1:]
    if mode == "every":
        every(kind, Path(root))
    else:
        forever(kind, Path(root), *map(int, rest))


if __name__ == "__main__":
    main()
