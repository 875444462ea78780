"""``ObjectStore``: bytes under keys, with conditional writes. Registry, datasets and leases stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ml_toolbox.ports.lacks import Lacking

CAPABILITIES = ("conditional-create", "compare-and-swap", "presign", "server-side-copy")
"""The optional powers a store may declare as lacking."""


class Version(NamedTuple):
    """Identifies one state of one object, for compare-and-swap. Opaque: only equality means anything.

    On some stores (S3) it is derived from the content, so writing the same bytes again may give the same version: a
    record that must not suffer A-B-A carries a counter or nonce inside.
    """

    e_tag: str | None
    version: str | None = None


class ObjectMeta(NamedTuple):
    """What a listing tells of an object. A named tuple, because listings make hundreds of thousands of them and a frozen
    dataclass takes three times as long to make."""

    key: str
    size: int
    """Bytes."""
    last_modified: datetime
    version: Version


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """A whole object in memory."""

    data: bytes
    describe: Callable[[], ObjectMeta] = field(repr=False)
    """Makes ``meta``, without asking the store again. Called only for those who want it: most readers want the bytes, and
    with many threads on one interpreter lock the description costs them (measured: 8 % of a get of 100 KiB, 16 threads)."""

    @property
    def meta(self) -> ObjectMeta:
        """Size, time and version of exactly these bytes."""
        return self.describe()


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Put whatever is there."""


@dataclass(frozen=True, slots=True)
class CreateOnly:
    """Put only when no object is there."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Put only when the object is there in exactly this version."""

    version: Version


PutMode: TypeAlias = Overwrite | CreateOnly | IfMatch
Body: TypeAlias = bytes | Path | BinaryIO | Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Listing:
    """One level of a hierarchy: objects directly under a prefix, and the sub-prefixes (each ending in ``/``)."""

    objects: tuple[ObjectMeta, ...] = ()
    prefixes: tuple[str, ...] = field(default=())


@runtime_checkable
class ObjectStore(Protocol):
    """Objects below one root. Keys are relative, ``/``-separated, normalised, and cannot leave the root.

    Every method raises ``Invalid`` for an illegal key (empty, ``..``, NUL, backslash, absolute, over 1,024 UTF-8 bytes
    or 255 in one segment; ``base.uri.check_key`` has the whole list),
    ``Denied`` for missing credentials or permissions, ``Unavailable`` for a passing fault (already retried), and
    ``Unsupported`` with the declared reason for what ``lacks`` names. All are safe to call from many threads. In a process
    forked after the store was first used, every call raises ``Bug`` with the remedy rather than hanging.
    """

    @property
    def uri(self) -> str:
        """The root as a normalised URI, without credentials and without trailing slash."""

    @property
    def lacks(self) -> Lacking:
        """What this store cannot do; keys from ``CAPABILITIES``. Needs no credentials and no network."""

    def get(self, key: str) -> Object:
        """The whole object. ``NotFound`` when absent. A reader never sees a half-written object."""

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive), cut off at the end of the object. ``NotFound`` when absent, ``Invalid``
        when ``start`` is negative, past the size, or after ``end``."""

    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        """The object in chunks, memory bounded by a few chunks. ``NotFound`` on the first step when absent."""

    def head(self, key: str) -> ObjectMeta:
        """Size, time and version without the bytes. ``NotFound`` when absent."""

    def put(self, key: str, body: Body, *, mode: PutMode = Overwrite()) -> Version:
        """Write the object and return its version once it is durable.

        Atomic: readers see the old object or the whole new one. ``Overwrite`` may be called again with the same effect and
        sends large bodies in parts. ``CreateOnly`` raises ``Conflict`` when an object is there, ``IfMatch`` when the object
        is absent or in another version; in both cases nothing was written. A conditional put that *this call* performed is
        never reported as a conflict, also when the answer to it was lost. Conditional bodies are sent in one request and
        held in memory: keep them small.
        """

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        """All objects below the *path* ``prefix`` (whole segments; not an object of that very name), in key order (by UTF-8
        bytes), after ``start_after``. Lazy: memory does not grow with the number of keys. Nothing there: an empty iterator."""

    def list_level(self, prefix: str = "") -> Listing:
        """The objects and sub-prefixes directly under ``prefix``. Nothing there: an empty listing."""

    def delete(self, key: str) -> None:
        """Remove the object. Absent: silent. Called twice: silent."""

    def copy(self, source: str, target: str) -> None:
        """Copy within the store, overwriting ``target``, without the bytes passing through when the store can.
        ``NotFound`` when ``source`` is absent."""

    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        """A URL that lets its bearer do this one thing until it expires. Says nothing about whether the object exists."""
