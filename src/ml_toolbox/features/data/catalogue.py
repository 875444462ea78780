"""``Datasets``: numbered, immutable versions of named datasets on any object store, without a database.

Keys: ``blobs/sha256/..`` (content, shared by all), ``datasets/<name>/versions/<10 digits>.json`` (one small record,
created only when absent: the commit). A record is written when everything it refers to is durable, so a crash leaves
blobs that nobody refers to and never half a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import check_name, nonce
from ml_toolbox.datasets import As, Blobs, DatasetManifest, Item, Part, iterate, read, write
from ml_toolbox.datasets.blobs import Progress
from ml_toolbox.features.data import exporting
from ml_toolbox.features.data.exporting import Format
from ml_toolbox.features.data.versions import Damage, DatasetDetails, DatasetVersion, VerifyReport, parse_ref
from ml_toolbox.ports.objects import CreateOnly, ObjectStore

_ROOT = "datasets"
_READERS = 8


class Datasets:
    """Named datasets on one store. Safe to use from any number of threads, processes and machines at once."""

    def __init__(self, store: ObjectStore, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._blobs = Blobs(store)

    def put(
        self,
        name: str,
        data: Any,
        *,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> DatasetVersion:
        """Store ``data`` (see ``ml_toolbox.datasets.save``) as the next version of ``name``; returns once it is durable.

        Called twice: two versions, the second without new blobs. Raises ``Invalid`` for an illegal name or tag, and for
        data that could not be brought back exactly, naming the column.
        """
        check_name(name)
        wrong = [key for key, value in (tags or {}).items() if type(key) is not str or type(value) is not str]
        if wrong:
            raise Invalid(f"tags: {wrong[0]!r} is not text on both sides", field="tags")
        blobs = Blobs(self._store, progress=progress)
        manifest = write(data, blobs)
        sha256, _ = self._blobs.put_bytes(manifest.to_json())
        record = DatasetVersion(
            name=name,
            version=self._latest(name) + 1,
            created_at=self._clock.now(),
            kind=manifest.items[0].kind if manifest.layout == "single" else manifest.layout,
            rows=manifest.rows,
            files=manifest.files,
            size=manifest.size,
            manifest=sha256,
            description=description,
            tags=dict(tags or {}),
            nonce=nonce(),
        )
        return self._commit(record)

    def _commit(self, record: DatasetVersion) -> DatasetVersion:
        """Create the record under the first number that is free. Somebody else's number is skipped, never a free one."""
        while True:
            try:
                self._store.put(_key(record.name, record.version), record.to_json(), mode=CreateOnly())
                return record
            except Conflict:
                record = replace(record, version=record.version + 1)

    def _latest(self, name: str) -> int:
        """The highest version, 0 when there is none: numbers have no gaps, so doubling and halving finds it in a few
        questions without a listing."""
        high = 1
        while self._has(name, high):
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._has(name, middle) else (low, middle)
        return low

    def _has(self, name: str, version: int) -> bool:
        try:
            self._store.head(_key(name, version))
        except NotFound:
            return False
        return True

    def version(self, ref: str) -> DatasetVersion:
        """The record of ``name`` (its newest version) or ``name:version``; ``NotFound`` when there is none."""
        name, number = parse_ref(ref)
        number = number or self._latest(name)
        try:
            if number == 0:
                raise NotFound(f"there is no dataset {name!r} in {self._store.uri}")
            return DatasetVersion.from_json(self._store.get(_key(name, number)).data)
        except NotFound as error:
            newest = self._latest(name)
            hint = f"its newest version is {newest}" if newest else "`mltoolbox data list` shows what there is"
            raise NotFound(f"there is no dataset {ref!r} in {self._store.uri}", hint=hint, resource=ref) from error

    def list(self) -> tuple[DatasetVersion, ...]:
        """The newest version of every dataset, by name."""
        prefixes = self._store.list_level(_ROOT).prefixes
        names = sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="datasets") as pool:
            return tuple(pool.map(self.version, names))

    def versions(self, name: str) -> tuple[DatasetVersion, ...]:
        """All versions of a dataset, oldest first; ``NotFound`` when there is none."""
        newest = self.version(parse_ref(name)[0])
        refs = [f"{newest.name}:{number}" for number in range(1, newest.version)]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="datasets") as pool:
            return (*pool.map(self.version, refs), newest)

    def show(self, ref: str) -> DatasetDetails:
        """Schema, rows, size and the columns' summaries; reads no data."""
        version = self.version(ref)
        return DatasetDetails(version=version, manifest=self._manifest(version))

    def _manifest(self, version: DatasetVersion) -> DatasetManifest:
        data = b"".join(self._blobs.chunks(self._manifest_part(version)))
        return DatasetManifest.from_json(data)

    def _manifest_part(self, version: DatasetVersion) -> Part:
        size = self._blobs.size(version.manifest)
        return Part(sha256=version.manifest, size=size, format="raw")

    def get(
        self,
        ref: str,
        *,
        columns: Sequence[Any] | None = None,
        mmap: bool = True,
        as_: As | None = None,
        check: bool | None = None,
        into: Path | None = None,
    ) -> Any:
        """The data, as the kind that was saved or ``as_`` another (see ``ml_toolbox.datasets.load``)."""
        manifest = self._manifest(self.version(ref))
        return read(manifest, self._blobs, columns=columns, mmap=mmap, as_=as_, check=check, into=into)

    def batches(self, ref: str, *, batch_rows: int = 65_536, columns: Sequence[Any] | None = None) -> Iterator[Any]:
        """The data in pieces of ``batch_rows`` rows, memory bounded by a few pieces."""
        manifest = self._manifest(self.version(ref))
        return iterate(manifest, self._blobs, batch_rows=batch_rows, columns=columns)

    def verify(self, ref: str) -> VerifyReport:
        """Read and hash every part of the version, its manifest too. Damage is in the report, not raised."""
        version = self.version(ref)
        try:
            manifest = self._manifest(version)
        except (NotFound, Conflict) as error:
            damage = Damage(key=self._blobs.key(version.manifest), reason=error.message, used_by="the manifest")
            return VerifyReport(ref=version.ref, checked=1, bytes=0, problems=(damage,))
        users = _users(manifest)
        parts = manifest.parts
        with ThreadPoolExecutor(_READERS, thread_name_prefix="datasets") as pool:
            reasons = list(pool.map(self._blobs.problem, parts))
        problems = tuple(
            Damage(key=self._blobs.key(part.sha256), reason=reason, used_by=users[part.sha256])
            for part, reason in zip(parts, reasons, strict=True)
            if reason
        )
        return VerifyReport(ref=version.ref, checked=len(parts), bytes=manifest.size, problems=problems)

    def materialise(self, ref: str, folder: Path) -> tuple[Path, ...]:
        """Write the data below ``folder`` as plain files that any program can read, and return the paths: the user's own
        files under their own names, tables as ``<dataset>.parquet``, arrays as ``<dataset>.npy``, several items under the
        items' names. Every file appears only whole; called twice it writes the same again."""
        version = self.version(ref)
        return exporting.materialise(self._manifest(version), self._blobs, folder, name=version.name)

    def export(self, ref: str, path: Path, format: Format | None = None) -> Path:  # noqa: A002 - the word users type
        """Write the data as one file in the given format (``folder``: like :meth:`materialise`; ``None``: by the
        ending of ``path``). A file that was put in
        that very format is copied byte for byte. ``Invalid`` when the data has no such form."""
        version = self.version(ref)
        return exporting.export(
            self._manifest(version), self._blobs, path, format or exporting.format_of_path(path), name=version.name
        )


def _key(name: str, version: int) -> str:
    return f"{_ROOT}/{name}/versions/{version:010d}.json"


def _users(manifest: DatasetManifest) -> dict[str, str]:
    """Part -> what is in it, in words."""
    users: dict[str, str] = {}
    for item in manifest.items:
        for number, part in enumerate(item.parts):
            users.setdefault(part.sha256, _user(item, number))
    return users


def _user(item: Item, number: int) -> str:
    prefix = f"{item.name}: " if item.name else ""
    if item.kind == "folder":
        return f"{prefix}file {item.spec['paths'][number]!r}"
    if item.kind == "file":
        return f"{prefix}file {item.spec['file']!r}"
    if item.kind == "numpy":
        return f"{prefix}array"
    return f"{prefix}column file {number} of {len(item.parts)}"
