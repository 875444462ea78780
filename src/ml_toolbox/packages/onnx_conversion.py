"""scikit-learn to ONNX, in the form that is right for this model: decided by test, never by rule alone.

Three forms are tried, the exact one for the kind of model first, and the first that agrees with the original is kept.
*float32*: what trees compare in. *float64*: exact for linear models. *float64 with float32 trees*: for a scaler before a
forest, where the scaler must compute in float64 and the trees must compare in float32, as scikit-learn does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ml_toolbox.packages.engines import installed_version
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.onnxruntime_engine import OnnxPredictor
from ml_toolbox.packages.engines.sklearn_engine import answer, as_rows
from ml_toolbox.packages.flavours.written import Engines
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.probes import has_trees, probe_rows
from ml_toolbox.packages.proof import Difference, compare
from ml_toolbox.packages.samples import Sample, with_rows

FILE = "model.onnx"
# The newest operator sets that skl2onnx 1.17 and ONNX Runtime 1.19, the oldest supported, both know.
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def convert(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """Write ``model.onnx`` and return its entry, or the reason why there is none."""
    try:
        import onnxruntime  # noqa: F401
        import skl2onnx  # noqa: F401
    except ImportError as error:
        return Engines(refused={"onnxruntime": f"{error.name} is not installed"})
    reasons = []
    for form in _forms(model):
        dtype = "float32" if form == "float32" else "float64"
        try:
            data, options = _graph(model, sample, signature, form, dtype)
            difference, rows = _judge(OnnxPredictor(data, signature, options, 1), model, sample, signature, answers)
        # skl2onnx and ONNX Runtime raise dozens of unrelated types for what they cannot convert or run; whichever it
        # is, the original serves and the reason is kept in the manifest.
        except Exception as error:  # noqa: BLE001
            reasons.append(f"{form}: {_short(error)}")
            continue
        if not difference.agrees:
            reasons.append(f"{form}: differs by {difference.largest:g} {difference.reason}".rstrip())
            continue
        return Engines(kept=(_keep(folder, data, options, difference, rows),))
    return Engines(refused={"onnxruntime": "; ".join(reasons)})


def _keep(folder: Path, data: bytes, options: dict[str, Any], difference: Difference, rows: int) -> EngineEntry:
    (folder / FILE).write_bytes(data)
    return EngineEntry(
        kind="onnxruntime",
        files=(FILE,),
        max_difference=difference.largest,
        compared_rows=rows,
        version=installed_version("onnxruntime"),
        options=options | {"max_scaled_difference": difference.scaled},
    )


def _forms(model: Any) -> tuple[str, ...]:
    if not has_trees(model):
        return ("float64", "float32")
    mixed = "float64 with float32 trees"
    return (mixed, "float32") if hasattr(model, "steps") or hasattr(model, "transformers_") else ("float32", mixed)


def _graph(model: Any, sample: Sample, signature: Signature, form: str, dtype: str) -> tuple[bytes, dict[str, Any]]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    from ml_toolbox.packages.boosting_conversion import converters

    number = FloatTensorType if dtype == "float32" else DoubleTensorType
    if any(spec.dtype == "string" and spec.nullable for spec in sample.inputs):
        raise ValueError("text columns with missing values have no ONNX form")
    if sample.layout == "columns" or _by_name(model):
        types = [(s.name, (StringTensorType if s.dtype == "string" else number)([None, 1])) for s in sample.inputs]
    else:
        types = [("input", number([None, len(sample.inputs)]))]
    options = {id(model): {"zipmap": False}} if signature.classes and hasattr(model, "predict_proba") else None
    with _quiet():
        # Named, because the default is a random identifier and equal models should give equal files.
        graph = convert_sklearn(
            model,
            name="model",
            initial_types=types,
            options=options,
            target_opset=_OPSETS,
            custom_conversion_functions=converters(),
        )
    if form != "float32":
        _single_precision_trees(graph.graph)
    # By position, not by name: skl2onnx names outputs after the model's kind.
    names = dict(zip((spec.name for spec in signature.outputs), (o.name for o in graph.graph.output), strict=False))
    kind = "synthetic" if sample.synthetic else "given"
    return graph.SerializeToString(), {"input_dtype": dtype, "form": form, "outputs": names, "sample": kind}


def _by_name(model: Any) -> bool:
    """Whether a part of the model picks columns by name, so that the graph needs one named input per column."""
    parts = [model, *(step for _, step in getattr(model, "steps", []))]
    return any(
        isinstance(columns, str)
        or (isinstance(columns, (list, np.ndarray)) and any(isinstance(c, str) for c in columns))
        for part in parts
        for _, _, columns in getattr(part, "transformers_", [])
    )


def _single_precision_trees(graph: Any) -> None:
    """Cast to float32 before each node of trees with float32 thresholds, and back after it, in place."""
    from onnx import TensorProto, helper

    nodes = list(graph.node)
    del graph.node[:]
    for number, node in enumerate(nodes):
        in_double = any(attribute.name == "nodes_values_as_tensor" for attribute in node.attribute)
        if in_double or not node.op_type.startswith("TreeEnsemble"):
            graph.node.append(node)
            continue
        single, raw = f"mlt_single_{number}", f"mlt_raw_{number}"
        graph.node.append(helper.make_node("Cast", [node.input[0]], [single], to=TensorProto.FLOAT))
        node.input[0] = single
        # The regressor answers in float32 whatever the graph declares; the classifier's consumers expect float32.
        regressor = node.op_type == "TreeEnsembleRegressor"
        answer_name = node.output[0]
        if regressor:
            node.output[0] = raw
        graph.node.append(node)  # a copy: the node must be complete by now
        if regressor:
            graph.node.append(helper.make_node("Cast", [raw], [answer_name], to=TensorProto.DOUBLE))


def _judge(
    engine: OnnxPredictor, model: Any, sample: Sample, signature: Signature, answers: dict[str, Array]
) -> tuple[Difference, int]:
    """The engine's worst difference on the sample and on the probes, and the rows compared."""
    worst = compare(answers, engine(sample.batch))
    rows = sample.rows
    probes = probe_rows(model, sample)
    if probes is None or not len(probes) or not worst.agrees:
        return worst, rows
    probed = with_rows(sample, probes)
    names = [spec.name for spec in sample.inputs]
    wanted = answer(model, as_rows(probed.batch, names, False)) if not _by_name(model) else {}
    given = engine(probed.batch)
    # A made row may fall exactly between two classes, where the last bit decides the label: numbers are compared there.
    numbers = {name: a for name, a in wanted.items() if a.dtype.kind == "f" or "probabilities" not in wanted}
    found = compare(numbers, given)
    return (found if found.scaled > worst.scaled else worst), rows + len(probes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter prints and warns about its own versions; neither says anything about this model."""
    logger = logging.getLogger("skl2onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
