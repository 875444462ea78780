"""What a transfer remembers: the hash of each file, and the version of the object that holds it.

An entry is believed only while the object still has that version, so a record that is old, or was written by two
transfers at once, costs a file sent again and never a file wrongly left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ml_toolbox.base.errors import NotFound
from ml_toolbox.base.ids import digest
from ml_toolbox.base.uri import Uri
from ml_toolbox.objects.local import LocalObjectStore
from ml_toolbox.ports.objects import ObjectStore, Version

MANIFEST_NAME: Final = ".mltoolbox-manifest.json"
"""Name of the record that an upload leaves beside the objects. Neither uploaded nor downloaded as a file."""
_FORMAT: Final = 1
_HASH_BYTES: Final = 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its bytes by size and sha256 (hex), and the version of its object."""

    size: int
    sha256: str
    e_tag: str | None

    def is_of(self, version: Version) -> bool:
        return self.e_tag is not None and self.e_tag == version.e_tag


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record is kept, and what it says."""

    store: ObjectStore
    key: str
    entries: dict[str, Entry]

    def save(self) -> None:
        text = {"format": _FORMAT, "files": {name: asdict(entry) for name, entry in sorted(self.entries.items())}}
        self.store.put(self.key, json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode())


def load(store: ObjectStore, key: str) -> Record:
    """The record under ``key``; an absent or unreadable one is empty, which makes the transfer a full one."""
    entries: dict[str, Entry] = {}
    try:
        text = json.loads(store.get(key).data)
        if text["format"] == _FORMAT:
            entries = {name: Entry(**fields) for name, fields in text["files"].items()}
    except NotFound:
        return Record(store, key, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("the transfer record %s in %s is unreadable and will be replaced: %s", key, store.uri, error)
    return Record(store, key, entries)


def beside_objects(store: ObjectStore, prefix: str) -> Record:
    """The record of uploads to ``prefix``, kept there, so that the next machine knows it too."""
    return load(store, f"{prefix}/{MANIFEST_NAME}" if prefix else MANIFEST_NAME)


def on_this_machine(folder: Path, store: ObjectStore, prefix: str) -> Record:
    """The record of downloads into ``folder``, kept under ``$MLTOOLBOX_HOME`` (default ``~/.mltoolbox``): a file of ours
    inside the folder would meet training scripts that read every file there."""
    home = os.environ.get("MLTOOLBOX_HOME") or os.path.expanduser("~/.mltoolbox")
    cache = LocalObjectStore(Uri.parse(Path(home) / "cache" / "transfers"))
    return load(cache, f"{digest([os.path.realpath(folder), store.uri, prefix])}.json")


def file_sha256(path: Path) -> str:
    """sha256 (hex) of the file's bytes, read in megabytes."""
    with path.open("rb", buffering=0) as file:
        summary = hashlib.sha256()
        while chunk := file.read(_HASH_BYTES):
            summary.update(chunk)
    return summary.hexdigest()
