"""Histogram gradient boosting as an ONNX tree ensemble with float64 thresholds.

These trees compare in float64, unlike scikit-learn's others, and skl2onnx writes float32 thresholds (and, with ONNX 1.23,
fails to write any). ONNX keeps float64 ones in the ``..._as_tensor`` attributes of ``ai.onnx.ml`` 3. Here is a converter
for skl2onnx that uses them, so that these models also convert inside pipelines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

Converter = Callable[[Any, Any, Any], None]


def converters() -> dict[type, Converter]:
    """For ``convert_sklearn(custom_conversion_functions=...)``."""
    return {HistGradientBoostingClassifier: _classifier, HistGradientBoostingRegressor: _regressor}


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    model, add = operator.raw_operator, _Adder(scope, container)
    raw = _scores(add, operator)
    if len(model.classes_) == 2:
        one = add.constant(TensorProto.DOUBLE, [1], [1.0])
        second = add.node("Sigmoid", [raw])
        probabilities = add.node("Concat", [add.node("Sub", [one, second]), second], axis=1)
    else:
        probabilities = add.node("Softmax", [raw], axis=1)
    best = add.node("ArgMax", [probabilities], axis=1, keepdims=0)
    labels = model.classes_.tolist()
    if all(isinstance(label, str) for label in labels):
        table = add.constant(TensorProto.STRING, [len(labels)], [label.encode() for label in labels])
    elif all(int(label) == label for label in labels):
        table = add.constant(TensorProto.INT64, [len(labels)], [int(label) for label in labels])
    else:
        raise ValueError("class labels are neither text nor whole numbers")
    add.node("Gather", [table, best], output=operator.outputs[0].full_name)
    _finish(add, probabilities, operator.outputs[1])


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    add = _Adder(scope, container)
    raw = _scores(add, operator)
    link = type(operator.raw_operator._loss.link).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise ValueError(f"the loss's {link} has no form here")
    _finish(add, add.node("Exp", [raw]) if link == "LogLink" else raw, operator.outputs[0])


def _finish(add: _Adder, value: str, output: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    wanted = TensorProto.DOUBLE if isinstance(output.type, DoubleTensorType) else TensorProto.FLOAT
    add.node("Cast", [value], output=output.full_name, to=wanted)


def _scores(add: _Adder, operator: Any) -> str:
    """The sum of all trees and the baseline, as float64 of shape (rows, trees per iteration)."""
    from onnx import TensorProto

    model = operator.raw_operator
    rows = add.node("Cast", [operator.inputs[0].full_name], to=TensorProto.DOUBLE)
    raw = add.node("TreeEnsembleRegressor", [rows], domain="ai.onnx.ml", version=3, **_attributes(model))
    return add.node("Cast", [raw], to=TensorProto.DOUBLE)


def _attributes(model: Any) -> dict[str, Any]:
    names = ("treeids", "nodeids", "featureids", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    targets: dict[str, list[int]] = {f"target_{name}": [] for name in ("treeids", "nodeids", "ids")}
    thresholds: list[float] = []
    weights: list[float] = []
    trees = [(kind, tree) for stage in model._predictors for kind, tree in enumerate(stage)]
    for number, (kind, tree) in enumerate(trees):
        for index, node in enumerate(tree.nodes):
            if node["is_categorical"]:
                raise ValueError("categorical splits have no ONNX form")
            leaf = bool(node["is_leaf"])
            missing = 0 if leaf else int(node["missing_go_to_left"])
            mode = b"LEAF" if leaf else b"BRANCH_LEQ"
            row = (number, index, int(node["feature_idx"]), mode, int(node["left"]), int(node["right"]), missing)
            for name, value in zip(names, row, strict=True):
                nodes[f"nodes_{name}"].append(value)
            thresholds.append(0.0 if leaf else float(node["num_threshold"]))
            if leaf:
                for name, value in zip(targets, (number, index, kind), strict=True):
                    targets[name].append(value)
                weights.append(float(node["value"]))
    baseline = [float(value) for value in model._baseline_prediction.ravel()]
    return {
        **nodes,
        **targets,
        "n_targets": len(model._predictors[0]),
        "aggregate_function": "SUM",
        "nodes_values_as_tensor": _doubles(thresholds),
        "target_weights_as_tensor": _doubles(weights),
        "base_values_as_tensor": _doubles(baseline),
    }


def _doubles(values: list[float]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor("values", TensorProto.DOUBLE, [len(values)], values)


class _Adder:
    """Adds nodes to skl2onnx's container with names that are not taken."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def node(
        self, kind: str, inputs: list[str], *, output: str = "", domain: str = "", version: int = 13, **attributes: Any
    ) -> str:
        name = output or self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(
            kind,
            inputs,
            [name],
            op_domain=domain,
            op_version=version,
            name=self._scope.get_unique_operator_name(kind),
            **attributes,
        )
        return name

    def constant(self, kind: int, shape: list[int], values: list[Any]) -> str:
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, shape, values)
        return name
