"""What LightGBM's and XGBoost's boosters share: a float matrix in, scores out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.manifest import Signature

Array = NDArray[np.generic]


def matrix_of(batch: Any, signature: Signature) -> Array:
    """A batch as one matrix; boosters take numbers only."""
    if isinstance(batch, np.ndarray):
        return batch
    columns = []
    for spec in signature.inputs:
        if spec.dtype == "string":
            raise Invalid(
                f"column {spec.name!r} is text, the booster takes numbers",
                field=spec.name,
                hint="encode it in a scikit-learn pipeline with the booster at its end",
            )
        columns.append(np.asarray(batch[spec.name], dtype=np.float64))
    return np.column_stack(columns)


def from_scores(scores: Any, signature: Signature, *, labels: bool) -> dict[str, Array]:
    """A booster's scores as the outputs of the signature; with ``labels`` they are class probabilities."""
    array: Array = np.asarray(scores)
    if not labels:
        return {"prediction": array}
    # Binary boosters answer with the second class's probability alone.
    probabilities = np.column_stack([1.0 - array.astype(np.float64), array]) if array.ndim == 1 else array
    best = np.argmax(probabilities, axis=1)
    return {"prediction": np.asarray(signature.classes)[best], "probabilities": probabilities}
