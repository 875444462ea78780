"""Loads a package as an MLflow ``python_function``: named in ``MLmodel`` as ``loader_module``.

The package's first proven engine answers. Files that run code are refused, as everywhere, unless the environment variable
``MLTOOLBOX_TRUST_PACKAGES=1`` gives explicit trust: MLflow's loader has no argument for it.
"""

from __future__ import annotations

import os
from typing import Any

from ml_toolbox.packages.package import open_package
from ml_toolbox.packages.predictor import Predictor
from ml_toolbox.packages.samples import read_sample
from ml_toolbox.packages.trust import Trust


def _load_pyfunc(path: str) -> PackageModel:
    trust = Trust(explicit=os.environ.get("MLTOOLBOX_TRUST_PACKAGES") == "1")
    package = open_package(path, trust=trust)
    package.verify()
    return PackageModel(package.predictor())


class PackageModel:
    """What MLflow calls."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """The first output for the rows of ``data`` (array or DataFrame)."""
        signature = self._predictor.signature
        sample = read_sample(data, limit=None, tensor=signature.layout == "tensor")
        first = self._predictor.outputs[0]
        return self._predictor(sample.batch, (first,))[first]
