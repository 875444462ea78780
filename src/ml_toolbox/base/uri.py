"""Storage URIs and object keys: parsed once, normalised to a fixed point, unable to leave their root.

One rule for every scheme: a key is a relative ``/``-separated path of literal segments. Nothing is decoded later, so what
is checked here is what the store sees. Keys that only *look* harmless (percent-encoded dots, full-width slashes) would stay
in the root too, but some server, proxy or shell downstream may decode them: they are refused here, for all stores alike.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

from ml_toolbox.base.errors import Invalid

UriLike: TypeAlias = "str | os.PathLike[str] | Uri"

SCHEMES: Final = {"file": "file", "memory": "memory", "s3": "s3", "az": "az", "azure": "az"}
"""Accepted scheme -> the one it is written as afterwards."""

MAX_KEY_BYTES: Final = 1024
"""The limit of S3 and Azure Blob Storage; the local store keeps it too, so that keys can move between stores."""
MAX_SEGMENT_BYTES: Final = 255
"""NAME_MAX of the usual local file systems; all stores keep it, for the same reason."""
RESERVED_PREFIX: Final = ".mlt~"
"""Segments beginning so belong to the stores themselves: temporary files, locks, probes."""

_MAX_PATH_BYTES: Final = 4096
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# C0, DEL, C1, line and paragraph separators; and the bidirectional controls, with which a name shows as another.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\ufeff]")
# UTF-8 forms longer than needed: decoded by careless software to '.', '/' or '\'.
_OVERLONG = re.compile(r"%c[01]%[89ab]|%e0%[89]|%f0%8|%f8|%fc", re.IGNORECASE)
# What nearly every key is made of: nothing in it can be decoded, and a first character other than '.' rules out dot segments
# and the reserved prefix. One match of this costs a fifth of the whole check, and many threads share one interpreter lock.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_=.-]{0,254}+(?:/[A-Za-z0-9_=-][A-Za-z0-9_=.-]{0,254}+)*+")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])\Z")
_ADDRESS = re.compile(r"[0-9.]+\Z")
_CONTAINER = re.compile(r"(?:[a-z0-9](?:-?[a-z0-9]){2,62}|\$root|\$web|\$logs)\Z")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")
_ACCOUNT_HOST = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.core\.windows\.net\Z")
_MEMORY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})\Z")
_SIGNATURE = re.compile(
    r"\?(?:.*&)?(?:sig|x-amz-signature|x-amz-credential|x-goog-signature|awsaccesskeyid)=", re.IGNORECASE
)


def _refuse(text: object, why: str, *, field: str, hint: str = "") -> Invalid:
    shown = repr(text)
    return Invalid(f"{field}: {shown if len(shown) <= 120 else shown[:117] + '...'} {why}", field=field, hint=hint)


def _decoded(segment: str) -> str:
    """What the most eager chain of decoders could make of ``segment``: percent-decoding and NFKC until nothing changes.

    Each round that changes something shortens the text or reaches NFKC's fixed point, so this ends.
    """
    while True:
        after = unicodedata.normalize("NFKC", unquote(segment, errors="replace"))
        if after == segment:
            return segment
        segment = after


def _check_segment(segment: str, whole: str, field: str) -> None:
    if segment in (".", ".."):
        raise _refuse(
            whole, f"contains the segment {segment!r}", field=field, hint="write the path without dot segments"
        )
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        raise _refuse(whole, f"has a segment of more than {MAX_SEGMENT_BYTES} bytes", field=field)
    if segment.startswith(RESERVED_PREFIX):
        raise _refuse(whole, f"uses the reserved prefix {RESERVED_PREFIX!r}", field=field)
    if segment.isascii() and "%" not in segment and segment.strip() not in (".", ".."):
        return  # the common case: nothing to decode, and the whole path was searched for what may not stand in it
    if _OVERLONG.search(segment):
        raise _refuse(whole, "contains an overlong UTF-8 sequence in percent-encoding", field=field)
    plain = _decoded(segment)
    if _CONTROL.search(plain):
        raise _refuse(whole, "contains a percent-encoded control character", field=field)
    if any(part.strip() in (".", "..") for part in re.split(r"[/\\]", plain)):
        raise _refuse(
            whole, "contains a disguised dot segment", field=field, hint="name the object itself, without '..'"
        )


def _check_path(path: str, *, field: str, max_bytes: int) -> str:
    """Check a non-empty relative path and return it."""
    if "\\" in path:
        raise _refuse(path, "contains a backslash", field=field, hint="separate with '/'")
    if _CONTROL.search(path):
        raise _refuse(path, "contains a control or text-direction character", field=field)
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _refuse(path, "is not valid Unicode (lone surrogate)", field=field) from None
    if size > max_bytes:
        raise _refuse(path, f"is longer than {max_bytes} bytes in UTF-8", field=field)
    if path.startswith("/"):
        raise _refuse(path, "is absolute", field=field, hint="keys are relative to the store's root")
    for segment in path.split("/"):
        if not segment:
            raise _refuse(path, "has an empty segment", field=field, hint="no '//' and no '/' at the end")
        _check_segment(segment, path, field)
    return path


def check_key(key: str, *, field: str = "key") -> str:
    """Return ``key`` unchanged when it is a legal object key.

    Raises :class:`Invalid` naming ``field`` for: empty, absolute, empty segments, ``.`` or ``..`` (also percent-encoded,
    doubly so, or in full-width form), backslash, control and text-direction characters, lone surrogates, over 1,024 bytes,
    a segment over 255 bytes, or the prefix that stores keep for themselves.
    """
    if not isinstance(key, str):
        raise Invalid(f"{field}: a key is text, not {type(key).__name__}", field=field)
    if len(key) <= MAX_KEY_BYTES and _PLAIN_KEY.fullmatch(key):
        return key
    if not key:
        raise Invalid(f"{field}: the key is empty", field=field)
    return _check_path(key, field=field, max_bytes=MAX_KEY_BYTES)


def check_prefix(prefix: str, *, field: str = "prefix") -> str:
    """Like :func:`check_key` for a folder-like prefix: may be empty, and one trailing slash is dropped."""
    return check_key(prefix.removesuffix("/"), field=field) if prefix else ""


@dataclass(frozen=True, slots=True)
class Uri:
    """Where an object or a folder of objects lives.

    ``str(uri)`` is the normalised text, and ``Uri.parse(str(uri)) == uri``.

    Attributes:
        scheme: ``file``, ``memory``, ``s3`` or ``az``.
        root: what contains the keys: ``/`` for files, the bucket, the container (or ``account/container``), the name of the
            memory store.
        key: path below the root; "" for the root itself.
    """

    scheme: str
    root: str
    key: str = ""

    @classmethod
    def parse(cls, text: UriLike, *, default_scheme: str = "file") -> Uri:
        """Read a URI or path; raises :class:`Invalid` (field ``uri``) for anything that is not clearly one place.

        Text without ``://`` is a path of this machine when ``default_scheme`` is ``file`` (made absolute against the working
        directory; ``~`` is the home), else ``default_scheme://text``. A *text* path may begin with ``..`` but not contain it
        further on: ``base + '/../..'`` is how injected names escape. A ``PathLike`` is the program's own, so there any
        ``..`` is resolved (as text, symbolic links are not followed).
        """
        if isinstance(text, Uri):
            return text
        if isinstance(text, os.PathLike):
            return _parse_bare(os.path.normpath(_filesystem_text(text)), trusted=True)
        if not isinstance(text, str):
            raise Invalid(f"uri: expected text or a path, not {type(text).__name__}", field="uri")
        if not text.strip():
            raise Invalid("uri: empty", field="uri", hint="give a path, or a URI such as s3://bucket/folder")
        match = _SCHEME.match(text)
        if match is None:
            if default_scheme == "file":
                return _parse_bare(text, trusted=False)
            return cls.parse(f"{default_scheme}://{text}")
        scheme = SCHEMES.get(match[1].lower())
        if scheme is None:
            raise Invalid.choice("uri", match[1], SCHEMES)
        rest = text[match.end() :]
        if scheme == "file":
            return _parse_file(text, rest)
        if _SIGNATURE.search(rest):
            raise Invalid(
                "uri: carries a signature in its query",
                field="uri",
                hint="give the plain URI, and credentials by settings or the cloud's environment variables",
            )
        return _parse_remote(text, scheme, rest)

    def __truediv__(self, child: str) -> Uri:
        """The place ``child`` below this one; ``child`` must be a legal key, so it cannot lead elsewhere."""
        check_key(child, field="uri")
        limit = _MAX_PATH_BYTES if self.scheme == "file" else MAX_KEY_BYTES
        return Uri(
            self.scheme,
            self.root,
            _check_path(f"{self.key}/{child}" if self.key else child, field="uri", max_bytes=limit),
        )

    @property
    def name(self) -> str:
        """The last segment of the key, or "" for a root."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Uri:
        """One level up; a root is its own parent."""
        return Uri(self.scheme, self.root, self.key.rpartition("/")[0])

    @property
    def path(self) -> str:
        """The absolute path of a ``file`` URI; raises :class:`Invalid` for every other scheme."""
        if self.scheme != "file":
            raise Invalid(f"uri: {self} is not on this machine", field="uri", hint="download it first")
        return f"/{self.key}"

    def __str__(self) -> str:
        if self.scheme == "file":
            # The exact inverse of the decoding in `_parse_file`.
            return "file:///" + quote(self.key, safe="/!$&'()*+,;=:@-._~")
        root = self.root
        if self.scheme == "az" and "/" in root:
            account, container = root.split("/")
            root = f"{container}@{account}"
        return f"{self.scheme}://{root}/{self.key}" if self.key else f"{self.scheme}://{root}"


def _filesystem_text(path: os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise Invalid("uri: a path of bytes", field="uri", hint="use a path of text")
    return text


def _parse_bare(text: str, *, trusted: bool) -> Uri:
    """A path as a shell would give it: literal (nothing is decoded), relative to the working directory."""
    if re.match(r"[A-Za-z]:", text):
        raise _refuse(text, "begins with a drive letter", field="uri", hint="use a POSIX path")
    if text.startswith(("//", "\\\\")):
        raise _refuse(text, "names a network host", field="uri", hint="mount it, and give the mount's path")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) and text.partition(":")[0].lower() in SCHEMES:
        raise _refuse(
            text, "lacks the '//' of a URI", field="uri", hint=f"{text.partition(':')[0]}://…, or ./{text} for a file"
        )
    if text == "~" or text.startswith("~/"):
        home = os.path.expanduser("~")
        text = home + text[1:]
    steps = text.rstrip("/").split("/")
    if not trusted:
        while len(steps) > 1 and steps[0] in (".", ".."):
            steps.pop(0)
        if any(step == ".." for step in steps[1:]):
            raise _refuse(text, "contains '..' after a name", field="uri", hint=f"write {os.path.normpath(text)}")
    return _file_uri(text, os.path.abspath(text))


def _parse_file(text: str, rest: str) -> Uri:
    """``file:///absolute/path`` (RFC 8089), percent-encoded as ``Path.as_uri`` writes it."""
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise _refuse(text, "names a host", field="uri", hint="files of this machine are file:///absolute/path")
    if "?" in path or "#" in path:
        raise _refuse(text, "has a query or fragment", field="uri", hint="write ? as %3F and # as %23")
    if _OVERLONG.search(path):
        raise _refuse(text, "contains an overlong UTF-8 sequence", field="uri")
    if re.search(r"%2f|%5c|%00", path, re.IGNORECASE):
        raise _refuse(text, "hides a separator in percent-encoding", field="uri")
    try:
        plain = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise _refuse(text, "is not UTF-8", field="uri") from None
    return _file_uri(text, "/" + plain.removesuffix("/"))


def _file_uri(text: str, absolute: str) -> Uri:
    key = absolute[1:]
    if re.match(r"[A-Za-z]:", key):
        raise _refuse(text, "begins with a drive letter", field="uri", hint="use a POSIX path")
    return Uri("file", "/", _check_path(key, field="uri", max_bytes=_MAX_PATH_BYTES) if key else "")


def _parse_remote(text: str, scheme: str, rest: str) -> Uri:
    authority, _, key = rest.partition("/")
    if scheme == "memory":
        root = authority or "default"
        if not _MEMORY_NAME.match(root):
            raise _refuse(text, "has no legal name of a memory store", field="uri", hint="memory://name/key")
    elif scheme == "s3":
        root = authority
        if not _BUCKET.match(root) or ".." in root or _ADDRESS.match(root):
            raise _refuse(text, "has no legal bucket name", field="uri", hint="s3://bucket/key")
    else:
        root, key = _azure_root(text, authority, key)
    if key.endswith("/"):
        key = key[:-1]
    return Uri(scheme, root, _check_path(key, field="uri", max_bytes=MAX_KEY_BYTES) if key else "")


def _azure_root(text: str, authority: str, key: str) -> tuple[str, str]:
    """``container``, ``container@account`` or ``account.blob.core.windows.net/container``."""
    account = ""
    if host := _ACCOUNT_HOST.match(authority):
        account = host[1]
        container, _, key = key.partition("/")
    elif "@" in authority:
        container, _, host_text = authority.partition("@")
        named = _ACCOUNT_HOST.match(host_text)
        account = named[1] if named else host_text
        if not _ACCOUNT.match(account):
            raise _refuse(text, "has no legal account name", field="uri", hint="az://container@account/key")
    else:
        container = authority
    if not _CONTAINER.match(container) or len(container) > 63:
        raise _refuse(
            text, "has no legal container name", field="uri", hint="az://container/key or az://container@account/key"
        )
    return (f"{account}/{container}" if account else container), key
