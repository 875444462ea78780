"""``mltoolbox deploy``, ``endpoints``, ``predict`` and ``serve``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import Invalid
from ml_toolbox.cli.history import history_data, money, print_history
from ml_toolbox.cli.output import json_option, print_fields, print_json, print_table, to_data
from ml_toolbox.cli.parameters import backend_option, confirm, key_values, yes_option

if TYPE_CHECKING:
    from ml_toolbox.features.serving import EndpointRecord


@click.command()
@click.argument("model")
@click.option("--endpoint", "-e", required=True, help="Name of the endpoint; created when there is none.")
@click.option(
    "--weight", "-w", type=click.FloatRange(0, 100), default=None, help="Share of traffic in percent; default: all."
)
@click.option("--replicas", type=click.IntRange(1), default=None, help="Number of server processes.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port to listen on. Default: any free one.")
@click.option("--variant", default=None, help="Name of this version behind the endpoint. Default: v and its number.")
@click.option("--plan", "plan_only", is_flag=True, help="Only show the plan.")
@click.option("--no-wait", is_flag=True, help="Return before it answers.")
@click.option("--timeout", type=float, default=120.0, show_default=True, metavar="SECONDS", help="How long to wait.")
@backend_option
@json_option
def deploy(
    model: str,
    endpoint: str,
    weight: float | None,
    replicas: int | None,
    port: int | None,
    variant: str | None,
    plan_only: bool,
    no_wait: bool,
    timeout: float,
    backend: str,
    as_json: bool,
) -> None:
    """Serve MODEL at an endpoint.

    MODEL is a registry name[:VERSION|@ALIAS], a package folder, or a URI of one. With --weight it is put beside what is
    there and gets that share; without, it takes over everything. No request in flight is dropped.
    """
    serving = Toolbox().serving
    if plan_only:
        from ml_toolbox.cli.plans import print_plan

        plan = serving.plan(model, endpoint, weight=weight, replicas=replicas, on=backend, variant=variant)
        if as_json:
            print_json(plan)
        else:
            print_plan(plan)
        return
    handle = serving.deploy(model, endpoint, weight=weight, replicas=replicas, on=backend, variant=variant, port=port)
    if not no_wait:
        _wait(handle.wait_ready, timeout)
    record = handle.record
    if as_json:
        print_json(record)
    else:
        _print_endpoint(record)


def _wait(wait: Any, timeout: float) -> None:
    if not sys.stderr.isatty():
        wait(timeout_s=timeout)
        return
    from rich.console import Console

    with Console(stderr=True).status("waiting until it answers ..."):
        wait(timeout_s=timeout)


@click.group()
def endpoints() -> None:
    """List, inspect, scale and delete endpoints; shift traffic."""


@endpoints.command("list")
@json_option
def list_endpoints(as_json: bool) -> None:
    """List endpoints."""
    toolbox = Toolbox()
    found = toolbox.serving.list() if toolbox.has_state else ()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            e.name,
            e.status.state.value,
            ", ".join(f"{v.name} {v.weight:g} %" for v in e.status.variants),
            f"{e.status.replicas_ready}/{e.status.replicas_wanted}",
            e.backend,
            e.status.url,
        )
        for e in found
    ]
    print_table(
        ("name", "state", "traffic", "replicas", "backend", "url"),
        rows,
        empty="No endpoints. Make one: mltoolbox deploy MODEL --endpoint NAME",
    )


@endpoints.command()
@click.argument("endpoint")
@json_option
def show(endpoint: str, as_json: bool) -> None:
    """Show one endpoint: state, URL, variants, money, and what was done to it."""
    serving = Toolbox().serving
    record = serving.show(endpoint)
    history = serving.history(endpoint)
    if as_json:
        print_json({"endpoint": record, "history": history_data(history, created_at=record.created_at)})
        return
    _print_endpoint(record)
    click.echo()
    print_history(history, created_at=record.created_at, ended=False)


def _print_endpoint(record: EndpointRecord) -> None:
    status = record.status
    print_fields(
        [
            ("endpoint", record.name),
            ("state", status.state.value),
            ("message", status.message),
            ("url", status.url),
            ("backend", record.backend),
            ("replicas", f"{status.replicas_ready} of {status.replicas_wanted} ready"),
            ("waiting for", record.message if record.message != status.message else ""),
            ("money", money(record.spent, record.held)),
        ]
    )
    click.echo()
    rows = [(v.name, v.model, f"{v.weight:g} %", "yes" if v.healthy else "no", v.message) for v in status.variants]
    print_table(("variant", "model", "traffic", "healthy", "message"), rows, empty="No variant is in force yet.")


@endpoints.command()
@click.argument("endpoint")
@click.argument("weights", nargs=-1, required=True, metavar="VARIANT=PERCENT...")
@click.option("--no-wait", is_flag=True, help="Return before the change is in force.")
@json_option
def traffic(endpoint: str, weights: tuple[str, ...], no_wait: bool, as_json: bool) -> None:
    """Set the shares of the named variants; the others share what is left.

    \b
    mltoolbox endpoints traffic churn v2=50
    """
    wanted = {name: _percent(value) for name, value in key_values(weights, option="weights").items()}
    serving = Toolbox().serving
    record = serving.traffic(endpoint, wanted)
    if not no_wait:
        serving.endpoint(endpoint).wait_ready()
        record = serving.show(endpoint)
    if as_json:
        print_json(record)
    else:
        _print_endpoint(record)


def _percent(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError as error:
        raise Invalid(f"weights: {text!r} is not a percentage", field="weights") from error


@endpoints.command()
@click.argument("endpoint")
@click.argument("replicas", type=click.IntRange(1))
@click.option("--no-wait", is_flag=True, help="Return before the change is in force.")
def scale(endpoint: str, replicas: int, no_wait: bool) -> None:
    """Set the number of replicas."""
    serving = Toolbox().serving
    serving.scale(endpoint, replicas)
    if not no_wait:
        serving.endpoint(endpoint).wait_ready()
    _print_endpoint(serving.show(endpoint))


@endpoints.command()
@click.argument("endpoint")
@click.argument("variant")
def remove(endpoint: str, variant: str) -> None:
    """Take VARIANT away; the others take over its share."""
    serving = Toolbox().serving
    serving.remove_variant(endpoint, variant)
    serving.endpoint(endpoint).wait_ready()
    _print_endpoint(serving.show(endpoint))


@endpoints.command()
@click.argument("endpoint")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with its time.")
def logs(endpoint: str, follow: bool, timestamps: bool) -> None:
    """Print the servers' log."""
    serving = Toolbox().serving
    for line in serving.follow(endpoint) if follow else serving.logs(endpoint).lines:
        click.echo(f"{iso(line.at)} {line.text}" if timestamps else line.text)


@endpoints.command()
@click.argument("endpoint")
@yes_option
def delete(endpoint: str, yes: bool) -> None:
    """Stop serving and remove ENDPOINT. Registered models stay."""
    serving = Toolbox().serving
    serving.show(endpoint)
    confirm(f"delete endpoint {endpoint}?", yes=yes)
    serving.delete(endpoint)
    click.echo(f"{endpoint} is deleted")


@click.command()
@click.argument("endpoint")
@click.option("--input", "-i", "source", required=True, help="CSV, JSON or JSON-lines file with rows, or - for stdin.")
@click.option("--variant", default="", help="Ask this variant, whatever the weights.")
@json_option
def predict(endpoint: str, source: str, variant: str, as_json: bool) -> None:
    """Send rows to ENDPOINT and print its answers, in the same order.

    \b
    mltoolbox predict churn --input rows.csv
    echo '[[5.1, 3.5, 1.4, 0.2]]' | mltoolbox predict iris --input -
    """
    from ml_toolbox.cli.rows import read_rows

    rows = read_rows(source)
    answers = Toolbox().serving.predict(endpoint, rows, variant=variant)
    if as_json:
        print_json({"predictions": to_data(answers)})
        return
    for answer in to_data(answers):
        click.echo(_plain(answer))


def _plain(answer: Any) -> str:
    if isinstance(answer, dict):
        return "  ".join(f"{name}={_plain(value)}" for name, value in answer.items())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return ",".join(_plain(value) for value in answer)
    return str(answer)


@click.command()
@click.argument("model")
@click.option("--port", "-p", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads per model call. Default: the CPU quota.")
@click.option("--trust", is_flag=True, help="Load contents that run code (pickle, joblib, Python classes).")
def serve(model: str, port: int, host: str, threads: int | None, trust: bool) -> None:
    """Serve MODEL in the foreground, until Ctrl-C.

    MODEL is a registry name[:VERSION|@ALIAS], a package folder, or a URI of one. Try it at http://HOST:PORT/docs
    """
    from ml_toolbox.runtime.serve.cli import main

    toolbox = Toolbox()
    resolved = toolbox.model_files(model)
    name = resolved.model.partition(":")[0] or Path(model.rstrip("/")).name
    arguments = [resolved.package, "--name", name, "--model", resolved.model, "--host", host, "--port", str(port)]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    if trust:
        arguments.append("--trust")
    sys.exit(main(arguments))
