"""Reads a job's spec from YAML, JSON or a mapping. Every error names the field; nothing unknown is passed over."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.jobs import JobSpec

_PATH_IN_MESSAGE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


def load_spec(source: str | Path | Mapping[str, Any]) -> JobSpec:
    """A checked :class:`JobSpec`.

    A file's ``source`` folder is taken relative to the file, and defaults to the folder it lies in; ``name`` defaults to
    the file's own name. Raises ``NotFound`` for a file that is not there, ``Invalid`` with the dotted field otherwise.
    """
    if isinstance(source, Mapping):
        return _convert(dict(source))
    path = Path(source)
    values = _read(path)
    values.setdefault("name", path.stem)
    values["source"] = str((path.parent / str(values.get("source", "."))).resolve())
    if isinstance(place := values.get("checkpoints"), str):
        values["checkpoints"] = _beside(path.parent, place)
    if isinstance(inputs := values.get("inputs"), dict):
        values["inputs"] = {name: _beside(path.parent, value) for name, value in inputs.items()}
    return _convert(values)


def target_spec(path: Path, *, name: str | None = None) -> JobSpec:
    """The spec of what a user points at: a script (its folder travels with it), or a spec file.

    ``name`` is the job's name when a script is given; default: the script's own. ``Invalid`` for anything else.
    """
    if path.suffix in (".yaml", ".yml", ".json"):
        return load_spec(path)
    if path.suffix != ".py":
        raise Invalid(
            f"target: {str(path)!r} is neither a script nor a spec", hint="give train.py or spec.yaml", field="target"
        )
    if not path.is_file():
        raise Invalid(f"target: there is no file {path}", field="target", resource=str(path))
    return JobSpec(name=name or _name_of(path), script=path.name, source=str(path.resolve().parent))


def _name_of(path: Path) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem).strip("._-")
    return name[:63] or "job"


def check_spec(spec: JobSpec) -> JobSpec:
    """The rules that types alone cannot say. Returns the spec unchanged."""
    check_name(spec.name)
    for field in ("project", "profile"):
        if named := getattr(spec, field):
            check_name(named, field=field)
    if (spec.script is None) == (spec.command is None):
        raise Invalid("a job has either a script or a command", field="script", hint="give exactly one of the two")
    for channel in spec.inputs:
        check_name(channel, field=f"inputs.{channel}")
    _check_json(spec.hyperparameters, "hyperparameters")
    for name, pattern in spec.metrics.items():
        _check_pattern(name, pattern)
    _check_numbers(spec)
    return spec


def _read(path: Path) -> dict[str, Any]:
    import msgspec

    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no spec file {path}", resource=str(path)) from error
    except IsADirectoryError as error:
        raise Invalid(f"{path} is a folder, not a spec file", resource=str(path)) from error
    try:
        values = msgspec.json.decode(data) if path.suffix == ".json" else msgspec.yaml.decode(data)
    except msgspec.DecodeError as error:
        raise Invalid(f"{path} cannot be read: {error}", resource=str(path)) from error
    if not isinstance(values, dict):
        raise Invalid(f"{path} does not hold a mapping", hint="begin with 'script: train.py'", resource=str(path))
    return values


def _convert(values: dict[str, Any]) -> JobSpec:
    import msgspec

    _refuse_unknown(values, JobSpec, "")
    try:
        return check_spec(msgspec.convert(values, JobSpec))
    except msgspec.ValidationError as error:
        found = _PATH_IN_MESSAGE.match(str(error))
        what, field = (found["what"], found["path"] or "") if found else (str(error), "")
        missing = re.search(r"missing required field `(\w+)`", what)
        if missing:
            field = f"{field}.{missing[1]}".lstrip(".")
        raise Invalid(f"{field}: {what}" if field else what, field=field) from error


def _refuse_unknown(values: Mapping[str, Any], kind: type, prefix: str) -> None:
    types = get_type_hints(kind)
    for name, value in values.items():
        if name not in types:
            near = Invalid.choice(f"{prefix}{name}", name, types)
            raise Invalid(f"{prefix}{name}: there is no such field", hint=near.hint, field=f"{prefix}{name}")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(types[name]):
            _refuse_unknown(value, types[name], f"{prefix}{name}.")


def _beside(folder: Path, value: Any) -> Any:
    """A relative path is relative to the spec file, so that a spec means the same from every folder."""
    if not isinstance(value, str) or "://" in value or value.startswith("data:"):
        return value
    return str((folder / value).resolve())


def _check_json(value: Any, field: str) -> None:
    match value:
        case None | bool() | int() | str():
            return
        case float():
            if not math.isfinite(value):
                raise Invalid(f"{field}: {value} is not a JSON number", field=field)
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{field}[{index}]")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise Invalid(f"{field}: the key {key!r} is not text", field=field)
                _check_json(item, f"{field}.{key}")
        case _:
            raise Invalid(f"{field}: a {type(value).__name__} is not a JSON value", field=field)


def _check_pattern(name: str, pattern: str) -> None:
    field = f"metrics.{name}"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise Invalid(f"{field}: {pattern!r} is not a regular expression: {error}", field=field) from error
    if compiled.groups < 1:
        raise Invalid(
            f"{field}: {pattern!r} has no group", hint=r"put the number in brackets: loss=([\d.]+)", field=field
        )


def _check_numbers(spec: JobSpec) -> None:
    positive: dict[str, float | None] = {
        "resources.cpus": spec.resources.cpus,
        "resources.memory_gib": spec.resources.memory_gib,
        "resources.disk_gib": spec.resources.disk_gib,
        "resources.nodes": spec.resources.nodes,
        "limits.max_duration_s": spec.limits.max_duration_s,
        "limits.max_cost_usd": spec.limits.max_cost_usd,
        "limits.max_cost_per_hour_usd": spec.limits.max_cost_per_hour_usd,
    }
    counts: dict[str, float] = {
        "limits.stop_grace_s": spec.limits.stop_grace_s,
        "retry.preempted": spec.retry.preempted,
        "retry.no_capacity": spec.retry.no_capacity,
        "retry.lost": spec.retry.lost,
        "retry.user_error": spec.retry.user_error,
    }
    for field, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise Invalid(f"{field} must be more than 0, not {value:g}", field=field)
    for field, value in counts.items():
        if not (value >= 0 and math.isfinite(value)):
            raise Invalid(f"{field} must be at least 0, not {value:g}", field=field)
