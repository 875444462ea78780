"""A Python object with ``predict(rows)``: whatever it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.engines.answers import chosen, rows_of, shaped
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.predictor import Batch

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

Array = NDArray[np.generic]


def answer(model: Any, batch: Any) -> dict[str, Array]:
    """What ``model.predict(batch)`` (or ``model(batch)``) gives: an array, or a mapping of named arrays."""
    call = getattr(model, "predict", None) or (model if callable(model) else None)
    if call is None:
        raise Invalid(
            f"{type(model).__qualname__} has no predict()",
            field="model",
            hint="give the class a method predict(self, rows)",
        )
    result = call(batch)
    named = result if isinstance(result, Mapping) else {"prediction": result}
    return {str(name): _plain(np.asarray(values)) for name, values in named.items()}


def _plain(array: Array) -> Array:
    return array.astype(np.str_) if array.dtype == object else array


class PythonPredictor:
    """The object bound to a signature."""

    engine = "python"
    releases_gil = False
    thread_safe = False

    def __init__(self, model: Any, signature: Signature) -> None:
        self.signature = signature
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self._model = model

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        specs = chosen(self.signature, outputs)
        answers = answer(self._model, batch)
        rows = rows_of(batch)
        return {spec.name: shaped(answers[spec.name], spec, rows) for spec in specs}


def open_engine(package: Package, entry: EngineEntry, threads: int) -> PythonPredictor:
    """The object; raises ``Untrusted`` without trust. How many threads it uses is its own affair."""
    return PythonPredictor(package.load(), package.required_signature())
