"""File contents by hash: into the store once, out of it verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import nonce
from ml_toolbox.features.registry import layout
from ml_toolbox.features.registry.records import StoredFile, VersionRecord, files_of, manifest_of
from ml_toolbox.features.registry.values import Verification
from ml_toolbox.packages.layout import check_relative, list_files, walk_files
from ml_toolbox.packages.manifest import MANIFEST_NAME, Manifest
from ml_toolbox.packages.manifest_json import MAX_MANIFEST_BYTES, parse_manifest
from ml_toolbox.ports.objects import ObjectStore

_CHUNK = 4 * 1024 * 1024
_WHOLE = 8 * 1024 * 1024
"""Files up to this size are read once and sent from memory; larger ones are read twice, hashed both times."""
_KNOWN_BLOBS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedPackage:
    """A package folder as it was read, with every byte hashed."""

    folder: Path
    manifest_text: str
    manifest: Manifest
    files: tuple[StoredFile, ...]
    """All but the manifest."""
    extra_files: tuple[StoredFile, ...]
    """Those of ``files`` that the manifest does not list."""
    small: dict[str, bytes]
    """Contents of the files that were read whole, by hash."""


def scan(folder: Path) -> ScannedPackage:
    """Read and check a package folder. ``Invalid`` names the first file that is not what the manifest says."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", hint="give the folder that save_model wrote", resource=str(folder))
    listed: dict[str, StoredFile] = {}
    manifest_bytes = b""
    small: dict[str, bytes] = {}
    for path, location in walk_files(folder):
        if path == MANIFEST_NAME:
            manifest_bytes = _read_manifest(location)
            continue
        check_relative(path, field="package")
        file, data = _hash(path, location)
        listed[path] = file
        if data is not None:
            small[file.sha256] = data
    if not manifest_bytes:
        raise NotFound(
            f"{folder} is not a model package: it has no {MANIFEST_NAME}",
            hint="write one with save_model, or capture the folder of a training job",
            resource=str(folder),
        )
    manifest = parse_manifest(manifest_bytes)
    for entry in manifest.files:
        found = listed.get(entry.path)
        if found != StoredFile(entry.path, entry.size, entry.sha256):
            what = "is missing" if found is None else "is not the file that the manifest describes"
            raise Invalid(
                f"package: {entry.path!r} {what}",
                hint="package the model again; something changed the folder afterwards",
                field=f"files.{entry.path}",
                resource=str(folder),
            )
    expected = {entry.path for entry in manifest.files}
    return ScannedPackage(
        folder=folder,
        manifest_text=manifest_bytes.decode(),
        manifest=manifest,
        files=tuple(listed[path] for path in sorted(listed)),
        extra_files=tuple(listed[path] for path in sorted(listed) if path not in expected),
        small=small,
    )


def _read_manifest(location: str) -> bytes:
    with _opened(location) as (fd, size):
        if size > MAX_MANIFEST_BYTES:
            raise Invalid(
                f"{location} is larger than {MAX_MANIFEST_BYTES} bytes", field=MANIFEST_NAME, resource=location
            )
        return _read(fd, size)


def _hash(path: str, location: str) -> tuple[StoredFile, bytes | None]:
    with _opened(location) as (fd, size):
        if size <= _WHOLE:
            data = _read(fd, size)
            return StoredFile(path, len(data), hashlib.sha256(data).hexdigest()), data
        with open(fd, "rb", buffering=0, closefd=False) as file:
            digest = hashlib.file_digest(file, "sha256")
            return StoredFile(path, file.tell(), digest.hexdigest()), None


@contextmanager
def _opened(location: str) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a file. ``open`` would make twice as many system calls to read a small file whole."""
    fd = os.open(location, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd, os.fstat(fd).st_size
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    """The next ``size`` bytes, fewer only at the end of the file."""
    data = os.read(fd, size)
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


class Blobs:
    """The blobs of a registry's store, with an optional folder that keeps downloaded ones for the next time."""

    def __init__(self, store: ObjectStore, cache: Path | None) -> None:
        self._store = store
        self._cache = cache
        self._guard = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()

    def upload(self, package: ScannedPackage) -> None:
        """Store every file that is not there yet; returns once all are durable."""
        for file in package.files:
            if self._is_stored(file):
                continue
            data = package.small.get(file.sha256)
            body = data if data is not None else _checked(package.folder / file.path, file)
            self._store.put(layout.blob(file.sha256), body)
            self._learn(file.sha256)

    def _is_stored(self, file: StoredFile) -> bool:
        """A blob of the right size is complete: puts are atomic. Known ones are not asked for again: the registry never
        removes a blob."""
        with self._guard:
            if file.sha256 in self._known:
                return True
        try:
            size = self._store.head(layout.blob(file.sha256)).size
        except NotFound:
            return False
        if size != file.size:
            return False
        self._learn(file.sha256)
        return True

    def _learn(self, sha256: str) -> None:
        with self._guard:
            self._known[sha256] = None
            while len(self._known) > _KNOWN_BLOBS:
                self._known.popitem(last=False)

    def verify(self, ref: str, files: Sequence[StoredFile]) -> Verification:
        """Read every stored byte again."""
        return Verification(
            ref=ref, files=len(files), bytes=sum(file.size for file in files), problems=tuple(self._faults(files))
        )

    def _faults(self, files: Sequence[StoredFile]) -> Iterator[str]:
        """One sentence for each file whose stored bytes are missing or not the registered ones."""
        for file in files:
            digest, size = hashlib.sha256(), 0
            try:
                for chunk in self._store.stream(layout.blob(file.sha256)):
                    digest.update(chunk)
                    size += len(chunk)
            except NotFound:
                yield f"{file.path}: its contents ({layout.blob(file.sha256)}) are missing"
                continue
            if size != file.size or digest.hexdigest() != file.sha256:
                stored, registered = f"{size} bytes, sha256 {digest.hexdigest()}", f"{file.size} bytes, {file.sha256}"
                yield f"{file.path}: stored are {stored}; registered were {registered}"

    def fetch(self, record: VersionRecord, folder: Path) -> Path:
        """Lay the package down as ``folder``: whole and verified, or not at all.

        A folder that already holds exactly this package is left as it is. ``Conflict`` when something else is there,
        ``Invalid`` when stored bytes are damaged.
        """
        files = files_of(record, manifest_of(record))
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            if _holds(folder, record, files):
                return folder
            raise Conflict(
                f"{folder} exists and is not {record.model}:{record.number}",
                hint="choose a new or empty folder",
                field="folder",
                resource=str(folder),
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}.{nonce()[:12]}.partial")
        partial.mkdir()
        try:
            for file in files:
                target = partial / check_relative(file.path, field="path")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_blob(file, target)
            (partial / MANIFEST_NAME).write_bytes(record.manifest.encode())
            # Onto nothing or onto an empty folder, in one step.
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    def _fetch_blob(self, file: StoredFile, target: Path) -> None:
        cached = self._cache / layout.blob(file.sha256) if self._cache else None
        if cached is not None and cached.is_file() and _copy_verified(_read_chunks(cached), file, target):
            return
        if not _copy_verified(self._store.stream(layout.blob(file.sha256)), file, target):
            raise Invalid(
                f"{file.path}: the stored bytes do not have the registered sha256 {file.sha256}",
                hint="mltoolbox models verify shows every damaged file; restore the blob from a backup or register again",
                resource=f"{self._store.uri}/{layout.blob(file.sha256)}",
            )
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_name(f"{cached.name}.{nonce()[:12]}")
            shutil.copyfile(target, partial)
            partial.rename(cached)


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _checked(path: Path, file: StoredFile) -> Iterator[bytes]:
    """The file's bytes; fails before its end when they are not the ones that were hashed, so that no blob can come to
    stand under a hash that is not its own."""
    digest, size = hashlib.sha256(), 0
    held = b""
    for chunk in _read_chunks(path):
        if held:
            yield held
        digest.update(chunk)
        size += len(chunk)
        held = chunk
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Conflict(f"{path} changed while it was being registered", hint="register again", resource=str(path))
    yield held


def _copy_verified(chunks: Iterator[bytes], file: StoredFile, target: Path) -> bool:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return size == file.size and digest.hexdigest() == file.sha256


def _holds(folder: Path, record: VersionRecord, files: Sequence[StoredFile]) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    there = dict(list_files(folder))
    if set(there) != {MANIFEST_NAME, *(file.path for file in files)}:
        return False
    if there[MANIFEST_NAME].read_bytes() != record.manifest.encode():
        return False
    return all(_hash(file.path, str(there[file.path]))[0] == file for file in files)
