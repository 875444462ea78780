"""scikit-learn: the original as ``model.skops``, and ONNX Runtime when it proves equal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.sklearn_engine import answer, as_rows
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.manifest import Signature
from ml_toolbox.packages.proof import compare
from ml_toolbox.packages.samples import Sample
from ml_toolbox.packages.skops_files import dump_skops, load_skops

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

FILE = "model.skops"


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes ``model.skops``. Raises ``Unsupported`` naming the type that has no safe form."""
    data, types = dump_skops(model)
    (folder / FILE).write_bytes(data)
    frame = needs_frame(model, sample)
    answers = None if sample is None else answer(model, as_rows(sample.batch, names(sample), frame)) or None
    return Written(
        files=(FILE,),
        answers=answers,
        kind="sklearn",
        options={"frame": frame},
        classes=classes(model),
        skops_types=types,
        modules=("sklearn", "skops", "numpy", *other_libraries(model)),
    )


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """An ONNX graph in ``model.onnx`` when one of its forms agrees with the model."""
    from ml_toolbox.packages.onnx_conversion import convert

    return convert(model, folder, sample, signature, answers)


def load(package: Package) -> Any:
    """The estimator. Runs no code of the package."""
    return load_skops(package.read(FILE), name=FILE)


def names(sample: Sample) -> list[str]:
    """The features' names in order."""
    return [spec.name for spec in sample.inputs]


def needs_frame(model: Any, sample: Sample | None) -> bool:
    """Whether rows must arrive as a DataFrame: mixed columns, or parts of the model that pick columns by name.

    Asked by trying, because building a DataFrame for each request costs more than most models' own answer.
    """
    if sample is None:
        return False
    if sample.layout == "columns":
        return True
    if not hasattr(model, "feature_names_in_"):
        return False
    framed = answer(model, as_rows(sample.batch, names(sample), True))
    try:
        return not compare(framed, answer(model, sample.batch)).agrees
    except (ToolboxError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        return True  # picking columns by name from an array fails in as many ways as there are transformers


def classes(model: Any) -> tuple[Any, ...]:
    """Class labels as JSON values, or () for what is no classifier."""
    labels = getattr(model, "classes_", None)
    if labels is None or not hasattr(model, "predict") or isinstance(labels, list):
        return ()
    return tuple(np.asarray(labels).tolist())


def other_libraries(model: Any) -> tuple[str, ...]:
    """Libraries besides scikit-learn whose estimators are inside."""
    found, todo, seen = set(), [model], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        root = type(item).__module__.split(".")[0]
        if root in ("lightgbm", "xgboost"):
            found.add(root)
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        elif root == "sklearn" and hasattr(item, "__dict__"):
            todo.extend(vars(item).values())
    return tuple(sorted(found))
