"""Leases of a living holder do not run out while it waits for a slow platform."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Keeper:
    """Calls ``renew`` every ``every_s`` while at least one effect is under way, on one thread that exists only then."""

    def __init__(self, renew: Callable[[], object], *, every_s: float) -> None:
        self._renew = renew
        self._every_s = every_s
        self._lock = threading.Lock()
        self._held = 0
        self._idle = threading.Event()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """For the time of one effect."""
        with self._lock:
            self._held += 1
            if self._held == 1:
                self._idle = threading.Event()
                threading.Thread(target=self._keep, args=(self._idle,), name="lease-keeper", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                if not self._held:
                    self._idle.set()

    def _keep(self, idle: threading.Event) -> None:
        while not idle.wait(self._every_s):
            # The next beat tries again; and a lease that runs out is fenced, never harmful.
            with suppress(Exception):
                self._renew()
