"""``mltoolbox models``: the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_toolbox.app import Toolbox
from ml_toolbox.cli.output import json_option, number, print_fields, print_json, print_table, size, when
from ml_toolbox.cli.parameters import confirm, key_values, yes_option
from ml_toolbox.domain.models import ModelRef, Stage

if TYPE_CHECKING:
    from ml_toolbox.features.registry import Comparison, ModelVersion


@click.group()
def models() -> None:
    """The model registry: versions, stages, aliases, comparison.

    REF is NAME (newest version), NAME:3, or NAME@ALIAS; a stage such as Production is an alias too.
    """


@models.command("list")
@click.option("--filter", "where", default="", help="e.g. \"metrics.accuracy > 0.9 and stage = 'Production'\"")
@click.option("--order-by", default="", help='e.g. "metrics.accuracy desc"')
@click.option("--deleted", is_flag=True, help="Show deleted ones too.")
@json_option
def list_models(where: str, order_by: str, deleted: bool, as_json: bool) -> None:
    """List registered models; with --filter, the versions that match."""
    registry = Toolbox().adopted().registry
    if where or order_by:
        page = registry.search(where, order_by=order_by, limit=1000, include_deleted=deleted)
        _print_versions(page.items, as_json=as_json, empty="No version matches.", with_name=True)
        return
    found = registry.models(include_deleted=deleted)
    if as_json:
        print_json(found)
        return
    rows = [(m.name, m.latest, m.versions, _pointers(m.stages), _pointers(m.aliases), m.description) for m in found]
    print_table(
        ("name", "latest", "versions", "stages", "aliases", "description"),
        rows,
        empty="No models yet. Register one: mltoolbox train train.py --register NAME",
    )


@models.command()
@click.argument("name")
@click.option("--stage", default=None, help="Only versions in this stage.")
@click.option("--limit", type=click.IntRange(1), default=None, help="At most this many, newest first.")
@click.option("--deleted", is_flag=True, help="Show deleted ones too.")
@json_option
def versions(name: str, stage: str | None, limit: int | None, deleted: bool, as_json: bool) -> None:
    """List the versions of model NAME, newest first."""
    found = Toolbox().adopted().registry.versions(name, stage=stage, limit=limit, include_deleted=deleted)
    _print_versions(found, as_json=as_json, empty=f"No version of {name} matches.")


def _print_versions(found: Sequence[ModelVersion], *, as_json: bool, empty: str, with_name: bool = False) -> None:
    if as_json:
        print_json(list(found))
        return
    rows = [
        (
            v.ref if with_name else v.number,
            f"{v.stage.value}{' (deleted)' if v.deleted else ''}",
            ", ".join(v.aliases),
            v.flavour,
            _values(v.metrics),
            size(v.size),
            when(v.created_at),
            v.created_by,
        )
        for v in found
    ]
    print_table(("version", "stage", "aliases", "flavour", "metrics", "size", "created", "by"), rows, empty=empty)


@models.command()
@click.argument("ref")
@json_option
def show(ref: str, as_json: bool) -> None:
    """Show one version: signature, files, engines, where it came from."""
    registry = Toolbox().adopted().registry
    version = registry.get(ref)
    manifest, lineage = registry.manifest(version.ref), registry.lineage(version.ref)
    if as_json:
        print_json({"version": version, "lineage": lineage, "manifest": manifest})
        return
    print_fields(
        [
            ("version", version.ref),
            ("stage", version.stage.value),
            ("aliases", ", ".join(version.aliases)),
            ("description", version.description),
            ("tags", _values(version.tags)),
            ("created", f"{when(version.created_at)} by {version.created_by}"),
            ("flavour", version.flavour),
            ("size", f"{size(version.size)} in {version.file_count} files"),
            ("metrics", _values(version.metrics)),
            ("parameters", _values(version.parameters)),
            ("job", version.job),
            ("data", _values(lineage.data)),
            ("code", lineage.code_sha256[:12]),
            ("identical to", ", ".join(f"version {n}" for n in lineage.identical_versions)),
        ]
    )
    if manifest.signature:
        click.echo()
        rows = [
            ("in", c.name, c.dtype, _shape(c.shape), "yes" if c.nullable else "no") for c in manifest.signature.inputs
        ]
        rows += [("out", c.name, c.dtype, _shape(c.shape), "") for c in manifest.signature.outputs]
        print_table(("", "name", "type", "shape", "nullable"), rows, empty="")
    click.echo()
    engines = [(e.kind, f"{e.max_difference:g}", e.compared_rows, e.version) for e in manifest.engines]
    print_table(("engine", "largest difference", "rows compared", "library"), engines, empty="No engine.")
    click.echo()
    files = [(f.path, size(f.size), f.sha256[:12], "yes" if f.executes_code else "no") for f in manifest.files]
    print_table(("file", "size", "sha256", "runs code when loaded"), files, empty="No files.")


@models.command()
@click.argument("ref")
@click.argument("stage")
@click.option("--archive-existing", is_flag=True, help="Move the versions that stand there now to Archived.")
def promote(ref: str, stage: str, archive_existing: bool) -> None:
    """Move REF to STAGE: registered, Staging, Production or Archived."""
    version = Toolbox().registry.promote(ref, Stage.parse(stage), archive_existing=archive_existing)
    click.echo(f"{version.ref} is in {version.stage.value}")


@models.command()
@click.argument("ref")
@click.argument("alias")
@click.option("--delete", "remove", is_flag=True, help="Remove the alias (REF is then just NAME).")
def alias(ref: str, alias: str, remove: bool) -> None:
    """Point ALIAS to REF, wherever it pointed before."""
    registry = Toolbox().registry
    if remove:
        registry.delete_alias(ModelRef.parse(ref).name, alias)
        click.echo(f"{ModelRef.parse(ref).name}@{alias} is gone")
        return
    click.echo(f"{ModelRef.parse(ref).name}@{alias} -> {registry.set_alias(ref, alias).ref}")


@models.command()
@click.argument("ref")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@click.option("--remove", "removed", multiple=True, metavar="KEY", help="Repeatable.")
@click.option("--description", default=None, help="Replace the description.")
def tag(ref: str, pairs: tuple[str, ...], removed: tuple[str, ...], description: str | None) -> None:
    """Set tags and description of REF; of the model itself when REF is just NAME."""
    registry = Toolbox().registry
    tags: dict[str, str | None] = {**key_values(pairs, option="--set"), **dict.fromkeys(removed)}
    if tags:
        registry.set_tags(ref, tags)
    if description is not None:
        registry.describe(ref, description)
    click.echo(f"{ref}: done")


@models.command()
@click.argument("name")
@click.argument("first")
@click.argument("second")
@json_option
def compare(name: str, first: str, second: str, as_json: bool) -> None:
    """Show what differs between two versions of NAME (numbers or aliases)."""
    comparison = Toolbox().adopted().registry.compare(name, _side(first), _side(second))
    if as_json:
        print_json(comparison)
    else:
        print_comparison(comparison)


def _side(text: str) -> int | str:
    return int(text.removeprefix("v")) if text.removeprefix("v").isdigit() else text


def print_comparison(comparison: Comparison) -> None:
    """The comparison as one table; also used by the demo."""
    if comparison.same_model:
        click.echo("The two versions are the very same model.")
    rows: list[tuple[str, str, str, str]] = []
    for metric, (left, right) in sorted(comparison.metrics.items()):
        change = f"{right - left:+.4g}" if left is not None and right is not None else ""
        rows.append((f"metric {metric}", number(left), number(right), change))
    for kind, pairs in (
        ("parameter", comparison.parameters),
        ("tag", comparison.tags),
        ("signature", comparison.signature),
        ("requirement", comparison.requirements),
    ):
        rows += [(f"{kind} {key}", number(a), number(b), "") for key, (a, b) in sorted(pairs.items())]
    rows += [
        (f"file {path}", (one or "-")[:12], (two or "-")[:12], "")
        for path, (one, two) in sorted(comparison.files.items())
    ]
    old, new = comparison.size
    rows.append(("size", size(old), size(new), f"{new - old:+d} B"))
    print_table(("", comparison.first.ref, comparison.second.ref, "change"), rows, empty="")


@models.command()
@click.argument("name")
@json_option
def audit(name: str, as_json: bool) -> None:
    """Show who did what to NAME, oldest first."""
    lines = Toolbox().registry.audit(name)
    if as_json:
        print_json(lines)
        return
    rows = [(when(line.at), line.actor, line.action, line.version, _values(line.detail)) for line in lines]
    print_table(("when", "who", "what", "version", "detail"), rows, empty="Nothing yet.")


@models.command()
@click.argument("ref")
@yes_option
def delete(ref: str, yes: bool) -> None:
    """Hide REF (a version, or with just NAME the whole model). `restore` brings it back."""
    confirm(f"delete {ref}?", yes=yes)
    Toolbox().registry.delete(ref)
    click.echo(f"{ref} is deleted; mltoolbox models restore {ref} brings it back")


@models.command()
@click.argument("ref")
def restore(ref: str) -> None:
    """Undo delete."""
    Toolbox().registry.restore(ref)
    click.echo(f"{ref} is back")


@models.command()
@click.argument("ref")
@click.argument("archive", type=click.Path(path_type=Path))
def export(ref: str, archive: Path) -> None:
    """Write REF to ARCHIVE (.tar.gz), for another registry's import."""
    click.echo(Toolbox().registry.export(ref, archive))


@models.command("import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name")
def import_model(archive: Path, name: str) -> None:
    """Register what export wrote as the next version of NAME."""
    click.echo(Toolbox().registry.import_(archive, name).ref)


@models.command()
@click.argument("package", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--description", default="")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
def register(package: Path, name: str, description: str, tags: tuple[str, ...]) -> None:
    """Register the model package in folder PACKAGE as the next version of NAME."""
    version = Toolbox().registry.register(name, package, description=description, tags=key_values(tags, option="--tag"))
    click.echo(version.ref)


@models.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
def download(ref: str, folder: Path) -> None:
    """Write the package of REF to FOLDER, every byte checked."""
    click.echo(Toolbox().registry.download(ref, folder))


@models.command()
@click.argument("ref")
@json_option
def verify(ref: str, as_json: bool) -> None:
    """Read every stored byte of REF again and compare it with what was registered."""
    report = Toolbox().registry.verify(ref)
    if as_json:
        print_json(report)
    elif report.ok:
        click.echo(f"{report.ref}: {report.files} files, {size(report.bytes)}: all as registered")
    else:
        for problem in report.problems:
            click.echo(problem, err=True)
    if not report.ok:
        raise SystemExit(1)


def _pointers(pointers: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {version}" for name, version in pointers.items())


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={number(value)}" for key, value in values.items())


def _shape(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if extent is None else str(extent) for extent in shape) or "scalar"
