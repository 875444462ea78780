"""The server's desired state: which packages it serves under which name, and with what weights.

A JSON file, written atomically by whoever runs the server and watched by it, so that any platform that can change a file
(or mount one) can shift traffic::

    {"name": "churn", "revision": "7", "variants": [
        {"name": "v1", "package": "/models/churn/1", "model": "churn:1", "weight": 90},
        {"name": "v2", "package": "/models/churn/2", "model": "churn:2", "weight": 10}]}

Unknown keys are ignored: the same file may carry what only its writer needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """One model version to serve."""

    name: str
    package: str
    """Folder of the model package."""
    model: str = ""
    """``NAME:VERSION`` in a registry, for headers and metrics."""
    digest: str = ""
    """Changes when the folder's content does, so that a package written anew under the same path is loaded anew."""
    weight: float = 100.0
    """Share of traffic; any scale, 0 means: only when asked for by name."""
    probe: bool = True
    """Answer one row before taking traffic: of the package's sample, else of zeros. Off for models that rightly refuse
    such a row."""
    trust: bool = False
    """Load contents that run code."""

    @property
    def version(self) -> str:
        """What metrics and answers call its version: the registry's number, else the variant's name."""
        return self.model.rpartition(":")[2] if ":" in self.model else self.name

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Two specs with the same identity can share one loaded model: only the weight differs."""
        return self.name, self.package, self.model, self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSpec:
    """Everything that may change while the server runs."""

    name: str
    variants: tuple[VariantSpec, ...]
    revision: str = ""
    """The writer's own mark; shown back once this spec is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of the process. Sizes in bytes, times in seconds."""

    max_body: int = 64 * 1024 * 1024
    """SageMaker allows 6 MB, Vertex 1.5 MB, both cut off before us; local users send larger batches."""
    max_head: int = 32 * 1024
    """Request line and headers. nginx allows 4 x 8 KiB."""
    head_timeout_s: float = 15.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: float = 120.0
    """From the first byte of a request to the last of its body."""
    idle_timeout_s: float = 75.0
    """Between requests. Longer than the 60 s most load balancers keep a connection, so that they close first."""
    write_timeout_s: float = 60.0
    """For a client that does not read its answers."""
    max_pipelined: int = 128
    """Requests of one connection waiting for answers before no more is read from it."""
    max_queue_rows: int = 262_144
    """Rows waiting for one variant; above it requests get 503 with Retry-After."""
    max_batch_rows: int = 16_384
    """Rows handed to the model in one call."""
    inline_limit_s: float = 0.002
    """Expected duration above which a batch runs on the variant's thread, so that health checks still answer."""
    drain_timeout_s: float = 25.0
    """From SIGTERM to giving up on unfinished requests; SageMaker and Kubernetes kill after 30 s."""
    drain_accept_s: float = 0.2
    """How long after SIGTERM connections are still accepted: until whoever routes them has heard."""
    drain_idle_s: float = 1.0
    """How long a silent connection is kept while draining: a request may already be on its way on it."""


def parse_spec(document: Any) -> ServeSpec:
    """A spec from decoded JSON. ``Invalid`` names the field that is wrong."""
    if not isinstance(document, dict):
        raise Invalid("a serving spec is a JSON object", field="spec")
    variants = document.get("variants")
    if not isinstance(variants, list) or not variants:
        raise Invalid("a serving spec needs a list of variants", field="variants")
    parsed = tuple(_parse_variant(item, f"variants[{i}]") for i, item in enumerate(variants))
    names = [variant.name for variant in parsed]
    if len(set(names)) != len(names):
        raise Invalid("variant names repeat", field="variants")
    if sum(variant.weight for variant in parsed) <= 0:
        raise Invalid("at least one variant needs a weight above 0", field="variants.weight")
    return ServeSpec(
        name=check_name(document.get("name", "model")),
        variants=parsed,
        revision=str(document.get("revision", "")),
    )


def _parse_variant(item: Any, field: str) -> VariantSpec:
    if not isinstance(item, dict):
        raise Invalid("a variant is a JSON object", field=field)
    package = item.get("package")
    if not isinstance(package, str) or not package:
        raise Invalid("a variant needs the folder of a model package", field=f"{field}.package")
    weight = item.get("weight", 100.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise Invalid("a weight is a number, 0 or above", field=f"{field}.weight")
    model = str(item.get("model", ""))
    if not (model.isascii() and model.isprintable()):
        raise Invalid("a model's name is printable ASCII: it is sent as a header", field=f"{field}.model")
    return VariantSpec(
        name=check_name(item.get("name", ""), field=f"{field}.name"),
        package=package,
        model=model,
        digest=str(item.get("digest", "")),
        weight=float(weight),
        probe=bool(item.get("probe", True)),
        trust=item.get("trust") is True,
    )


def read_spec(path: Path) -> ServeSpec:
    """The spec in a file. ``Invalid`` when it cannot be read or understood."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise Invalid(f"cannot read the serving spec {path}: {error.strerror}", field="spec") from error
    except ValueError as error:
        raise Invalid(f"the serving spec {path} is not JSON: {error}", field="spec") from error
    return parse_spec(document)
