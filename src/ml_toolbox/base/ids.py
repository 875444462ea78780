"""Names and ids: sortable unique ids, deterministic names and tokens, and the one rule for user-given names."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from typing import Any

from ml_toolbox.base.errors import Invalid

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
# Short enough to leave room for `mlt-`, an id and an attempt within the 63 characters of DNS labels and SageMaker.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def new_ulid(now: float | None = None) -> str:
    """A 26-character lower-case ULID: 48 bits of milliseconds, 80 random bits; sorts by time of creation."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    digits = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits.append(_CROCKFORD[digit])
    return "".join(reversed(digits))


def ulid_time(text: str) -> float | None:
    """When the ULID was made, in seconds since the epoch; ``None`` when the text is not one."""
    if len(text) != 26 or any(digit not in _CROCKFORD for digit in text):
        return None
    number = 0
    for digit in text:
        number = number * 32 + _CROCKFORD.index(digit)
    return (number >> 80) / 1000


def nonce() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return os.urandom(16).hex()


def canonical_json(value: Any) -> bytes:
    """The same bytes for equal values, whatever the key order: the ground of hashes and tokens."""
    return _canonical.encode(value).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_name(name: str, *, field: str = "name") -> str:
    """Return ``name`` unchanged when it is a legal name for a model, job, endpoint or dataset.

    Letters, digits, ``.``, ``_`` and ``-``; begins and ends with a letter or digit; at most 63 characters. No ``..``, so a
    name can be a path segment and an object key. Raises :class:`Invalid` naming ``field`` otherwise.
    """
    if not isinstance(name, str) or not _NAME.match(name) or ".." in name:
        raise Invalid(
            f"{field}: {name!r} is not a legal name",
            hint="use 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit",
            field=field,
        )
    return name
