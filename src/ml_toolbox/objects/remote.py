"""The store on obstore: memory, S3 and its kin, Azure. Adds to the library what its promises lack; see ``conditional``.

obstore is imported and the client built by the first call, so that opening a store,
asking what it lacks, or refusing a key needs no credentials, no network and no import.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from ml_toolbox.base.errors import Invalid, Unavailable
from ml_toolbox.base.uri import MAX_KEY_BYTES, RESERVED_PREFIX, Uri, check_key, check_prefix
from ml_toolbox.objects.conditional import ConditionalWrites, Probe, version_of
from ml_toolbox.objects.faults import translate
from ml_toolbox.objects.forks import CLIENT_LIBRARY
from ml_toolbox.ports.lacks import Lacking, refuse
from ml_toolbox.ports.objects import Body, Listing, Object, ObjectMeta, Overwrite, PutMode, Version

PART_BYTES: Final = 12 * 1024 * 1024
"""Size of an upload's parts. With four on the way and one being filled the process peaks at 103 MiB (at 16 MiB: 127), for
the same time and CPU on loopback."""
_PARTS_IN_FLIGHT: Final = 4
_MAX_PARTS: Final = 9_000  # S3 allows 10,000; the rest is room for a file that grows while it is read
_MAX_COPY_BYTES: Final = 5 * 1024**3  # S3's limit for one CopyObject
_LIST_PAGE: Final = 1000
_OVERWRITE: Final = Overwrite()


Presign: TypeAlias = Callable[[Literal["GET", "PUT"], str, timedelta], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """The obstore objects behind a store: one that retries by itself, and one that never does.

    Conditional writes use the second: when the library repeats such a request after a lost answer, its second attempt
    fails on what its first one wrote, and nothing tells the two cases apart.
    """

    retrying: Any
    once: Any
    presign: Presign | None = None
    """Signs a URL where obstore's own signing does not do."""


class RemoteObjectStore:
    """Implements the port ``ObjectStore`` over one obstore client."""

    def __init__(
        self,
        place: Uri,
        connect: Callable[[], Clients],
        *,
        lacks: Lacking,
        probe: Probe,
        retries: int = 8,
        utf16_listing: bool = False,
    ) -> None:
        self.uri = str(place)
        self._base = f"{place.key}/" if place.key else ""
        self.lacks = lacks
        self._connect = connect
        self._clients: Clients | None = None
        self._lock = threading.Lock()
        self.probe = probe
        self._conditional = ConditionalWrites(
            str(Uri(place.scheme, place.root)), self._base, self._ready, probe=probe, retries=retries
        )
        self._utf16_listing = utf16_listing

    def _ready(self) -> Clients:
        """The clients, built on first use. Raises ``Bug`` in a forked child, ``Denied``/``Invalid`` for bad settings."""
        CLIENT_LIBRARY.check(self.uri)
        if self._clients is None:
            with self._lock:
                if self._clients is None:
                    self._clients = self._connect()
        return self._clients

    def _full(self, key: str) -> str:
        """The key in the bucket."""
        check_key(key)
        if not self._base:
            return key
        full = self._base + key
        if len(full.encode()) > MAX_KEY_BYTES:
            raise Invalid(f"key: longer than {MAX_KEY_BYTES} bytes together with {self.uri}", field="key", resource=key)
        return full

    def _meta(self, raw: Any) -> ObjectMeta:
        # The service's own version id stays out: S3 gives it in the answer to a multipart upload only, so that the version
        # returned by `put` would not equal the one in a listing.
        key = raw["path"][len(self._base) :]
        return ObjectMeta(key, raw["size"], raw["last_modified"], version_of(raw["e_tag"]))

    # reading

    def get(self, key: str) -> Object:
        import obstore

        full = self._full(key)
        store = self._ready().retrying
        try:
            result = obstore.get(store, full)
            return Object(result.bytes().to_bytes(), lambda: self._meta(result.meta))
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self.uri) from error

    def get_range(self, key: str, start: int, end: int) -> bytes:
        check_key(key)
        if not 0 <= start <= end:
            raise _bad_range(key, start, end)
        if start == end:
            if start > self.head(key).size:
                raise _bad_range(key, start, end)
            return b""
        return self._range(key, start, end, None)[0]

    def get_view(self, key: str, start: int, end: int) -> memoryview:
        """Like ``get_range`` for ``start`` before ``end``, without the copy into ``bytes``; for bulk transfers."""
        return self._view(check_key(key), start, end, None)[0]

    def _range(self, key: str, start: int, end: int, e_tag: str | None) -> tuple[bytes, ObjectMeta]:
        view, meta = self._view(key, start, end, e_tag)
        return bytes(view), meta

    def _view(self, key: str, start: int, end: int, e_tag: str | None) -> tuple[memoryview, ObjectMeta]:
        """The bytes and the object they belong to. Servers refuse a range that begins at the end: there that is empty."""
        import obstore

        full = self._full(key)
        store = self._ready().retrying
        options: Any = {"range": (start, end)}
        if e_tag is not None:
            options["if_match"] = e_tag
        try:
            result = obstore.get(store, full, options=options)
            meta = self._meta(result.meta)
            return memoryview(result.bytes()), meta
        except Exception as error:  # every class of the library, by the table
            ours = translate(error, key, self.uri)
            if isinstance(
                ours, Unavailable
            ):  # 416 has no class of its own: ask for the size instead of reading the text
                meta = self.head(key)
                if start > meta.size:
                    raise _bad_range(key, start, end) from error
                if start == meta.size:
                    return memoryview(b""), meta
            raise ours from error

    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        """One request per chunk, all bound to the version that the first one met: a slow reader holds no connection open,
        and a cut one costs a chunk. ``Conflict`` when the object is replaced on the way."""
        check_key(key)
        data, meta = self._range(key, 0, chunk_size, None)
        have = 0
        while True:
            if data:
                yield data
            have += len(data)
            if have >= meta.size:
                return
            if not data:
                raise Unavailable(f"{key} in {self.uri}: ended after {have} of {meta.size} bytes", resource=key)
            data, _ = self._range(key, have, min(have + chunk_size, meta.size), meta.version.e_tag)

    def head(self, key: str) -> ObjectMeta:
        import obstore

        full = self._full(key)
        store = self._ready().retrying
        try:
            return self._meta(obstore.head(store, full))
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self.uri) from error

    # writing

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        full = self._full(key)
        if not isinstance(mode, Overwrite):
            return self._conditional.put(full, _in_memory(body), mode)
        import obstore

        store = self._ready().retrying
        data, size = _sized(body)
        part = max(PART_BYTES, -(-size // _MAX_PARTS))
        in_flight = max(1, min(_PARTS_IN_FLIGHT, _PARTS_IN_FLIGHT * PART_BYTES // part))
        try:
            result = obstore.put(store, full, data, mode="overwrite", chunk_size=part, max_concurrency=in_flight)
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self.uri) from error
        # A server may answer without a tag; then the object is asked for it.
        return version_of(result["e_tag"]) if result["e_tag"] else self.head(key).version

    def delete(self, key: str) -> None:
        import obstore

        full = self._full(key)
        store = self._ready().retrying
        try:
            obstore.delete(store, full)
        except FileNotFoundError:  # Azure says so, S3 does not: the same to the caller
            return
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self.uri) from error

    def copy(self, source: str, target: str) -> None:
        import obstore

        full = self._full(target)
        if self.head(source).size > _MAX_COPY_BYTES:
            self.put(target, self.stream(source))
            return
        try:
            obstore.copy(self._ready().retrying, self._base + source, full)
        except Exception as error:  # every class of the library, by the table
            raise translate(error, source, self.uri) from error

    # listing

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        below = check_prefix(prefix)
        after = check_prefix(start_after, field="start_after")
        objects = self._pages(below, after)
        return _reordered(objects) if self._utf16_listing else objects

    def _pages(self, below: str, after: str) -> Iterator[ObjectMeta]:
        import obstore

        store = self._ready().retrying
        base = self._base
        cut = len(base)
        inside = (base + below).rstrip("/") or None
        try:
            for page in obstore.list(store, inside, offset=base + after if after else None, chunk_size=_LIST_PAGE):
                for raw in page:
                    key = raw["path"][cut:]
                    if key > after and not (RESERVED_PREFIX in key and _reserved(key)):
                        yield ObjectMeta(key, raw["size"], raw["last_modified"], version_of(raw["e_tag"]))
        except Exception as error:  # every class of the library, by the table
            raise translate(error, below, self.uri) from error

    def list_level(self, prefix: str = "") -> Listing:
        import obstore

        store = self._ready().retrying
        below = check_prefix(prefix)
        try:
            level = obstore.list_with_delimiter(store, (self._base + below).rstrip("/") or None)
        except Exception as error:  # every class of the library, by the table
            raise translate(error, below, self.uri) from error
        objects = sorted((self._meta(raw) for raw in level["objects"]), key=lambda meta: meta.key)
        prefixes = sorted(f"{path[len(self._base) :]}/" for path in level["common_prefixes"])
        return Listing(
            tuple(meta for meta in objects if not _reserved(meta.key)),
            tuple(path for path in prefixes if not _reserved(path)),
        )

    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        full = self._full(key)
        if "presign" in self.lacks:
            refuse(self.lacks, "presign", who=self.uri)
        if expires <= timedelta(0):
            raise Invalid(f"expires: {expires} is not a time to come", field="expires")
        import obstore

        clients = self._ready()
        if clients.presign is not None:
            return clients.presign(method, full, expires)
        try:
            url: str = obstore.sign(clients.retrying, method, full, expires)
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self.uri) from error
        return url


def _reserved(key: str) -> bool:
    """Whether a segment is one of those that stores keep for themselves: a probe whose process was killed."""
    return RESERVED_PREFIX in key and (key.startswith(RESERVED_PREFIX) or f"/{RESERVED_PREFIX}" in key)


def _bad_range(key: str, start: int, end: int) -> Invalid:
    return Invalid(f"range: {start}-{end} is no range of {key}", field="range", resource=key)


def _in_memory(body: Body) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, Path):
        return body.read_bytes()
    return b"".join(_chunks(body))


def _sized(body: Body) -> tuple[Any, int]:
    """The body as obstore takes it, and its size as far as it is known (0: unknown).

    What fits one part is sent as one request, whatever shape it came in: a multipart upload of a few bytes takes three.
    """
    if isinstance(body, bytes):
        return body, len(body)
    if isinstance(body, Path):
        size = body.stat().st_size
        return (body, size) if size > PART_BYTES else (body.read_bytes(), size)
    chunks = _chunks(body)
    head: list[bytes] = []
    have = 0
    for chunk in chunks:
        head.append(chunk)
        have += len(chunk)
        if have > PART_BYTES:
            return itertools.chain(head, chunks), 0
    return b"".join(head), have


def _chunks(body: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(body, "read", None)
    if read is None:
        yield from body
    else:
        while chunk := read(PART_BYTES // 4):
            yield chunk


def _reordered(objects: Iterator[ObjectMeta]) -> Iterator[ObjectMeta]:
    """A listing in UTF-16 order (Azurite's), put into UTF-8 order.

    The two differ only where one key has a character beyond U+FFFF and another one of U+E000 to U+FFFF at the same place.
    So from the first key with such a character on, those that agree with it up to there are held back and sorted; all
    others pass through.
    """
    held: list[ObjectMeta] = []
    common = ""
    for meta in objects:
        if held and not meta.key.startswith(common):
            yield from sorted(held, key=lambda one: one.key)
            held = []
        if held:
            held.append(meta)
        elif (wide := next((at for at, char in enumerate(meta.key) if char > "\uffff"), None)) is not None:
            common = meta.key[:wide]
            held = [meta]
        else:
            yield meta
    yield from sorted(held, key=lambda one: one.key)
