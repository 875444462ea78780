"""Reading many immutable objects, at the pace of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_WORTH_A_THREAD_S = 0.001
"""A read slower than this waits for a network; faster ones are computing, and threads would only share one interpreter."""
_THREADS = 16


def read_all(read: Callable[[str], T], keys: Sequence[str]) -> list[T]:
    """``read`` of every key, in order. The first error is raised. Remote stores are asked in parallel."""
    results: list[T] = []
    for position, key in enumerate(keys):
        started = time.perf_counter()
        results.append(read(key))
        if time.perf_counter() - started > _WORTH_A_THREAD_S and len(keys) - position > 2:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="registry-read") as pool:
                results.extend(pool.map(read, keys[position + 1 :]))
            break
    return results
