"""scikit-learn itself (or anything with its ``predict``/``transform``), as an engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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


def answer(model: Any, rows: Any, wanted: Sequence[str] | None = None) -> dict[str, Array]:
    """What an estimator says about ``rows``: ``prediction`` (and ``probabilities``), or ``transformed``, or nothing.

    Estimators that only ever speak about the rows they were fitted on (DBSCAN, t-SNE) have no answer.
    """
    outputs: dict[str, Array] = {}
    with warnings.catch_warnings():
        # Rows arrive checked against the signature by name, so an array in the right order is what the model wants.
        warnings.filterwarnings("ignore", message=r".*feature names", category=UserWarning)
        if hasattr(model, "predict"):
            if wanted is None or "prediction" in wanted:
                outputs["prediction"] = _plain(model.predict(rows))
            if hasattr(model, "predict_proba") and (wanted is None or "probabilities" in wanted):
                probabilities = model.predict_proba(rows)
                # Several outputs answer with a list, one array each: only the labels are served then.
                if not isinstance(probabilities, list):
                    outputs["probabilities"] = _plain(probabilities)
        elif hasattr(model, "transform"):
            outputs["transformed"] = _plain(model.transform(rows))
    return outputs


def _plain(values: Any) -> Array:
    if hasattr(values, "toarray"):
        values = values.toarray()
    array: Array = np.asarray(values)
    if array.dtype == object:
        if not all(isinstance(value, str) for value in array.ravel()):
            raise Invalid(
                "the model answers with Python objects",
                field="model",
                hint="fit it on labels that are strings or numbers",
            )
        return array.astype(np.str_)
    return array


def as_rows(batch: Batch, signature_names: Sequence[str], frame: bool) -> Any:
    """A batch as the estimator takes it: an array, or a DataFrame when its parts pick columns by name."""
    if isinstance(batch, np.ndarray) and not frame:
        return batch
    import pandas as pd

    if isinstance(batch, np.ndarray):
        return pd.DataFrame(batch, columns=list(signature_names))
    return pd.DataFrame({name: batch[name] for name in signature_names})


class SklearnPredictor:
    """An estimator bound to a signature."""

    engine = "sklearn"
    releases_gil = False
    thread_safe = True

    def __init__(self, model: Any, signature: Signature, *, frame: bool) -> None:
        self.signature = signature
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self._model, self._frame = model, frame
        self._names = [spec.name for spec in signature.inputs]

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        specs = chosen(self.signature, outputs)
        answers = answer(self._model, as_rows(batch, self._names, self._frame), [spec.name for spec in specs])
        rows = rows_of(batch)
        return {spec.name: shaped(answers[spec.name], spec, rows) for spec in specs}


def open_engine(package: Package, entry: EngineEntry, threads: int) -> SklearnPredictor:
    """The estimator of the package's ``.skops`` file, with its own parallelism off or at ``threads``."""
    model = package.load()
    for part in _parts(model):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = threads
    return SklearnPredictor(model, package.required_signature(), frame=bool(entry.options.get("frame")))


def _parts(model: Any) -> list[Any]:
    """The estimator and, through pipelines, its steps."""
    steps = getattr(model, "steps", None) or []
    return [model, *(part for _, step in steps for part in _parts(step) if step != "passthrough")]
