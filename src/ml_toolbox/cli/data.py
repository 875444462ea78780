"""``mltoolbox data``: versioned datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid
from ml_toolbox.cli.output import json_option, number, print_fields, print_json, print_table, size, when
from ml_toolbox.cli.parameters import key_values
from ml_toolbox.cli.progress import transfer_progress

Format = Literal["csv", "parquet", "jsonl", "npy", "folder"]
_FORMATS: tuple[Format, ...] = ("csv", "parquet", "jsonl", "npy", "folder")


@click.group()
def data() -> None:
    """Store, list, check and export versioned datasets.

    NAME is a dataset's newest version, NAME:3 its third. Versions never change once stored.
    """


@data.command()
@click.argument("name")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--description", default="", help="What it is, for people.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@json_option
def put(name: str, path: Path, description: str, tags: tuple[str, ...], as_json: bool) -> None:
    """Store PATH (CSV, Parquet, JSON lines, npy, or a folder of files) as the next version of NAME."""
    with transfer_progress(f"storing {path.name}", enabled=not as_json) as progress:
        version = Toolbox().datasets.put(
            name, path, description=description, tags=key_values(tags, option="--tag"), progress=progress
        )
    if as_json:
        print_json(version)
    else:
        unit = "files" if version.kind == "folder" else "rows"
        click.echo(f"{version.ref}  {version.rows} {unit}, {size(version.size)}")


@data.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
def get(ref: str, folder: Path) -> None:
    """Write the files of REF into FOLDER, as a training job would find them."""
    for path in Toolbox().datasets.materialise(ref, folder):
        click.echo(path)


@data.command("list")
@click.argument("name", required=False)
@json_option
def list_datasets(name: str | None, as_json: bool) -> None:
    """List datasets with their newest version, or all versions of NAME."""
    datasets = Toolbox().datasets
    found = datasets.list() if name is None else datasets.versions(name)
    if as_json:
        print_json(found)
        return
    rows = [(d.ref, d.kind, d.rows, size(d.size), when(d.created_at), d.description) for d in found]
    print_table(
        ("version", "kind", "rows", "size", "created", "description"),
        rows,
        empty="No datasets yet. Store one: mltoolbox data put NAME data.csv",
    )


@data.command()
@click.argument("ref")
@json_option
def show(ref: str, as_json: bool) -> None:
    """Show schema, size and columns of REF."""
    details = Toolbox().datasets.show(ref)
    if as_json:
        print_json(details)
        return
    version = details.version
    print_fields(
        [
            ("dataset", version.ref),
            ("kind", version.kind),
            ("rows", version.rows),
            ("size", size(version.size)),
            ("created", when(version.created_at)),
            ("description", version.description),
            ("tags", ", ".join(f"{key}={value}" for key, value in version.tags.items())),
            ("content", details.manifest.sha256[:12]),
        ]
    )
    for item in details.manifest.items:
        if item.columns:
            click.echo(f"\n{item.name}" if item.name else "")
            rows = [(c.name, c.dtype, c.nulls, number(c.minimum), number(c.maximum)) for c in item.columns]
            print_table(("column", "type", "nulls", "min", "max"), rows, empty="")


@data.command()
@click.argument("ref")
@json_option
def verify(ref: str, as_json: bool) -> None:
    """Read every stored byte of REF again and compare with its checksums."""
    report = Toolbox().datasets.verify(ref)
    if as_json:
        print_json({"ok": report.ok, "report": report})
    elif report.ok:
        click.echo(f"{report.ref}: {report.checked} parts, {size(report.bytes)}: all as stored")
    else:
        for problem in report.problems:
            click.echo(f"{report.ref}: {problem}", err=True)
    if not report.ok:
        raise SystemExit(1)


@data.command()
@click.argument("ref")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Default: from the ending of PATH.")
def export(ref: str, path: Path, form: Format | None) -> None:
    """Write REF to PATH in a format that other tools read."""
    click.echo(Toolbox().datasets.export(ref, path, form or _format_of(path)))


def _format_of(path: Path) -> Format:
    ending = path.suffix.removeprefix(".")
    if not ending:
        return "folder"
    for form in _FORMATS:
        if ending == form:
            return form
    raise Invalid(f"path: no format has the ending {path.suffix!r}", hint="say it with --format", field="path")
