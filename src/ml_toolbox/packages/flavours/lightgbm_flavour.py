"""LightGBM: boosters as their own text, scikit-learn style models as that text beside a ``.skops`` file of the wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages.engines import installed_version
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.boosted import matrix_of
from ml_toolbox.packages.engines.lightgbm_engine import LightgbmPredictor
from ml_toolbox.packages.engines.sklearn_engine import answer
from ml_toolbox.packages.flavours.sklearn_flavour import classes
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.manifest import EngineEntry, Signature
from ml_toolbox.packages.proof import compare
from ml_toolbox.packages.samples import Sample
from ml_toolbox.packages.skops_files import dump_skops, load_skops

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

FILE = "model.txt"
WRAPPER_FILE = "model.skops"


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes the booster's text, and for ``LGBMClassifier`` and its kin the ``.skops`` file that brings the object back."""
    wrapped = hasattr(model, "booster_")
    booster = model.booster_ if wrapped else model
    (folder / FILE).write_text(booster.model_to_string(num_iteration=-1), encoding="utf-8")
    answers: dict[str, Array] | None = None
    if not wrapped:
        if sample is not None:
            signature = Signature(layout=sample.layout, inputs=sample.inputs, outputs=())
            answers = {"prediction": np.asarray(booster.predict(matrix_of(sample.batch, signature)))}
        return Written(files=(FILE,), answers=answers, kind="lightgbm", options={"labels": False}, modules=_MODULES[:2])
    (folder / WRAPPER_FILE).write_bytes(dump_skops(model)[0])
    if sample is not None:
        answers = answer(model, sample.batch)
    return Written(
        files=(WRAPPER_FILE,),
        answers=answers,
        kind="sklearn",
        options={"frame": False},
        classes=classes(model),
        modules=_MODULES,
    )


_MODULES = ("lightgbm", "numpy", "sklearn", "skops")


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """For a wrapped model the bare booster, which skips the wrapper's checks on every call."""
    if not hasattr(model, "booster_"):
        return Engines()
    labels = bool(signature.classes)
    booster = booster_from((folder / FILE).read_bytes(), name=FILE)
    predictor = LightgbmPredictor(booster, signature, labels=labels, threads=1)
    difference = compare(answers, predictor(sample.batch))
    if not difference.agrees:
        return Engines(refused={"lightgbm": f"differs by {difference.largest:g} {difference.reason}".rstrip()})
    entry = EngineEntry(
        kind="lightgbm",
        files=(FILE,),
        max_difference=difference.largest,
        compared_rows=sample.rows,
        version=installed_version("lightgbm"),
        options={"labels": labels, "sample": "synthetic" if sample.synthetic else "given"},
    )
    return Engines(kept=(entry,))


def load(package: Package) -> Any:
    """The wrapped model or the booster. Runs no code of the package."""
    if any(entry.path == WRAPPER_FILE for entry in package.manifest.files):
        return load_skops(package.read(WRAPPER_FILE), name=WRAPPER_FILE)
    return booster_from(package.read(FILE), name=FILE)


def booster_from(data: bytes, *, name: str) -> Any:
    """A booster from LightGBM's text. Raises :class:`Invalid` unless it is such a text and LightGBM reads it."""
    import lightgbm

    if not data.startswith(b"tree\n") or b"\0" in data:
        raise Invalid(f"{name} is not a LightGBM text model", field=name)
    try:
        return lightgbm.Booster(model_str=data.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise Invalid(f"LightGBM cannot read {name}: {error}", field=name) from error
