"""Versions as files: what ``export`` writes and ``import_`` reads.

A ``.tar.gz`` with the package's own files and, beside them, ``mltoolbox-export.json`` with the name, tags and
description. Members are sorted and carry no times or owners: exporting a version twice gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import nonce
from ml_toolbox.features.registry.values import ModelVersion
from ml_toolbox.packages.layout import check_relative, list_files, sha256_file

EXPORT_NAME = "mltoolbox-export.json"
_PACKAGE = "package"
_MAX_EXPORT_BYTES = 1024 * 1024
_BLOCK = 1024 * 1024


class _Export(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    number: int
    description: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An unpacked archive; ``folder`` lives as long as the context it came from."""

    folder: Path
    description: str
    tags: dict[str, str]
    source: str
    """``name:number`` in the registry it was exported from."""
    sha256: str
    """Of the archive file."""


def write(archive: Path, version: ModelVersion, lay_down: Callable[[Path], Path]) -> Path:
    """The archive file, whole or not at all. ``Conflict`` when it exists."""
    if archive.exists():
        raise Conflict(
            f"{archive} exists", hint="choose another name or remove it", field="archive", resource=str(archive)
        )
    archive.parent.mkdir(parents=True, exist_ok=True)
    facts = _Export(name=version.name, number=version.number, description=version.description, tags=version.tags)
    partial = archive.with_name(f".{archive.name}.{nonce()[:12]}.partial")
    try:
        with tempfile.TemporaryDirectory(prefix="mltoolbox-export-") as temporary:
            folder = lay_down(Path(temporary) / _PACKAGE)
            described = Path(temporary) / EXPORT_NAME
            described.write_bytes(msgspec.json.encode(facts))
            with partial.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped:
                _pack(zipped, described, folder)
        # Refuses, where rename would replace what appeared meanwhile.
        os.link(partial, archive)
    except FileExistsError as error:
        raise Conflict(
            f"{archive} exists", hint="choose another name", field="archive", resource=str(archive)
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return archive


def _pack(out: gzip.GzipFile, described: Path, folder: Path) -> None:
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in [(EXPORT_NAME, described), *((f"{_PACKAGE}/{n}", p) for n, p in list_files(folder))]:
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)


@contextmanager
def opened(archive: Path) -> Iterator[Imported]:
    """Unpack an exported archive into a temporary folder. ``Invalid`` when it holds anything but plain files below the
    package, or is damaged; nothing is written outside the temporary folder."""
    if not archive.is_file():
        raise NotFound(f"{archive} is not a file", resource=str(archive))
    with tempfile.TemporaryDirectory(prefix="mltoolbox-import-") as temporary:
        root = Path(temporary)
        try:
            with gzip.open(archive, "rb") as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
                for member in tar:
                    _unpack(tar, member, root)
                # Past the tar's own end mark, to the checksum of the whole.
                while unzipped.read(_BLOCK):
                    continue
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise _invalid(archive, str(error)) from error
        yield _describe(archive, root)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    path = PurePosixPath(check_relative(member.name, field="archive"))
    content = tar.extractfile(member) if member.isreg() else None
    if content is None or not (member.name == EXPORT_NAME or (path.parts[0] == _PACKAGE and len(path.parts) > 1)):
        raise tarfile.TarError(f"{member.name!r} does not belong there")
    if member.name == EXPORT_NAME and member.size > _MAX_EXPORT_BYTES:
        raise tarfile.TarError(f"{member.name!r} is too large")
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out:
        while chunk := content.read(_BLOCK):
            out.write(chunk)


def _describe(archive: Path, root: Path) -> Imported:
    try:
        facts = msgspec.json.decode((root / EXPORT_NAME).read_bytes(), type=_Export)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise _invalid(archive, f"{EXPORT_NAME} is missing or damaged") from error
    return Imported(
        folder=root / _PACKAGE,
        description=facts.description,
        tags=facts.tags,
        source=f"{facts.name}:{facts.number}",
        sha256=sha256_file(archive)[0],
    )


def _invalid(archive: Path, why: str) -> Invalid:
    return Invalid(
        f"{archive} is not an exported version: {why}",
        hint="mltoolbox models export writes such archives; register a package folder with mltoolbox models register",
        field="archive",
        resource=str(archive),
    )
