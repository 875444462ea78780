"""PyTorch, running an exported program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.engines.answers import chosen, shaped
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.predictor import Batch

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

Array = NDArray[np.generic]


def answer(module: Any, rows: Any) -> dict[str, Array]:
    """A module's outputs for an array of rows: the first is ``prediction``, further ones ``output_1``... or their keys."""
    import torch

    with torch.inference_mode():
        result = module(torch.from_numpy(np.array(rows)))
    if isinstance(result, torch.Tensor):
        return {"prediction": result.detach().cpu().numpy()}
    if not isinstance(result, (dict, tuple, list)) or not all(
        isinstance(t, torch.Tensor) for t in (result.values() if isinstance(result, dict) else result)
    ):
        raise Invalid(
            "the module answers with something else than tensors",
            field="model",
            hint="wrap it in a module whose forward returns a tensor, or a tuple or dictionary of tensors",
        )
    pairs = result.items() if isinstance(result, dict) else enumerate(result)
    named = {("prediction" if k == 0 else f"output_{k}") if isinstance(k, int) else str(k): v for k, v in pairs}
    return {name: tensor.detach().cpu().numpy() for name, tensor in named.items()}


class TorchPredictor:
    """A module bound to a signature."""

    engine = "torch-export"
    releases_gil = True
    thread_safe = True

    def __init__(self, module: Any, signature: Signature) -> None:
        self.signature = signature
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self._module = module
        self._dtype = np.dtype(signature.inputs[0].dtype)

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        array = np.asarray(batch, dtype=self._dtype)
        answers = answer(self._module, array)
        return {spec.name: shaped(answers[spec.name], spec, len(array)) for spec in chosen(self.signature, outputs)}


def open_engine(package: Package, entry: EngineEntry, threads: int) -> TorchPredictor:
    """The exported program; torch's threads are the process's, so the last opened model decides them."""
    import torch

    torch.set_num_threads(threads)
    return TorchPredictor(package.load(), package.required_signature())
