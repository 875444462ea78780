"""``mltoolbox plan`` and ``mltoolbox train``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.cli.output import json_option, print_json
from ml_toolbox.cli.parameters import backend_option, key_values, typed_values

if TYPE_CHECKING:
    from ml_toolbox.domain.jobs import JobSpec
    from ml_toolbox.features.training import Job

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--name", "-n", default=None, help="Name of the job. Default: the model's, or the script's."),
    click.option(
        "--input", "-i", "inputs", multiple=True, metavar="NAME=URI",
        help="Input channel: a file, folder, URI, or data:DATASET[:VERSION]. Repeatable.",
    ),
    click.option(
        "--hp", "hyperparameters", multiple=True, metavar="KEY=VALUE",
        help="Hyper-parameter; JSON values keep their type. Repeatable.",
    ),
    click.option("--register", "-r", default=None, metavar="MODEL", help="Register the result as a version of MODEL."),
    click.option(
        "--metric", "metrics", multiple=True, metavar="NAME=REGEX",
        help="Metric found in printed lines; the first group is its value. Repeatable.",
    ),
    click.option("--requirement", "requirements", multiple=True, metavar="SPEC", help="pip requirement. Repeatable."),
    click.option(
        "--requirements", "requirements_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of pip requirements.",
    ),
    click.option("--env", "variables", multiple=True, metavar="KEY=VALUE", help="Environment variable. Repeatable."),
    click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Repeatable."),
    click.option("--cpus", type=float, default=None, help="Cores per node."),
    click.option("--memory", type=float, default=None, metavar="GIB", help="Memory per node; killed above it."),
    click.option("--accelerators", default=None, metavar="TYPE:COUNT", help="e.g. T4:1, gpu:1"),
    click.option("--max-duration", type=float, default=None, metavar="SECONDS", help="Stop after this long."),
    click.option(
        "--max-cost", type=float, default=None, metavar="USD",
        help="What all attempts together may cost; told to save and stop in time.",
    ),
    click.option(
        "--max-cost-per-hour", type=float, default=None, metavar="USD", help="Take no place dearer than this."
    ),
    click.option("--project", default=None, help="Project whose budget pays besides yours."),
    click.option("--profile", default=None, help="Compute profile whose budget pays as well."),
    click.option(
        "--checkpoints", default=None, metavar="PLACE",
        help="Folder or URI for the checkpoints of all attempts. Default: a place that is deleted with the job.",
    ),
    click.option(
        "--retry-preempted", type=int, default=None, metavar="N",
        help="New attempts when the capacity is taken away. Default: 10.",
    ),
    click.option(
        "--retry-no-capacity", type=int, default=None, metavar="N",
        help="New attempts when there is no capacity to be had. Default: 10.",
    ),
    click.option(
        "--retry-lost", type=int, default=None, metavar="N", help="New attempts when the machine is lost. Default: 0."
    ),
)  # fmt: skip


def job_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("target")
@job_options
@click.option("--endpoint", default=None, help="Plan a deployment of the model TARGET at this endpoint instead.")
@click.option("--weight", type=float, default=None, help="With --endpoint: its share of traffic in percent.")
@click.option("--replicas", type=int, default=None, help="With --endpoint: number of replicas.")
@backend_option
@json_option
def plan(
    target: str,
    endpoint: str | None,
    weight: float | None,
    replicas: int | None,
    backend: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what training TARGET (train.py or spec.yaml) would create, send and cost.

    With --endpoint: what deploying the model TARGET would. Nothing is launched; no credentials are needed.
    """
    from ml_toolbox.cli.plans import print_plan

    toolbox = Toolbox()
    if endpoint is not None:
        made = toolbox.serving.plan(target, endpoint, weight=weight, replicas=replicas, on=backend)
    else:
        made = toolbox.plan(job_spec(target, **options), backend)
    if as_json:
        print_json(made)
    else:
        print_plan(made)


@click.command()
@click.argument("target")
@job_options
@click.option("--detach", "-d", is_flag=True, help="Return once the job is started; it goes on by itself.")
@click.option("--plan", "plan_only", is_flag=True, help="Only show the plan.")
@backend_option
@json_option
def train(target: str, detach: bool, plan_only: bool, backend: str, as_json: bool, **options: Any) -> None:
    """Run TARGET (train.py or spec.yaml) as a job, follow it, and register the model it writes.

    The script needs no change: hyper-parameters arrive as --key value arguments, inputs and the model folder as SM_*,
    AIP_* and AZUREML_* variables, or through ml_toolbox.runtime. Ctrl-C stops the job.

    \b
    mltoolbox train train.py --input training=data.csv --hp n_estimators=200 --register churn
    """
    toolbox = Toolbox()
    spec = job_spec(target, **options)
    if plan_only:
        from ml_toolbox.cli.plans import print_plan

        made = toolbox.plan(spec, backend)
        if as_json:
            print_json(made)
        else:
            print_plan(made)
        return
    toolbox.installed.warm_up(backend)
    job = toolbox.training.submit(spec, backend)
    _tell_money(toolbox, job)
    if detach:
        if as_json:
            print_json(job.record)
        else:
            how = "waits" if job.submitted.waiting_for else "is started"
            click.echo(f"job {spec.name} ({job.id}) {how}; follow it: mltoolbox jobs logs -f {job.id}")
        return
    from ml_toolbox.cli.following import follow

    sys.exit(follow(toolbox.training, job.id, as_json=as_json))


def _tell_money(toolbox: Toolbox, job: Job) -> None:
    """What is held for the job, of whose budget; or what it waits in line for. Nothing for what costs nothing."""
    record = job.submitted
    if record.waiting_for and not record.attempts:
        click.echo(f"waits in line: {record.waiting_for}", err=True)
        return
    if not record.hourly.micros:
        return
    from ml_toolbox.features.costs import Reservation
    from ml_toolbox.features.costs.outlook import held_by

    held = Reservation(scopes=record.scopes, hourly=record.hourly, seconds=record.reserved_s)
    budgets = held_by(toolbox.state.limits(), record.scopes)
    click.echo(f"holds {held}{f' of {budgets[0]}' if budgets else ''}", err=True)
    for budget in budgets[1:]:
        click.echo(f"      and of {budget}", err=True)


def job_spec(
    target: str,
    *,
    name: str | None,
    inputs: tuple[str, ...],
    hyperparameters: tuple[str, ...],
    register: str | None,
    metrics: tuple[str, ...],
    requirements: tuple[str, ...],
    requirements_file: Path | None,
    variables: tuple[str, ...],
    tags: tuple[str, ...],
    cpus: float | None,
    memory: float | None,
    accelerators: str | None,
    max_duration: float | None,
    max_cost: float | None,
    max_cost_per_hour: float | None,
    project: str | None,
    profile: str | None,
    checkpoints: str | None,
    retry_preempted: int | None,
    retry_no_capacity: int | None,
    retry_lost: int | None,
) -> JobSpec:
    """The spec of a script, or of a spec file with the options laid over it."""
    from ml_toolbox.features.training.spec import target_spec

    spec = target_spec(Path(target), name=name or register)
    resources, limits = spec.resources, spec.limits
    given = {"cpus": cpus, "memory_gib": memory, "accelerators": accelerators}
    resources = replace(resources, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    least = {"max_duration_s": max_duration, "max_cost_usd": max_cost, "max_cost_per_hour_usd": max_cost_per_hour}
    limits = replace(limits, **{key: value for key, value in least.items() if value is not None})
    again = {"preempted": retry_preempted, "no_capacity": retry_no_capacity, "lost": retry_lost}
    retry = replace(spec.retry, **{cause: count for cause, count in again.items() if count is not None})
    wanted = (*requirements, *_lines(requirements_file)) or spec.environment.requirements
    environment = replace(
        spec.environment,
        requirements=wanted,
        variables={**spec.environment.variables, **key_values(variables, option="--env")},
    )
    return replace(
        spec,
        name=name or spec.name,
        inputs={**spec.inputs, **key_values(inputs, option="--input")},
        hyperparameters={**spec.hyperparameters, **typed_values(hyperparameters, option="--hp")},
        register=register or spec.register,
        metrics={**spec.metrics, **key_values(metrics, option="--metric")},
        tags={**spec.tags, **key_values(tags, option="--tag")},
        resources=resources,
        limits=limits,
        environment=environment,
        retry=retry,
        checkpoints=checkpoints or spec.checkpoints,
        project=spec.project if project is None else project,
        profile=spec.profile if profile is None else profile,
    )


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
