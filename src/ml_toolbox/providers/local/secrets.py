"""Secrets in a folder of this machine: every version in an AES-256-GCM envelope, the key beside it in a file of mode 0600.

Each version is encrypted with a key of its own, and that one with the newest key of the folder; both are bound to the
secret's name, version and time, so a record that is copied to another name or number does not open. What this protects
against: backups, synchronised folders and other users. Not against somebody who can read this user's files.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Denied, Invalid, MissingExtra, NotFound
from ml_toolbox.base.ids import canonical_json, check_name, nonce
from ml_toolbox.ports.lacks import Lacking
from ml_toolbox.ports.secrets import Secret, SecretVersion

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12  # what NIST SP 800-38D recommends for GCM
_TEMPORARY = ".tmp-"


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """One version on disk. Everything but the two sealed fields is readable, and authenticated."""

    name: str
    version: int
    created_at: float
    key: int
    """Number of the key file that opens ``sealed_key``."""
    sealed_key: str
    sealed_value: str


class LocalSecretStore:
    """Implements the port ``SecretStore``. Safe across threads and processes; the folder is created at the first put."""

    lacks: Lacking = MappingProxyType({})

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self._folder = Path(folder)
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"LocalSecretStore({str(self._folder)!r})"

    # The port

    def get(self, name: str, *, version: int | None = None) -> Secret:
        check_name(name)
        numbers = self._numbers(name)
        wanted = (numbers[-1] if numbers else 0) if version is None else version
        try:
            return self._open_record(name, wanted)
        except FileNotFoundError:
            hint = f"its versions are 1 to {numbers[-1]}" if numbers else "`put` it first"
            what = f"version {version} of the secret {name!r}" if version is not None else f"the secret {name!r}"
            raise NotFound(f"there is no {what}", hint=hint, resource=name) from None

    def put(self, name: str, value: Secret) -> SecretVersion:
        check_name(name)
        if not isinstance(value, Secret):
            raise Invalid("value: a Secret is needed", hint="wrap the text: Secret(text)", field="value")
        try:
            clear = value.reveal().encode()
        except UnicodeEncodeError:
            # `from None`: the original error carries the clear text.
            raise Invalid(
                "value: the text is not valid Unicode", hint="encode bytes as base64", field="value"
            ) from None
        with self._locked():
            number = max(self._numbers(name), default=0) + 1
            record = self._seal(name, number, self._clock.now(), clear)
            self._write(self._path(name, number), msgspec.json.encode(record))
        return SecretVersion(name, number, record.created_at)

    def delete(self, name: str) -> None:
        check_name(name)
        with self._locked():
            # Out of sight in one step, so that a crash leaves all versions or none.
            doomed = self._folder / f"{_TEMPORARY}{nonce()}"
            with contextlib.suppress(FileNotFoundError):
                (self._folder / "secrets" / name).rename(doomed)
                _sync_folder(self._folder / "secrets")
            self._sweep()

    def list(self) -> tuple[SecretVersion, ...]:
        try:
            names = sorted(entry.name for entry in (self._folder / "secrets").iterdir())
        except FileNotFoundError:
            return ()
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                if numbers := self._numbers(name):
                    record = self._read(name, numbers[-1])
                    found.append(SecretVersion(name, numbers[-1], record.created_at))
        return tuple(found)

    # Keys

    def rotate_key(self) -> int:
        """Make a new key, seal every version's own key with it, and remove the older keys. Returns its number.

        Safe to interrupt: old keys go last, when nothing needs them; called again it starts over with another new key.
        """
        with self._locked():
            older = self._keys()
            number = self._make_key()
            root = self._folder / "secrets"
            for name in sorted(entry.name for entry in root.iterdir()) if root.exists() else ():
                for version in self._numbers(name):
                    record = self._read(name, version)
                    resealed = self._reseal(record, number)
                    self._write(self._path(name, version), msgspec.json.encode(resealed))
            for old in older:
                self._key_path(old).unlink()
            _sync_folder(self._folder)
        return number

    def _keys(self) -> tuple[int, ...]:
        return tuple(sorted(int(path.stem.partition("-")[2]) for path in self._folder.glob("key-*.bin")))

    def _key_path(self, number: int) -> Path:
        return self._folder / f"key-{number}.bin"

    def _make_key(self) -> int:
        """Called with the lock held."""
        number = max(self._keys(), default=0) + 1
        self._write(self._key_path(number), os.urandom(32))
        return number

    def _cipher(self, number: int) -> AESGCM:
        path = self._key_path(number)
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                key = file.read()
        except FileNotFoundError:
            raise Denied(
                f"the key {path} is gone; what it sealed cannot be read", hint="restore the file from a backup"
            ) from None
        if mode & 0o077:
            raise Denied(f"the key {path} can be read by others (mode {mode:o})", hint=f"chmod 600 {path}")
        if len(key) != 32:
            raise Denied(f"{path} is not a key of 32 bytes", hint="restore the file from a backup")
        return _aesgcm(key)

    # Envelopes

    def _seal(self, name: str, version: int, created_at: float, clear: bytes) -> _Record:
        keys = self._keys()
        number = keys[-1] if keys else self._make_key()
        own = os.urandom(32)
        bound = _bound_to(name, version, created_at)
        return _Record(
            name=name,
            version=version,
            created_at=created_at,
            key=number,
            sealed_key=_encrypt(self._cipher(number), own, b"key:" + bound),
            sealed_value=_encrypt(_aesgcm(own), clear, b"value:" + bound),
        )

    def _reseal(self, record: _Record, number: int) -> _Record:
        bound = _bound_to(record.name, record.version, record.created_at)
        own = _decrypt(self._cipher(record.key), record.sealed_key, b"key:" + bound, record.name)
        sealed = _encrypt(self._cipher(number), own, b"key:" + bound)
        return msgspec.structs.replace(record, key=number, sealed_key=sealed)

    def _open_record(self, name: str, version: int) -> Secret:
        record = self._read(name, version)
        if not self._key_path(record.key).exists():
            record = self._read(name, version)  # the key was rotated between the two looks
        bound = _bound_to(name, version, record.created_at)
        own = _decrypt(self._cipher(record.key), record.sealed_key, b"key:" + bound, name)
        clear = _decrypt(_aesgcm(own), record.sealed_value, b"value:" + bound, name)
        return Secret(clear.decode())

    # Files

    def _path(self, name: str, version: int) -> Path:
        return self._folder / "secrets" / name / f"{version:010d}.json"

    def _numbers(self, name: str) -> tuple[int, ...]:
        folder = self._folder / "secrets" / name
        return tuple(sorted(int(path.stem) for path in folder.glob("[0-9]*.json")))

    def _read(self, name: str, version: int) -> _Record:
        data = self._path(name, version).read_bytes()
        try:
            return msgspec.json.decode(data, type=_Record)
        except msgspec.MsgspecError:
            raise _cannot_open(name) from None

    def _write(self, path: Path, data: bytes) -> None:
        """Durable, whole or not at all, readable only by the owner."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = self._folder / f"{_TEMPORARY}{nonce()}"
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with open(handle, "wb", closefd=True) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            _sync_folder(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, in any process; the kernel lets go when the holder dies."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / "secrets").mkdir(mode=0o700, exist_ok=True)
        handle = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._sweep()
            yield
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what a killed writer left; called with the lock held, so nobody is writing now."""
        for left in self._folder.glob(f"{_TEMPORARY}*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def _bound_to(name: str, version: int, created_at: float) -> bytes:
    return canonical_json({"name": name, "version": version, "created_at": created_at})


def _aesgcm(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise MissingExtra.named("cryptography", "secrets", "the local secret store") from error
    return AESGCM(key)


def _encrypt(cipher: AESGCM, clear: bytes, bound: bytes) -> str:
    start = os.urandom(_NONCE_BYTES)
    return base64.b64encode(start + cipher.encrypt(start, clear, bound)).decode()


def _decrypt(cipher: AESGCM, sealed: str, bound: bytes, name: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        data = base64.b64decode(sealed, validate=True)
        return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise _cannot_open(name) from None


def _cannot_open(name: str) -> Denied:
    return Denied(
        f"the secret {name!r} cannot be opened: its record was changed, or it was sealed with another key",
        hint="restore the record and its key from the same backup, or put the secret again",
        resource=name,
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
