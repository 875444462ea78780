"""Progress bars: on a terminal only, gone when done, never in pipes or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TransferProgress = Callable[[int, int, int, int], None]
"""(done bytes, total bytes, done files, total files)"""


@contextmanager
def transfer_progress(title: str, *, enabled: bool = True) -> Iterator[TransferProgress | None]:
    """A bar with bytes, speed and files; yields ``None`` where nobody watches, so that the work need not report."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[files]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, files="")

        def report(done_bytes: int, total_bytes: int, done_files: int, total_files: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes, files=f"{done_files}/{total_files} files")

        yield report
