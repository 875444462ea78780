"""How models of each framework become files and come back: one module per flavour.

Each module has ``write(model, folder, sample) -> Written``, ``engines(model, folder, sample, answers)`` for faster engines,
and ``load(package) -> model``. Which framework an object belongs to is read from its class's ancestry, by name, so that no
framework is imported to ask.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ml_toolbox.base.errors import Invalid

FLAVOURS = ("sklearn", "lightgbm", "xgboost", "torch", "onnx", "python")
_MODULES = {name: f"{name}_flavour" for name in FLAVOURS}


def flavour_module(name: str) -> Any:
    """The module of a flavour; raises :class:`Invalid` for an unknown name."""
    if name not in _MODULES:
        raise Invalid.choice("flavour", name, FLAVOURS)
    return import_module(f"{__name__}.{_MODULES[name]}")


def detect(model: Any) -> str:
    """The flavour of ``model``. Raises :class:`Invalid` when none is its own: a plain class needs ``flavour='python'``."""
    ancestry = [f"{c.__module__}.{c.__qualname__}" for c in type(model).__mro__]
    roots = {name.split(".")[0] for name in ancestry}
    for root in ("lightgbm", "xgboost", "torch", "catboost"):
        if root in roots:
            if root == "catboost":
                raise Invalid(
                    "CatBoost models have no safe file form here",
                    field="model",
                    hint="export it with model.save_model('model.onnx', format='onnx') and package that file",
                )
            return root
    # The user's own subclass of an estimator is the user's code: skops cannot bring it back without importing it.
    if ancestry[0].startswith("sklearn."):
        return "sklearn"
    if "onnx" in roots or any(name.startswith("onnx.") for name in ancestry):
        return "onnx"
    subclass = "sklearn" in roots
    raise Invalid(
        f"{ancestry[0]} is {'a class of your own' if subclass else 'not a model of a known framework'}",
        field="model",
        hint="package it as Python with flavour='python' (its source goes along; loading it then needs explicit trust)",
    )
