"""How a wish is edited: pure functions from one desired state to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.endpoints import EndpointSpec, Variant
from ml_toolbox.domain.jobs import Resources


class ResolvedModel(NamedTuple):
    """A model as files: where its package lies, and what it is called."""

    package: str
    """Folder or URI, as the backend takes it."""
    model: str
    """``NAME:VERSION`` when it came from the registry, else ""."""


def first_spec(endpoint: str, resolved: ResolvedModel, variant: str | None) -> EndpointSpec:
    check_name(endpoint, field="endpoint")
    first = Variant(name=variant or _free_name((), resolved), package=resolved.package, model=resolved.model)
    return EndpointSpec(name=endpoint, variants=(first,))


def with_model(
    spec: EndpointSpec,
    resolved: ResolvedModel,
    weight: float | None,
    replicas: int | None,
    variant: str | None,
    *,
    resources: Resources | None = None,
    port: int | None = None,
) -> EndpointSpec:
    """The wish with this model in it, and whatever else was asked for."""
    if weight is not None and not 0 <= weight <= 100:
        raise Invalid(f"weight: {weight:g} is not a percentage", hint="0 to 100", field="weight")
    same = [v for v in spec.variants if v.package == resolved.package and v.model == resolved.model]
    name = variant or (same[0].name if same else _free_name(spec.variants, resolved))
    new = Variant(name=name, package=resolved.package, model=resolved.model)
    spec = replace(spec, variants=(new,)) if weight is None else spec.with_variant(new, weight=weight)
    if replicas is not None:
        spec = replace(spec, replicas=replicas)
    if resources is not None:
        spec = replace(spec, resources=resources)
    return spec if port is None else replace(spec, port=port)


def _free_name(taken: tuple[Variant, ...], resolved: ResolvedModel) -> str:
    """``v3`` for version 3; a package without a version gets the next free number."""
    names = {variant.name for variant in taken}
    version = resolved.model.rpartition(":")[2] if ":" in resolved.model else ""
    if version and f"v{version}" not in names:
        return f"v{version}"
    model = resolved.model.partition(":")[0]
    if version and f"{model}-v{version}" not in names:  # another model's version of the same number
        return f"{model}-v{version}"
    number = next(n for n in range(1, len(names) + 2) if f"v{n}" not in names)
    return f"v{number}"


def variant_named(spec: EndpointSpec, asked: str) -> Variant:
    """By variant name, version number or ``NAME:VERSION``."""
    matches = [
        v for v in spec.variants if asked in (v.name, v.model, v.model.rpartition(":")[2], v.name.removeprefix("v"))
    ]
    return matches[0] if len(matches) == 1 else spec.variant(asked)


def said(spec: EndpointSpec) -> str:
    shares = ", ".join(f"{variant.name} {variant.weight:g} %" for variant in spec.variants)
    return f"{spec.replicas} replica(s), {shares}"
