"""Following a job: its lines as they come, a progress line on a terminal, and one closing sentence."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Self

import click

from ml_toolbox.cli.output import duration, number, print_json
from ml_toolbox.domain.jobs import JobState

if TYPE_CHECKING:
    from rich.progress import Progress

    from ml_toolbox.features.training import JobRecord, Training
    from ml_toolbox.ports.jobs import LogLine

_LOOK_EVERY_S = 0.3


def follow(training: Training, job_id: str, *, as_json: bool = False) -> int:
    """Print the job's lines until it ends; 0 when it succeeded, else 1. Ctrl-C stops the job and waits for its end.

    With ``as_json`` the lines go to stderr and the final record to stdout.
    """
    try:
        with _Screen(training, job_id, to_stderr=as_json) as screen:
            for line in training.logs(job_id, follow=True):
                # The closing sentence says the same, with the next step.
                if not (line.stream == "system" and line.text.startswith("failed: ")):
                    screen.show(line)
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


class _Screen:
    """Where a job's lines go while a bar may stand below them. A thread looks for progress, so that a silent script moves
    the bar too; without a terminal there is neither thread nor bar."""

    def __init__(self, training: Training, job_id: str, *, to_stderr: bool) -> None:
        self._training = training
        self._job_id = job_id
        self._to_stderr = to_stderr
        self._bar: Progress | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and not self._to_stderr:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def show(self, line: LogLine) -> None:
        with self._lock:
            if self._bar is not None:
                # Through the bar's own console: anything written past it would be wiped out with the bar.
                self._bar.console.print(line.text, markup=False, highlight=False, soft_wrap=True)
            else:
                click.echo(line.text, err=self._to_stderr or line.stream != "out")

    def _look(self) -> None:
        task = None
        while not self._done.wait(_LOOK_EVERY_S):
            record = self._training.get(self._job_id)
            if record.progress is None or record.state.is_final:
                continue
            with self._lock:
                if self._bar is None:
                    self._bar = _new_bar()
                    self._bar.start()
                    task = self._bar.add_task(record.name, total=1.0)
                epoch = f" epoch {record.epoch}" if record.epoch is not None else ""
                if task is not None:
                    self._bar.update(task, completed=record.progress, description=f"{record.name}{epoch}")


def _new_bar() -> Progress:
    # Loaded only now: a job that reports nothing pays nothing for the bar.
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True)
