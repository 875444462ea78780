"""What the registry's objects contain, and their bytes. No I/O.

JSON for what a person may want to read in the store; MessagePack with zlib for index segments. Unknown fields are
ignored, so that an older release reads what a newer one wrote, unless the newer one raised ``FORMAT``.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.base.ids import canonical_json
from ml_toolbox.packages.layout import MLMODEL_NAME
from ml_toolbox.packages.manifest import MANIFEST_NAME, Manifest

FORMAT = 1


class StoredFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a version; its bytes are the blob of this hash."""

    path: str
    size: int
    sha256: str


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One commit: ``versions/<number>.json``. Written once, by whoever created the object."""

    format: int
    model: str
    number: int
    nonce: str
    """Says whose write this is, when the answer to it was lost."""
    created_at: float
    created_by: str
    manifest: str
    """The exact text of the package's ``mltoolbox.json``: every registration has another one, so it is no blob."""
    extra_files: tuple[StoredFile, ...] = ()
    """Files that the manifest does not list (it cannot list its own signature)."""
    description: str = ""
    tags: dict[str, str] = {}
    source: str = ""
    """Where an imported version came from: ``name:number`` and store."""


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """What a listing tells of a commit, as kept in index segments. New fields go to the end, with defaults."""

    created_at: float
    created_by: str
    description: str
    tags: dict[str, str]
    flavour: str
    metrics: dict[str, float]
    parameters: dict[str, Any]
    job: str
    size: int
    file_count: int
    digest: str
    source: str


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was said about a version after its registration."""

    tags: dict[str, str | None] = {}
    """``None`` removes a tag that came with the registration."""
    description: str | None = None


class HeadLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One audit line. ``op`` is the nonce of the operation, so that a lost answer can be told from a lost race."""

    seq: int
    at: float
    actor: str
    action: str
    op: str
    version: int = 0
    """0: concerns the model itself."""
    detail: dict[str, Any] = {}


class AuditSegment(msgspec.Struct, frozen=True):
    """Lines that left the head, and the segment before this one ("" for the first)."""

    lines: tuple[HeadLine, ...]
    previous: str


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one mutable object of a model. An absent head equals ``Head()``."""

    format: int = FORMAT
    nonce: str = ""
    """Fresh in every swap: equal content never gives an equal version, so compare-and-swap suffers no A-B-A."""
    seq: int = 0
    """Audit lines ever written."""
    last: int = 0
    """Hint: versions up to this number exist. May lag, never leads."""
    description: str = ""
    tags: dict[str, str] = {}
    stages: dict[str, str] = {}
    """Stage -> runs of version numbers; a version in none of them is ``registered``."""
    aliases: dict[str, int] = {}
    deleted: str = ""
    """Runs of soft-deleted versions."""
    model_deleted: bool = False
    notes: dict[int, Note] = {}
    note_buckets: dict[int, str] = {}
    """Bucket -> revision of the object that holds the older notes of its versions."""
    audit: tuple[HeadLine, ...] = ()
    audit_previous: str = ""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An idempotency key: the nonce its version carries and the only number it may be created under."""

    nonce: str
    candidate: int
    content: str
    """Digest of the files, to refuse the same key for something else."""


Record = TypeVar("Record", VersionRecord, Head, KeyRecord, AuditSegment, Manifest)
_encoder = msgspec.json.Encoder()
_decoders = {t: msgspec.json.Decoder(t) for t in (VersionRecord, Head, KeyRecord, AuditSegment, Manifest)}
_notes = msgspec.json.Decoder(dict[int, Note])
_packer = msgspec.msgpack.Encoder()
_unpack_rows = msgspec.msgpack.Decoder(list[msgspec.Raw])
_unpack_summary = msgspec.msgpack.Decoder(Summary)


def encode(record: msgspec.Struct | dict[int, Note]) -> bytes:
    return _encoder.encode(record)


def decode(kind: type[Record], data: bytes | str, *, resource: str) -> Record:
    """The record in ``data``. ``Invalid`` when it is none, ``Unsupported`` when a newer release wrote it."""
    try:
        record: Record = _decoders[kind].decode(data)  # type: ignore[assignment]
    except msgspec.MsgspecError as error:
        raise _broken(resource, str(error)) from error
    if isinstance(record, VersionRecord | Head) and record.format > FORMAT:
        raise Unsupported(
            f"{resource} has format {record.format}, this release reads up to {FORMAT}",
            hint="install a newer ml-toolbox",
            resource=resource,
        )
    return record


def decode_notes(data: bytes, *, resource: str) -> dict[int, Note]:
    try:
        return _notes.decode(data)
    except msgspec.MsgspecError as error:
        raise _broken(resource, str(error)) from error


def encode_summaries(rows: Sequence[Summary | msgspec.Raw]) -> bytes:
    # Level 1: 10 MB instead of 34 for 100,000 typical rows; level 6 gains another 5 % for three times the time.
    return zlib.compress(_packer.encode(list(rows)), 1)


def decode_rows(data: bytes, *, resource: str) -> list[msgspec.Raw]:
    """The rows of a segment, each still packed: splitting 100,000 takes 16 ms, unpacking them ten times as long."""
    try:
        return _unpack_rows.decode(zlib.decompress(data))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise _broken(resource, str(error)) from error


def unpack(row: Summary | msgspec.Raw) -> Summary:
    return row if isinstance(row, Summary) else _unpack_summary.decode(row)


def manifest_of(record: VersionRecord) -> Manifest:
    return decode(Manifest, record.manifest, resource=f"{record.model}:{record.number}/{MANIFEST_NAME}")


def files_of(record: VersionRecord, manifest: Manifest) -> tuple[StoredFile, ...]:
    """Every file but the manifest itself, in path order."""
    listed = [StoredFile(entry.path, entry.size, entry.sha256) for entry in manifest.files]
    return tuple(sorted((*listed, *record.extra_files), key=lambda file: file.path))


def digest_of(manifest: Manifest) -> str:
    """One hash over the model's own files. The manifest, its signature and ``MLmodel`` are left out: they carry the time
    of packaging, and a retrain that changed nothing should show the same digest."""
    entries = sorted([entry.path, entry.sha256] for entry in manifest.files if entry.path != MLMODEL_NAME)
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def summarise(record: VersionRecord) -> Summary:
    manifest = manifest_of(record)
    files = files_of(record, manifest)
    return Summary(
        created_at=record.created_at,
        created_by=record.created_by,
        description=record.description,
        tags=record.tags,
        flavour=manifest.flavour,
        metrics=manifest.lineage.metrics,
        parameters=manifest.lineage.hyperparameters,
        job=manifest.lineage.job,
        size=sum(file.size for file in files) + len(record.manifest.encode()),
        file_count=len(files) + 1,
        digest=digest_of(manifest),
        source=record.source,
    )


def _broken(resource: str, detail: str) -> Invalid:
    return Invalid(
        f"{resource} is not a registry record: {detail}",
        hint="something else wrote below the registry's root, or the storage damaged the object; restore it from a backup",
        resource=resource,
    )
