"""Work that nobody waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ml_toolbox.base.errors import ToolboxError

_log = logging.getLogger(__name__)


class Background:
    """One thread, started on first use. A process that ends waits for it; one that is killed loses nothing, because what
    is done here can be done again by anybody."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[], None]) -> None:
        with self._guard:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix=self._name)
            self._pool.submit(self._guarded, work)

    def close(self) -> None:
        """Wait for what was begun. May be used again afterwards."""
        with self._guard:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ToolboxError as error:
            _log.warning("%s: %s; the next reader does it", self._name, error)
