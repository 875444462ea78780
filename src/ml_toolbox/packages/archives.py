"""Packages as one file: ``model.tar.gz`` with the package's files at its root, the layout that SageMaker expects."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Untrusted
from ml_toolbox.base.ids import nonce
from ml_toolbox.packages.layout import check_relative, list_files
from ml_toolbox.packages.package import open_package
from ml_toolbox.packages.zips import MAX_MEMBERS, MAX_RATIO, MAX_TOTAL_BYTES, RATIO_FREE_BYTES

_BLOCK = 1024 * 1024


def archive(folder: str | Path, out: str | Path) -> Path:
    """Write the verified package in ``folder`` as the tar.gz file ``out`` and return its path.

    Equal packages give equal bytes: names are sorted; times, owners and modes are fixed. Raises ``Invalid`` when a file
    differs from the manifest, ``Untrusted`` at links; then ``out`` is not touched.
    """
    folder, target = Path(folder), Path(out)
    open_package(folder).verify()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{nonce()[:12]}.tmp"
    try:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6, filename="") as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for relative, path in list_files(folder):
                info = tarfile.TarInfo(relative)
                info.size = path.stat().st_size
                info.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def unpack(archive_path: str | Path, folder: str | Path) -> Path:
    """Unpack a tar.gz written by :func:`archive` (or any tar with a package at its root) into ``folder`` and verify it.

    Only plain files below the root are written, with our own modes; the folder appears when all is there and verified.

    Raises:
        NotFound: there is no such archive.
        Conflict: ``folder`` exists and is not empty.
        Untrusted: links, devices, paths outside, duplicate names, or a decompression bomb.
        Invalid: damaged, or its files differ from the manifest.
    """
    source, target = Path(archive_path), Path(folder)
    if not source.is_file():
        raise NotFound(f"there is no archive {source}", resource=str(source))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists and is not empty", resource=str(target), hint="choose a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{nonce()[:12]}.tmp"
    temporary.mkdir()
    try:
        try:
            _extract(source, temporary)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, OSError, ValueError) as error:
            raise Invalid(f"{source} is not a readable tar archive: {error}", field="archive") from error
        open_package(temporary).verify()
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def check_tar(path: Path) -> None:
    """Raise ``Untrusted`` or ``Invalid`` unless :func:`unpack` would take every member; writes nothing."""
    try:
        with tarfile.open(path, mode="r|*") as tar:
            for _ in _members(tar, path):
                continue
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, OSError, ValueError) as error:
        raise Invalid(f"{path.name} is not a readable tar archive: {error}", field=path.name) from error


def _extract(source: Path, folder: Path) -> None:
    with tarfile.open(source, mode="r|*") as tar:
        for member, path in _members(tar, source):
            if member.isfile():
                _write(tar, member, folder / path)


def _members(tar: tarfile.TarFile, source: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The members that may be written. Streamed, so a bomb is never decompressed further than the limit."""
    seen: set[str] = set()
    total, packed = 0, source.stat().st_size
    for number, member in enumerate(tar):
        path = _checked(member, source)
        if not path:
            continue
        if path.casefold() in seen or number >= MAX_MEMBERS:
            raise _refuse(source, f"holds {path!r:.100} twice, or more than {MAX_MEMBERS} members")
        seen.add(path.casefold())
        total += member.size
        if total > MAX_TOTAL_BYTES or (total > RATIO_FREE_BYTES and total > MAX_RATIO * packed):
            raise _refuse(source, f"unpacks to more than {total} bytes from {packed}")
        yield member, path


def _checked(member: tarfile.TarInfo, source: Path) -> str:
    path = member.name.removeprefix("./").rstrip("/")
    if path in ("", ".") and member.isdir():
        return ""
    # Sparse members claim sizes that they do not have.
    if member.issparse() or not (member.isfile() or member.isdir()):
        raise _refuse(source, f"holds a link, device or sparse file: {member.name!r:.100}")
    try:
        return (
            check_relative(path, field="archive") if not member.isdir() else check_relative(path, field="archive") + "/"
        )
    except Invalid as error:
        raise _refuse(source, f"has a member outside its folder: {member.name!r:.100}") from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)


def _refuse(source: Path, what: str) -> Untrusted:
    return Untrusted(
        f"{source.name} {what}", resource=str(source), hint="pack plain files with relative names, each once"
    )
