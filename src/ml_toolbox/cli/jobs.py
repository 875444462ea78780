"""``mltoolbox jobs``: what was started, how it is doing, and its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import NotYet
from ml_toolbox.cli.history import history_data, money, print_history
from ml_toolbox.cli.output import duration, json_option, number, print_fields, print_json, print_table, short_id, when
from ml_toolbox.cli.parameters import confirm, yes_option

if TYPE_CHECKING:
    from ml_toolbox.features.costs import Taker
    from ml_toolbox.features.training import JobRecord


@click.group()
def jobs() -> None:
    """List, follow, stop and delete training jobs.

    JOB is a job's name (the newest of that name), its id, or the beginning of the id.
    """


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many, newest first.")
@json_option
def list_jobs(limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    toolbox = Toolbox()
    found = toolbox.training.list(limit=limit) if toolbox.has_state else ()
    if as_json:
        print_json(found)
        return
    costs = any(j.spent.micros or j.held.micros for j in found)
    rows = [
        (
            short_id(j.id),
            j.name,
            j.state.value,
            "" if j.progress is None or j.state.is_final else f"{j.progress:.0%}",
            j.backend,
            when(j.created_at),
            duration(j.ended_at - j.started_at) if j.ended_at and j.started_at else "",
            *((_cost(j),) if costs else ()),
            j.model or "",
        )
        for j in found
    ]
    print_table(
        ("id", "name", "state", "progress", "backend", "created", "took", *(("cost",) if costs else ()), "model"),
        rows,
        empty="No jobs yet. Start one: mltoolbox train train.py",
    )


def _cost(record: JobRecord) -> str:
    """Spent, and in brackets what may come to it."""
    return f"{record.spent}" + (f" (+{record.held})" if record.held.micros else "")


@jobs.command()
@click.argument("job")
@json_option
def show(job: str, as_json: bool) -> None:
    """Show one job: state, metrics, failure, money, attempts, what it waits for, and every step it went through."""
    toolbox = Toolbox()
    training = toolbox.training
    record = training.get(job)
    history = training.history(record.id)
    takers = _in_its_way(toolbox, record)
    if as_json:
        steps = history_data(history, created_at=record.created_at)
        print_json({"job": record, "history": steps, "waiting_for": takers})
        return
    _print_job(toolbox, record)
    if takers:
        click.echo()
        rows = [(t.kind, t.name, t.work_id, f"{t.hourly}/h") for t in takers]
        print_table(("room is taken by", "name", "id", "price"), rows, empty="")
    if len(record.attempts) > 1 or (record.attempts and record.hourly.micros):
        click.echo()
        _print_attempts(record)
    click.echo()
    print_history(history, created_at=record.created_at, ended=record.ended_at is not None and record.state.is_final)


def _in_its_way(toolbox: Toolbox, record: JobRecord) -> tuple[Taker, ...]:
    """What has taken the room that a job in line waits for."""
    if record.attempts and not record.attempts[-1].ended_at:
        return ()
    if not record.waiting_for or record.state.is_final:
        return ()
    full = [
        limit.scope
        for limit in toolbox.budgets.list()
        if limit.scope in record.scopes
        and limit.meter != "cost"
        and record.waiting_for.startswith(f"budget {limit.name}:")
    ]
    found = {taker.work_id: taker for scope in full for taker in toolbox.budgets.takers(scope) if taker.running}
    return tuple(found.values())


def _budgets(toolbox: Toolbox, record: JobRecord) -> str:
    from ml_toolbox.features.costs.outlook import held_by

    if record.state.is_final or not record.hourly.micros:
        return ""
    return "\n".join(held_by(toolbox.budgets.list(), record.scopes))


def _print_attempts(record: JobRecord) -> None:
    rows = [
        (
            one.number,
            one.resource,
            when(one.submitted_at),
            duration(one.ended_at - one.submitted_at) if one.ended_at else "",
            duration(one.limit_s),
            money(one.spent, one.held),
            f"step {one.checkpoint.step}" if one.checkpoint else "",
            one.end or "goes on",
        )
        for one in record.attempts
    ]
    print_table(("attempt", "resource", "begun", "took", "at most", "money", "checkpoint", "end"), rows, empty="")


def _print_job(toolbox: Toolbox, record: JobRecord) -> None:
    print_fields(
        [
            ("job", f"{record.name} ({record.id})"),
            ("state", record.state.value),
            ("waiting for", record.waiting_for),
            ("message", record.message if record.message != record.waiting_for else ""),
            ("failure", record.failure),
            ("next step", record.failure.next_step if record.failure else ""),
            ("backend", record.backend),
            ("attempt", record.attempt),
            ("project", record.spec.project),
            ("money", money(record.spent, record.held)),
            ("paid by", _budgets(toolbox, record)),
            ("script", record.spec.script or " ".join(record.spec.command or ())),
            ("source", f"{record.source} ({record.code_sha256[:12]})"),
            ("inputs", "\n".join(f"{name}: {uri}" for name, uri in record.spec.inputs.items())),
            ("parameters", ", ".join(f"{k}={number(v)}" for k, v in record.spec.hyperparameters.items())),
            ("progress", f"{record.progress:.0%}" if record.progress is not None else ""),
            ("checkpoint", f"step {saved.step} at {saved.uri}" if (saved := record.checkpoint) else ""),
            ("metrics", ", ".join(f"{k}={number(v)}" for k, v in sorted(record.metrics.items()))),
            ("created", when(record.created_at)),
            ("started", when(record.started_at)),
            ("ended", when(record.ended_at)),
            ("exit code", record.exit_code if record.exit_code else ""),
            ("model", record.model or record.model_uri or ""),
            ("outputs", record.output_uri or ""),
        ]
    )


@jobs.command()
@click.argument("job")
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until the job has ended. Ctrl-C stops following, not the job."
)
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with its time.")
def logs(job: str, follow: bool, timestamps: bool) -> None:
    """Print everything that JOB printed."""
    training = Toolbox().training
    try:
        for line in training.logs(job, follow=follow):
            text = f"{iso(line.at)} {line.text}" if timestamps else line.text
            click.echo(text, err=line.stream == "system")
    except KeyboardInterrupt:
        sys.exit(130)


@jobs.command()
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Return once the job has been told.")
def stop(job: str, no_wait: bool) -> None:
    """Ask JOB to stop; it is killed after its grace time. What it saved so far is kept."""
    training = Toolbox().training
    record = training.stop(job)
    if not no_wait and not record.state.is_final:
        record = training.wait(record.id)
    click.echo(f"{record.name} is {record.state.value}")


@jobs.command()
@click.argument("job")
@click.option(
    "--notice",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between the notice and the kill.",
)
@json_option
def preempt(job: str, notice: float, as_json: bool) -> None:
    """Take JOB's capacity away, as a cloud takes back spot capacity: a rehearsal.

    The script gets the same notice as in a stop (SIGTERM, and runtime.should_stop() is true), is killed after SECONDS, and
    the next attempt resumes from the last checkpoint (--retry-preempted says how many attempts there are). Returns at once.
    """
    record = Toolbox().training.preempt(job, notice_s=notice)
    if as_json:
        print_json(record)
    elif record.state.is_final:
        click.echo(f"{record.name} is {record.state.value}")
    else:
        click.echo(f"{record.name} (attempt {record.attempt}) loses its capacity in {notice:g} s")


@jobs.command()
@click.argument("job")
@yes_option
def delete(job: str, yes: bool) -> None:
    """Remove JOB with its logs and outputs; a running one is killed. Registered models stay."""
    training = Toolbox().training
    record = training.get(job)
    confirm(f"delete job {record.name} ({record.id}), its logs and outputs?", yes=yes)
    try:
        training.delete(record.id)
    except NotYet as under_way:
        click.echo(f"{under_way.message}; the next command goes on with it")
        return
    click.echo(f"{record.name} ({record.id}) is deleted")
