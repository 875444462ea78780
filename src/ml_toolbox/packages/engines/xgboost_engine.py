"""XGBoost's own predictor, from its UBJSON or JSON file."""

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


class XgboostPredictor:
    """A booster bound to a signature."""

    engine = "xgboost"
    releases_gil = True
    thread_safe = True

    def __init__(self, booster: Any, signature: Signature, *, labels: bool, iterations: int) -> None:
        self.signature = signature
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self._booster, self._labels, self._range = booster, labels, (0, iterations)

    def scores(self, batch: Batch) -> NDArray[np.generic]:
        """What the booster itself says."""
        matrix = np.ascontiguousarray(matrix_of(batch, self.signature))
        return np.asarray(self._booster.inplace_predict(matrix, iteration_range=self._range, validate_features=False))

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        answers = from_scores(self.scores(batch), self.signature, labels=self._labels)
        rows = rows_of(batch)
        return {spec.name: shaped(answers[spec.name], spec, rows) for spec in chosen(self.signature, outputs)}


def open_engine(package: Package, entry: EngineEntry, threads: int) -> XgboostPredictor:
    """The booster of the package's model file."""
    from ml_toolbox.packages.flavours.xgboost_flavour import booster_from

    booster = booster_from(package.read(entry.files[0]), name=entry.files[0])
    booster.set_param({"nthread": threads})
    return XgboostPredictor(
        booster,
        package.required_signature(),
        labels=bool(entry.options.get("labels")),
        iterations=int(entry.options.get("iterations", 0)),
    )
