"""From what a user wrote to what a backend can take: paths absolute, datasets resolved, everything checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.features.training.spec import check_spec


class ResolvedInput(NamedTuple):
    """A registered dataset as files: where they are, and which version they are."""

    uri: str
    identity: str
    """e.g. ``data:churn:3``; goes into the model's lineage."""


ResolveInput: TypeAlias = Callable[[str], ResolvedInput]
"""``data:NAME[:VERSION]`` -> the files."""


def prepare(spec: JobSpec, resolve_input: ResolveInput | None) -> JobSpec:
    """The spec with every path absolute and every dataset resolved. ``Invalid`` names the field that is wrong."""
    check_spec(spec)
    source = Path(spec.source).expanduser().resolve()
    if not source.is_dir():
        raise Invalid(f"source: {source} is not a folder", field="source", resource=str(source))
    if spec.script is not None and not (source / spec.script).is_file():
        raise no_script(replace(spec, source=str(source)))
    inputs, tags = {}, dict(spec.tags)
    for channel, location in spec.inputs.items():
        inputs[channel], identity = _located(channel, location, resolve_input)
        if identity:
            tags[f"mlt:data:{channel}"] = identity
    return replace(spec, source=str(source), inputs=inputs, tags=tags, checkpoints=_place(spec.checkpoints))


def _place(checkpoints: str | None) -> str | None:
    if checkpoints is None or ("://" in checkpoints and not checkpoints.startswith("file://")):
        return checkpoints
    return str(Path(checkpoints.removeprefix("file://")).expanduser().resolve())


def no_script(spec: JobSpec) -> Invalid:
    return Invalid(
        f"script: there is no {spec.script} in {spec.source}",
        hint="check the name, and that neither .gitignore nor .mltignore leaves it out",
        field="script",
    )


def _located(channel: str, location: str, resolve_input: ResolveInput | None) -> tuple[str, str]:
    if location.startswith("data:"):
        if resolve_input is None:
            raise Invalid(f"inputs.{channel}: no datasets are registered here", field=f"inputs.{channel}")
        return resolve_input(location)
    if "://" in location and not location.startswith("file://"):
        return location, ""
    path = Path(location.removeprefix("file://")).expanduser().resolve()
    if not path.exists():
        raise Invalid(
            f"inputs.{channel}: {path} does not exist",
            hint="give a file, a folder, a URI, or data:NAME of a registered dataset",
            field=f"inputs.{channel}",
            resource=str(path),
        )
    return str(path), ""
