"""The address of content: a function of its bytes alone, quick to make on several cores, checked with ``sha256sum``.

Content of up to 8 MiB has its sha256 for an address. Longer content is cut into pieces of 8 MiB, the last one shorter, and
has ``<sha256 of the pieces' sha256s, 32 bytes each, in order>-<number of pieces>``: the construction of Amazon S3's composite
checksums of multipart uploads. The number keeps the two kinds apart: no short content has the address of a long one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

PIECE = 8 * 1024 * 1024
"""Part of the format: another size would give other addresses."""

_THREADS = min(4, os.cpu_count() or 1)
_WAITING = 4
"""Pieces that may wait for a thread when waiting costs memory: 32 MiB."""


class ContentHash:
    """Makes the address of content that is given in order, in chunks of any size, on several cores.

    A context, which ends its threads. The chunks must not be changed before :meth:`address` has returned. ``held``: they are
    views of memory that is held anyway, so any number of them may wait; else :meth:`update` blocks while four pieces wait.
    """

    def __init__(self, *, held: bool) -> None:
        self._held = held
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dataset-hash")
        self._digests: list[Future[bytes]] = []
        self._piece: list[memoryview] = []
        self._room = PIECE

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def update(self, chunk: Any) -> None:
        """Take any contiguous buffer."""
        rest = memoryview(chunk).cast("B")
        while rest:
            taken = rest[: self._room]
            self._piece.append(taken)
            self._room -= len(taken)
            rest = rest[len(taken) :]
            if not self._room:
                self._submit()

    def _submit(self) -> None:
        if not self._held and len(self._digests) >= _WAITING:
            self._digests[-_WAITING].result()
        # sha256 releases the interpreter, so that the pieces are really hashed side by side.
        self._digests.append(self._pool.submit(_digest, self._piece))
        self._piece, self._room = [], PIECE

    def address(self) -> str:
        """The address of all that was given; nothing may be given after it."""
        if self._piece or not self._digests:
            self._submit()
        digests = [digest.result() for digest in self._digests]
        if len(digests) == 1:
            return digests[0].hex()
        return f"{hashlib.sha256(b''.join(digests)).hexdigest()}-{len(digests)}"


def _digest(piece: Sequence[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for chunk in piece:
        digest.update(chunk)
    return digest.digest()


def address_of(data: Any) -> str:
    """The address of one buffer."""
    view = memoryview(data).cast("B")
    if len(view) <= PIECE:
        return hashlib.sha256(view).hexdigest()
    with ContentHash(held=True) as content:
        content.update(view)
        return content.address()
