"""XGBoost: its own UBJSON file, which holds the scikit-learn style wrapper's state too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.sklearn_engine import answer
from ml_toolbox.packages.engines.xgboost_engine import XgboostPredictor
from ml_toolbox.packages.flavours.sklearn_flavour import classes
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.manifest import Signature
from ml_toolbox.packages.samples import Sample

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

FILE = "model.ubj"
WRAPPER_FILE = "wrapper.json"
_WRAPPERS = ("XGBClassifier", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker", "XGBRegressor", "XGBModel")


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes ``model.ubj``, and the wrapper's class name when there is one."""
    import xgboost

    wrapped = isinstance(model, xgboost.XGBModel)
    kind = type(model).__name__
    if wrapped and kind not in _WRAPPERS:
        raise Invalid(
            f"{kind} is a class of your own",
            field="model",
            hint="package it with flavour='python', or use XGBoost's own class",
        )
    booster = model.get_booster() if wrapped else model
    model.save_model(folder / FILE)
    (folder / WRAPPER_FILE).write_text(json.dumps({"class": kind if wrapped else "Booster"}) + "\n")
    labels = classes(model) if wrapped else ()
    # The wrapper stops at the best iteration of early stopping; the bare booster has to be told.
    best = getattr(model, "best_iteration", None) if wrapped and getattr(model, "early_stopping_rounds", None) else None
    options = {"labels": bool(labels), "iterations": 0 if best is None else int(best) + 1}
    answers: dict[str, Array] | None = None
    if sample is not None:
        signature = Signature(layout=sample.layout, inputs=sample.inputs, outputs=(), classes=labels)
        if wrapped:
            answers = answer(model, sample.batch if sample.matrix is not None else _matrix(sample, signature))
        else:
            raw = XgboostPredictor(booster, signature, labels=False, iterations=0)
            answers = {"prediction": raw.scores(sample.batch)}
    modules = ("xgboost", "numpy", *(("sklearn",) if wrapped else ()))
    return Written(
        files=(FILE, WRAPPER_FILE), answers=answers, kind="xgboost", options=options, classes=labels, modules=modules
    )


def _matrix(sample: Sample, signature: Signature) -> Array:
    from ml_toolbox.packages.engines.boosted import matrix_of

    return matrix_of(sample.batch, signature)


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """None: the original is served by the booster itself already."""
    return Engines()


def load(package: Package) -> Any:
    """The wrapped model or the booster. Runs no code of the package."""
    import xgboost

    data = package.read(FILE)
    kind = json.loads(package.read(WRAPPER_FILE)).get("class")
    if kind == "Booster":
        return booster_from(data, name=FILE)
    if kind not in _WRAPPERS:
        raise Invalid.choice(f"{WRAPPER_FILE}.class", kind, (*_WRAPPERS, "Booster"))
    model = getattr(xgboost, kind)()
    booster_from(data, name=FILE)
    model.load_model(bytearray(data))
    return model


def booster_from(data: bytes, *, name: str) -> Any:
    """A booster from XGBoost's UBJSON or JSON. Raises :class:`Invalid` unless it is one and XGBoost reads it.

    The old binary format and pickles are refused by their first bytes, before XGBoost's parsers see them.
    """
    import xgboost

    if not data.lstrip()[:1] == b"{":
        raise Invalid(
            f"{name} is not an XGBoost JSON or UBJSON model", field=name, hint="model.save_model('model.ubj')"
        )
    try:
        return xgboost.Booster(model_file=bytearray(data))
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise Invalid(f"XGBoost cannot read {name}: {str(error).splitlines()[0]}", field=name) from error
