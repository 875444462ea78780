"""Where things lie in a package folder, and the one rule for paths in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ml_toolbox.base.errors import Invalid, Untrusted
from ml_toolbox.packages.manifest import MANIFEST_NAME

MLMODEL_NAME = "MLmodel"
REQUIREMENTS_NAME = "requirements.txt"
SAMPLE_NAME = "sample.npz"
SIGNATURE_NAME = "model.sig"
ARTIFACTS_FOLDER = "artifacts"
CODE_FOLDER = "code"

# Not listed in the manifest: it lists the others, and the signature is made over all files afterwards.
UNLISTED = frozenset({MANIFEST_NAME, SIGNATURE_NAME})

_MAX_PATH = 512
_UNSAFE = re.compile("[\\\\:\x00-\x1f\x7f\ud800-\udfff]")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)")


def check_relative(path: str, *, field: str) -> str:
    """Return ``path`` unchanged when it stays inside any folder it is joined to, on every operating system.

    Raises :class:`Invalid` naming ``field`` for absolute and drive paths, ``..``, empty parts, backslashes, control
    characters, names that Windows reserves or trims, and lengths over 512.
    """
    reason = _path_fault(path)
    if reason:
        raise Invalid(
            f"{field}: {path!r:.200} {reason}",
            field=field,
            hint="paths are relative, '/'-separated and below the package",
        )
    return path


def _path_fault(path: str) -> str:
    if not isinstance(path, str) or not path or len(path) > _MAX_PATH:
        return f"is not a path of 1 to {_MAX_PATH} characters"
    if _UNSAFE.search(path):
        return "contains a backslash, colon or control character"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "has an empty, '.' or '..' part"
        if part != part.rstrip(". ") or _RESERVED.match(part):
            return f"has a part {part!r} that other systems read differently"
    return ""


def runs_code(path: str) -> bool:
    """Whether a package's file runs code by its name, whatever the manifest says of it."""
    return path.startswith(f"{CODE_FOLDER}/") or path.lower().endswith(
        (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".py")
    )


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below ``folder`` as (relative path with ``/``, path), sorted.

    Raises :class:`Untrusted` at the first symbolic link, device, socket or pipe: a package is plain files and folders.
    """
    return ((relative, Path(path)) for relative, path in walk_files(folder))


def walk_files(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Like :func:`list_files`, with paths as text: making ``Path`` objects takes longer than reading small files."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            for relative, path in walk_files(entry.path):
                yield f"{entry.name}/{relative}", path
        elif entry.is_file(follow_symlinks=False):
            yield entry.name, entry.path
        else:
            kind = "symbolic link" if entry.is_symlink() else "special file"
            raise Untrusted(
                f"{entry.path} is a {kind}",
                resource=entry.path,
                hint="a model package holds regular files only; copy the target in",
            )


def sha256_file(path: Path) -> tuple[str, int]:
    """(hex sha256, size in bytes) of a file, read in blocks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()
