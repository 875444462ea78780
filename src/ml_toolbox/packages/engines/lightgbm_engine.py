"""LightGBM's own predictor, from its text file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.packages.engines.answers import chosen, rows_of, shaped
from ml_toolbox.packages.engines.boosted import from_scores, matrix_of
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.predictor import Batch

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package


class LightgbmPredictor:
    """A booster bound to a signature."""

    engine = "lightgbm"
    releases_gil = True
    thread_safe = True

    def __init__(self, booster: Any, signature: Signature, *, labels: bool, threads: int) -> None:
        self.signature = signature
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self._booster, self._labels, self._threads = booster, labels, threads

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        scores = self._booster.predict(matrix_of(batch, self.signature), num_threads=self._threads)
        answers = from_scores(scores, self.signature, labels=self._labels)
        rows = rows_of(batch)
        return {spec.name: shaped(answers[spec.name], spec, rows) for spec in chosen(self.signature, outputs)}


def open_engine(package: Package, entry: EngineEntry, threads: int) -> LightgbmPredictor:
    """The booster of the package's text file."""
    from ml_toolbox.packages.flavours.lightgbm_flavour import booster_from

    booster = booster_from(package.read(entry.files[0]), name=entry.files[0])
    return LightgbmPredictor(
        booster, package.required_signature(), labels=bool(entry.options.get("labels")), threads=threads
    )
