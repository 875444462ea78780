"""Which places this process can reach. Where one memory is shared by many machines, a process on one of them must not take up
rows whose resources live on another: what it cannot see it would call lost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Places(Protocol):
    """Names of places: a backend, with ``@region`` or ``@machine`` where the same backend has several."""

    def of(self, backend: str) -> str:
        """Where a new row for this backend goes."""

    def elsewhere(self) -> Collection[str]:
        """Places known to the store that this process cannot reach."""


class OnePlaceEach:
    """Every backend is one place, and all of them can be reached."""

    def of(self, backend: str) -> str:
        return backend

    def elsewhere(self) -> Collection[str]:
        return ()
