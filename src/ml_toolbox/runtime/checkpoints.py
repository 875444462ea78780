"""What a checkpoint is: (step, sha256, uri), and a manifest that names every file with its hash. The same in a folder and
on object storage; ``checkpoint_folder`` and ``checkpoint_objects`` say how each commits one.

A checkpoint exists from the moment its manifest is in place, which is one atomic step and the last one. A reader trusts
nothing else: what has no manifest, or differs from it, is refused and the one before it is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import NamedTuple

from ml_toolbox.base.errors import Invalid

KEEP = 3
"""Checkpoints that stay when the script does not say: the newest, and two to fall back to."""
FORMAT = 1
_NAME = re.compile(r"step-(?P<step>[0-9]{12,})-(?P<generation>[0-9]{4,})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class Saved(NamedTuple):
    """One committed checkpoint."""

    step: int
    sha256: str
    """Of the manifest, which names every file with its own."""
    uri: str
    """Absolute path of its folder, or URI of its manifest."""


class Manifest(NamedTuple):
    """What belongs to a checkpoint. Paths are relative and ``/``-separated; the first segment is ``name``."""

    step: int
    name: str
    """Of the file or folder that the script gave."""
    files: dict[str, tuple[str, int]]
    """Path -> (sha256, size in bytes)."""
    folders: list[str]
    """Folders that hold no file."""
    data: str = ""
    """On object storage: the prefix that the files lie below."""

    def encode(self) -> bytes:
        files = [{"path": path, "sha256": sha, "size": size} for path, (sha, size) in sorted(self.files.items())]
        values = {"format": FORMAT, **self._asdict(), "files": files, "folders": sorted(self.folders)}
        return json.dumps(values, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes, step: int) -> Manifest:
        """The inverse of :meth:`encode`, for the checkpoint that is named after ``step``. Raises ``Refused``."""
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise Refused(f"its manifest is of format {values['format']}, not {FORMAT}")
            files = {file["path"]: (str(file["sha256"]), int(file["size"])) for file in values["files"]}
            made = cls(int(values["step"]), str(values["name"]), files, list(values["folders"]), str(values["data"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"its manifest is damaged ({type(error).__name__})") from error
        if made.step != step:
            raise Refused(f"its manifest is of step {made.step}")
        if not all(map(_is_inside, [made.name, *made.files, *made.folders, *([made.data] if made.data else [])])):
            raise Refused("its manifest names a path outside of it")
        if not all(_SHA256.fullmatch(sha256) for sha256, _ in made.files.values()):
            raise Refused("its manifest lacks a sha256")
        return made


class Refused(Exception):
    """A checkpoint that is torn or altered, and how one can tell."""


def name_of(step: int, generation: int) -> str:
    """``generation`` counts the checkpoints of one step: an attempt that repeats a step does not touch what is there."""
    return f"step-{step:012d}-{generation:04d}"


def place_of(name: str) -> tuple[int, int] | None:
    """(step, generation) of a checkpoint's name; newer ones sort later. ``None`` for any other name."""
    found = _NAME.fullmatch(name)
    return (int(found["step"]), int(found["generation"])) if found else None


def checked(path: str | os.PathLike[str], step: int, keep: int) -> tuple[str, int]:
    """What the script gave, fit to be saved. ``Invalid`` names the argument that is wrong."""
    source = os.path.abspath(os.fspath(path))
    number = int(step)
    if not os.path.exists(source):
        raise Invalid(f"checkpoint: {path} does not exist", field="path", resource=str(path))
    if not os.path.basename(source):
        raise Invalid("checkpoint: the root folder cannot be saved", field="path", resource=source)
    if number < 0:
        raise Invalid(f"checkpoint: step {number} is less than 0", field="step")
    if keep < 1:
        raise Invalid(f"checkpoint: keep={keep} would keep nothing", hint="keep at least 1", field="keep")
    return source, number


def content(source: str) -> tuple[list[str], list[str]]:
    """Files and empty folders of what is to be saved, as paths below the parent of ``source``. Links are followed.

    Raises ``Invalid`` for what is neither a file nor a folder.
    """
    base = os.path.dirname(source)
    if os.path.isfile(source):
        return [os.path.basename(source)], []
    files, folders = [], []

    def stop(error: OSError) -> None:
        raise error

    for folder, names_below, names in os.walk(source, followlinks=True, onerror=stop):
        relative = os.path.relpath(folder, base)
        if not names and not names_below:
            folders.append(relative)
        for name in names:
            if not os.path.isfile(os.path.join(folder, name)):
                raise Invalid(f"checkpoint: {folder}/{name} is not a file", field="path", resource=f"{folder}/{name}")
            files.append(os.path.join(relative, name))
    return files, folders


def verify(folder: str, manifest: Manifest) -> None:
    """Compare every file below ``folder`` with the manifest. Raises ``Refused`` for the first difference."""
    try:
        found = {
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, names in os.walk(folder)
            for name in names
        }
        for path in sorted(manifest.files.keys() ^ found):
            raise Refused(f"{path} is {'missing' if path in manifest.files else 'not in its manifest'}")
        for path, (sha256, size) in manifest.files.items():
            if os.stat(os.path.join(folder, path)).st_size != size:
                raise Refused(f"{path} is cut off or longer than its manifest says")
            if sha256_of(os.path.join(folder, path)) != sha256:
                raise Refused(f"{path} is not what was saved: its sha256 differs")
    except OSError as error:
        raise Refused(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(source: str, target: str) -> tuple[str, int]:
    """Copy one file durably; (sha256, size) of what was written."""
    total, size = hashlib.sha256(), 0
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            total.update(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return total.hexdigest(), size


def tell_refused(name: str, why: Refused) -> None:
    """One line into the job's log."""
    sys.stderr.write(f"checkpoint {name} is refused: {why}; looking for the one before it\n")
    sys.stderr.flush()


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and "\0" not in path and ".." not in path.split("/")
