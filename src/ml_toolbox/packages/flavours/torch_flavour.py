"""PyTorch: the graph as a sealed ``torch.export`` program, the weights as safetensors, and ONNX Runtime when it proves equal.

Nothing of it needs the model's class. A sample input is required, because exporting is tracing.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.packages.engines import installed_version
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.onnxruntime_engine import OnnxPredictor
from ml_toolbox.packages.engines.torch_engine import answer
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.probes import SEED
from ml_toolbox.packages.proof import compare
from ml_toolbox.packages.samples import Sample, read_sample
from ml_toolbox.packages.torch_programs import seal, unseal

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

PROGRAM_FILE = "program.pt2"
WEIGHTS_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes ``program.pt2`` and ``weights.safetensors``.

    Raises :class:`Invalid` without a sample, :class:`Unsupported` when torch cannot export the model or the program needs
    something that could run code.
    """
    import torch
    from safetensors.torch import save

    if sample is None or sample.matrix is None:
        raise Invalid(
            "a PyTorch model needs a sample input to be exported",
            field="sample_input",
            hint="pass a batch of inputs: save_model(model, folder, sample_input=batch)",
        )
    module = _prepared(model)
    rows = torch.from_numpy(np.concatenate([sample.matrix, sample.matrix])[: max(2, min(sample.rows, 8))])
    try:
        with _quiet():
            # A free number of rows; every other dimension is the sample's.
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            exported = torch.export.export(module, (rows,), dynamic_shapes=shapes)
    # torch.export raises its own, dynamo's, fx's and plain Python errors for what it cannot trace.
    except Exception as error:
        raise Unsupported(
            f"torch.export cannot trace this model: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            field="model",
            hint="avoid Python control flow on tensor values, or package it with flavour='python'",
        ) from error
    weights: bytes = save({key: value.detach().clone() for key, value in exported.state_dict.items()})
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(exported, buffer)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / PROGRAM_FILE).write_bytes(seal(buffer.getvalue(), weights))
    return Written(
        files=(PROGRAM_FILE, WEIGHTS_FILE),
        answers=answer(module, sample.matrix),
        kind="torch-export",
        modules=("torch", "safetensors", "numpy"),
    )


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """An ONNX graph, when torch can export one and ONNX Runtime agrees: it answers one row several times faster."""
    import torch

    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return Engines(refused={"onnxruntime": f"{error.name} is not installed"})
    names = [spec.name for spec in signature.outputs]
    options = {
        "input_dtype": signature.inputs[0].dtype,
        "outputs": {n: n for n in names},
        "sample": "synthetic" if sample.synthetic else "given",
    }
    try:
        with _quiet():
            torch.onnx.export(
                _prepared(model),
                (torch.from_numpy(np.array(sample.matrix)),),
                folder / ONNX_FILE,
                dynamo=False,  # the other exporter needs a further package, onnxscript
                input_names=["input"],
                output_names=names,
                dynamic_axes={name: {0: "rows"} for name in ("input", *names)},
            )
        predictor = OnnxPredictor((folder / ONNX_FILE).read_bytes(), signature, options, 1)
        difference = compare(answers, predictor(sample.batch))
        single = compare({k: v[:1] for k, v in answers.items()}, predictor(np.asarray(sample.matrix)[:1]))
    # As in torch.export: any type; the exported program serves and the reason is kept in the manifest.
    except Exception as error:  # noqa: BLE001
        (folder / ONNX_FILE).unlink(missing_ok=True)
        return Engines(refused={"onnxruntime": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
    worst = max((difference, single), key=lambda d: d.scaled)
    if not worst.agrees:
        (folder / ONNX_FILE).unlink()
        return Engines(refused={"onnxruntime": f"differs by {worst.largest:g} {worst.reason}".rstrip()})
    entry = EngineEntry(
        kind="onnxruntime",
        files=(ONNX_FILE,),
        max_difference=worst.largest,
        compared_rows=sample.rows,
        version=installed_version("onnxruntime"),
        options=options,
    )
    return Engines(kept=(entry,))


def drawn_sample(model: Any) -> Sample | None:
    """Rows for a model that begins with a linear layer; the inputs of others cannot be told from the model."""
    import torch

    leaves = [part for part in model.modules() if not list(part.children())]
    if not leaves or not isinstance(leaves[0], torch.nn.Linear):
        return None
    rows = np.random.default_rng(SEED).standard_normal((8, leaves[0].in_features)).astype(np.float32)
    sample = read_sample(rows, tensor=True)
    return Sample(layout=sample.layout, inputs=sample.inputs, matrix=sample.matrix, synthetic=True)


def load(package: Package) -> Any:
    """The program as a module (``module(tensor)``); its ``state_dict`` holds the weights. Runs no code of the package."""
    import torch

    archive = unseal(package.read(PROGRAM_FILE), package.read(WEIGHTS_FILE), name=PROGRAM_FILE)
    try:
        with _quiet():
            return torch.export.load(archive).module()
    # A damaged program fails anywhere in torch's deserialiser, with any exception.
    except Exception as error:
        raise Invalid(
            f"torch cannot read {PROGRAM_FILE}: {type(error).__name__}: {error}"[:500], field=PROGRAM_FILE
        ) from error


def _prepared(model: Any) -> Any:
    """A copy for export: on the CPU, in evaluation mode, weights contiguous so that their bytes are those of safetensors."""
    module = copy.deepcopy(model).cpu().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()
        tensor.requires_grad_(False)
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs, warns and prints about its own plans; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
