"""Following a job: its lines as they come, a progress line on a terminal, and one closing sentence."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ml_toolbox.cli.output import duration, number, print_json
from ml_toolbox.domain.jobs import JobState

if TYPE_CHECKING:
    from rich.progress import Progress

    from ml_toolbox.features.training import JobRecord, Training

_LOOK_EVERY_S = 0.3


def follow(training: Training, job_id: str, *, as_json: bool = False) -> int:
    """Print the job's lines until it ends; 0 when it succeeded, else 1. Ctrl-C stops the job and waits for its end.

    With ``as_json`` the lines go to stderr and the final record to stdout.
    """
    try:
        with _progress(training, job_id, enabled=not as_json):
            for line in training.logs(job_id, follow=True):
                if line.stream == "system" and line.text.startswith("failed: "):
                    continue  # the closing sentence says the same, with the next step
                click.echo(line.text, err=as_json or line.stream != "out")
        record = training.wait(job_id)
    except KeyboardInterrupt:
        click.echo("\nstopping the job (Ctrl-C again leaves it to stop by itself) ...", err=True)
        training.stop(job_id)
        record = training.wait(job_id)
    if as_json:
        print_json(record)
    else:
        click.echo(closing(record), err=record.state is not JobState.SUCCEEDED)
    return 0 if record.state is JobState.SUCCEEDED else 1


def closing(record: JobRecord) -> str:
    """What became of the job, in a line or two."""
    took = duration(record.ended_at - record.started_at) if record.ended_at and record.started_at else ""
    metrics = ", ".join(f"{name}={number(value)}" for name, value in sorted(record.metrics.items()) if name != "epoch")
    if record.state is JobState.SUCCEEDED:
        model = (
            f"; registered {record.model}"
            if record.model
            else f"; model at {record.model_uri}"
            if record.model_uri
            else ""
        )
        return f"{_mark('succeeded', 'green')} {record.name} in {took}{f': {metrics}' if metrics else ''}{model}"
    if record.state is JobState.STOPPED:
        return f"{_mark('stopped', 'yellow')} {record.name} after {took or 'no time'}"
    lines = [f"{_mark('failed', 'red')} {record.name}: {record.failure or record.message or 'no reason was given'}"]
    if record.failure and record.failure.next_step:
        lines.append(f"{click.style('Hint:', fg='yellow')}  {record.failure.next_step}")
    lines.append(f"       full log: mltoolbox jobs logs {record.id}")
    return "\n".join(lines)


def _mark(word: str, colour: str) -> str:
    return click.style(word, fg=colour, bold=True)


@contextlib.contextmanager
def _progress(training: Training, job_id: str, *, enabled: bool) -> Iterator[None]:
    """A bar below the lines, once the job reports progress; a thread looks, so that a silent script moves it too."""
    if not enabled or not sys.stdout.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(training, job_id, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(training: Training, job_id: str, done: threading.Event) -> None:
    bar: Progress | None = None
    task = None
    while not done.wait(_LOOK_EVERY_S):
        record = training.get(job_id)
        if record.progress is None or record.state.is_final:
            continue
        if bar is None:
            # Loaded only now: a job that reports nothing pays nothing for the bar.
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                transient=True,
            )
            bar.start()
            task = bar.add_task(record.name, total=1.0)
        epoch = f" epoch {record.epoch}" if record.epoch is not None else ""
        if task is not None:
            bar.update(task, completed=record.progress, description=f"{record.name}{epoch}")
    if bar is not None:
        bar.stop()
