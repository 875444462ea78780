"""Progress bars: on a terminal only, gone when done, never in pipes or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bytes_progress(title: str, *, total: int, enabled: bool = True) -> Iterator[Callable[[int], None] | None]:
    """A bar fed with the bytes of each step; yields ``None`` where nobody watches, so that the work need not report."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total or None)
        yield lambda count: bar.advance(task, count)
