"""A served name: its variants, their traffic, and the change from one spec to the next without a dropped request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_toolbox.base.errors import Invalid, ToolboxError
from ml_toolbox.packages.predictor import Predictor
from ml_toolbox.runtime.serve.batching import Lane
from ml_toolbox.runtime.serve.metrics import VariantMetrics
from ml_toolbox.runtime.serve.problems import Refused, shown
from ml_toolbox.runtime.serve.schema import Batch, Schema
from ml_toolbox.runtime.serve.spec import Limits, ServeSpec, VariantSpec
from ml_toolbox.runtime.serve.traffic import Splitter

log = logging.getLogger("mlt.serve")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A predictor, and rows it is known to answer, when its package keeps some."""

    predictor: Predictor
    sample: Batch | None = None


Loader = Callable[[VariantSpec], Loaded]


@dataclass(frozen=True, slots=True)
class Proven:
    """A predictor that has answered a row of its own signature."""

    predictor: Predictor
    schema: Schema
    one_row_s: float


def load_and_prove(load: Loader, spec: VariantSpec) -> Proven:
    """Load a variant and let it answer a row; runs off the loop. Errors name the variant."""
    try:
        loaded = load(spec)
        predictor = loaded.predictor
        schema = Schema(predictor.signature)
        return Proven(predictor, schema, _prove(predictor, schema, loaded.sample) if spec.probe else 0.0)
    except ToolboxError:
        raise
    except Refused as refused:
        raise Invalid(f"variant {spec.name}: {refused.detail}", field=spec.name) from refused
    except Exception as error:  # the package's engine is foreign code; its error becomes one line of ours
        raise Invalid(
            f"variant {spec.name} does not serve: {type(error).__name__}: {error}",
            field=spec.name,
            hint='if the model rightly refuses the row it was tried with, set "probe": false for this variant',
        ) from error


def _prove(predictor: Predictor, schema: Schema, sample: Batch | None) -> float:
    """Seconds of the fastest of three calls with one row; 0 when there is no sample and no honest row can be made up (text
    features)."""
    batch = _zeros(schema) if sample is None else _first_row(sample)
    if batch is None:
        return 0.0
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        results = predictor(batch, predictor.outputs)
        fastest = min(fastest, time.perf_counter() - started)
    for name, array in results.items():
        if array.shape[:1] != (1,):
            raise Invalid(f"output {name!r} has shape {array.shape} for one row", field=name)
    return fastest


def _first_row(sample: Batch) -> Batch:
    return {name: values[:1] for name, values in sample.items()} if isinstance(sample, dict) else sample[:1]


def _zeros(schema: Schema) -> Batch | None:
    if schema.layout == "columns":
        columns: dict[str, Any] = {}
        for column in schema.columns:
            if column.dtype in ("string", "any", "object"):
                return None
            columns[column.name] = np.zeros(1, column.dtype)
        return columns
    shape = [1, *(1 if n is None else n for n in schema.row_shape)]
    return None if schema.dtype.kind == "O" else np.zeros(shape, schema.dtype)


class LoadedVariant:
    """One variant as it serves. Lives until its last request is answered, also when the spec has dropped it."""

    def __init__(
        self,
        spec: VariantSpec,
        proven: Proven,
        metrics: VariantMetrics,
        *,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.spec = spec
        self.predictor = proven.predictor
        self.schema = proven.schema
        self.outputs = tuple(proven.predictor.outputs)
        self.metrics = metrics
        self.lane = Lane(proven.predictor, proven.schema, metrics, limits, one_row_s=proven.one_row_s, loop=loop)
        self.identity_lines = f"X-MLT-Variant: {spec.name}\r\nX-MLT-Model-Version: {spec.version}\r\n".encode("latin-1")
        self.head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + self.identity_lines

    def choose(self, wanted: tuple[str, ...] | None, *, default: tuple[str, ...]) -> tuple[str, ...]:
        """The outputs to compute; 400 naming one the model does not have."""
        if wanted is None:
            return default
        for name in wanted:
            if name not in self.outputs:
                known = ", ".join(self.outputs)
                raise Refused(400, f"the model has no output {shown(name)!r}", field="outputs", hint=f"it has: {known}")
        return wanted


class ServedModel:
    """The variants in force. Changed only in the event loop, in one step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.variants: dict[str, LoadedVariant] = {}
        self.spec: ServeSpec | None = None
        self._splitter = Splitter({})

    @property
    def ready(self) -> bool:
        return bool(self.variants)

    @property
    def weights(self) -> Mapping[str, float]:
        return self._splitter.weights

    def pick(self, asked: str = "") -> LoadedVariant:
        """The variant asked for, else the one whose turn it is."""
        name = asked or self._splitter.next()
        variant = self.variants.get(name) if name is not None else None
        if variant is not None:
            return variant
        if not self.variants:
            raise Refused(503, f"the model {self.name} is not loaded yet", retry_after_s=1)
        known = ", ".join(self.variants)
        raise Refused(
            404, f"{self.name} has no variant {shown(asked)!r}", field="X-MLT-Variant", hint=f"it has: {known}"
        )

    def first(self) -> LoadedVariant:
        """The variant that speaks for the model where it is described."""
        for variant in self.variants.values():
            return variant
        raise Refused(503, f"the model {self.name} is not loaded yet", retry_after_s=1)

    def missing(self, spec: ServeSpec) -> list[VariantSpec]:
        """Variants of ``spec`` that are not loaded."""
        have = {variant.spec.identity for variant in self.variants.values()}
        return [variant for variant in spec.variants if variant.identity not in have]

    def replace(self, spec: ServeSpec, new: Mapping[str, LoadedVariant]) -> None:
        """Put ``spec`` in force. Variants that are gone finish what they have been given."""
        before = self.variants
        self.variants = {v.name: new.get(v.name) or before[v.name] for v in spec.variants}
        self._splitter = Splitter({v.name: v.weight for v in spec.variants})
        self.spec = spec
        kept = {id(variant) for variant in self.variants.values()}
        for variant in before.values():
            if id(variant) not in kept:
                variant.lane.close()
