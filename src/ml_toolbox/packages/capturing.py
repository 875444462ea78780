"""Turning what a training script wrote into a package, in that script's own process.

There, and only there, a pickle is the user's own file of a moment ago, so loading it adds no risk; afterwards nobody has to
load one again.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, MissingExtra, Unsupported, Untrusted
from ml_toolbox.base.ids import nonce
from ml_toolbox.packages.flavours import detect
from ml_toolbox.packages.layout import SIGNATURE_NAME, list_files
from ml_toolbox.packages.manifest import MANIFEST_NAME, Lineage, Manifest
from ml_toolbox.packages.manifest_json import dump_manifest

SAMPLE_STEM = "sample_input"
_SAMPLE_SUFFIXES = (".npy", ".csv", ".parquet", ".json")
_PICKLES = (".joblib", ".pkl", ".pickle", ".sav")
_TORCH = (".pt", ".pth")
_REFUSED = {
    ".cbm": "a CatBoost model: export it with model.save_model('model.onnx', format='onnx')",
    ".keras": "a Keras model: export it with model.export('model.onnx', format='onnx')",
    ".h5": "an HDF5 model: export it to ONNX",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport:
    """What became of a model folder."""

    manifest: Manifest
    source: str
    """The file that became the model, relative to the model folder; ``mltoolbox.json`` for a finished package."""
    sample: str
    """Where the sample came from: ``given``, the file's name, ``synthetic``, ``package`` or ``none``."""
    artifacts: tuple[str, ...] = ()
    """Other files, kept under ``artifacts/``."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""


def capture(
    model_dir: str | Path,
    folder: str | Path,
    *,
    lineage: Lineage | None = None,
    sample_input: Any = None,
    trust_local: bool = True,
    name: str = "",
) -> CaptureReport:
    """Make a package in ``folder`` from the one model in ``model_dir``.

    Takes ``joblib``, ``pickle`` and ``torch.save`` files of whole models, ``.onnx``, LightGBM text, XGBoost JSON and UBJSON,
    ``.skops``, and a package that the script finished itself. With several models the one called ``model.*`` is taken.
    The sample is ``sample_input``, or a file ``sample_input.{npy,csv,parquet,json}`` beside the model, or drawn. An object
    without a safe form becomes a ``python`` package, with a note. ``trust_local=False`` refuses pickles, for folders that
    came from elsewhere.

    Raises:
        Invalid: no model, several, or one that cannot be loaded; names the files.
        Unsupported: a format that has no safe form here; says what to export instead.
        Untrusted: a pickle with ``trust_local=False``, or a link.
        Conflict: ``folder`` exists and is not empty.
    """
    source, target = Path(model_dir), Path(folder)
    if not source.is_dir():
        raise Invalid(f"there is no model folder {source}", field="model_dir")
    files = dict(list_files(source))
    if MANIFEST_NAME in files:
        return _adopt(source, target, lineage)
    chosen = _choose(files, source)
    model = _load(files[chosen], trust_local)
    sample, origin = _sample(files, sample_input)
    others = {path: file for path, file in files.items() if path != chosen and not _is_sample(path)}
    notes: list[str] = []
    flavour = _flavour(model, notes)
    manifest = _save(model, target, flavour, notes, sample=sample, lineage=lineage, name=name, artifacts=others)
    if manifest.signature is None:
        origin = "none"
        notes.append(f"the model has no signature and cannot be served: write its input to {SAMPLE_STEM}.npy beside it")
    elif sample is None:
        origin = "synthetic"
        notes.append(f"engines were proven on drawn rows: write a few real ones to {SAMPLE_STEM}.npy beside the model")
    return CaptureReport(
        manifest=manifest, source=chosen, sample=origin, artifacts=tuple(sorted(others)), notes=tuple(notes)
    )


def _adopt(source: Path, target: Path, lineage: Lineage | None) -> CaptureReport:
    """Copy a finished package, adding the lineage unless that would break its signature."""
    from ml_toolbox.packages.package import open_package

    package = open_package(source)
    package.verify()
    if target.exists() and any(target.iterdir()):
        raise Invalid(f"{target} exists and is not empty", field="folder")
    manifest = package.manifest
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{nonce()[:12]}.tmp"
    try:
        shutil.copytree(source, temporary)
        if lineage is not None and not (source / SIGNATURE_NAME).exists():
            manifest = dataclasses.replace(manifest, lineage=lineage)
            (temporary / MANIFEST_NAME).write_bytes(dump_manifest(manifest))
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return CaptureReport(manifest=manifest, source=MANIFEST_NAME, sample="package")


def _choose(files: dict[str, Path], source: Path) -> str:
    candidates = [path for path, file in files.items() if _is_model(file) and not _is_sample(path)]
    if not candidates:
        for path in files:
            if reason := _REFUSED.get(Path(path).suffix.lower()):
                raise Unsupported(f"{path} is {reason.split(':')[0]}", field="model_dir", hint=reason.split(": ", 1)[1])
        raise Invalid(
            f"no model was found in {source}: {', '.join(sorted(files)[:10]) or 'it is empty'}",
            field="model_dir",
            hint="write one with joblib.dump(model, 'model.joblib'), torch.save, or ml_toolbox.packages.save_model",
        )
    named = [path for path in candidates if Path(path).stem == "model" and "/" not in path]
    if len(candidates) > 1 and len(named) != 1:
        raise Invalid(
            f"several files could be the model: {', '.join(sorted(candidates))}",
            field="model_dir",
            hint="call the one to register model.*, for example model.joblib",
        )
    return candidates[0] if len(candidates) == 1 else named[0]


def _is_model(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in (*_PICKLES, *_TORCH, ".onnx", ".skops", ".ubj"):
        return True
    with file.open("rb") as stream:
        head = stream.read(4096)
    return (suffix == ".txt" and head.startswith(b"tree\n")) or (suffix == ".json" and b'"learner"' in head)


def _is_sample(path: str) -> bool:
    return Path(path).stem == SAMPLE_STEM and Path(path).suffix.lower() in _SAMPLE_SUFFIXES


def _load(file: Path, trust_local: bool) -> Any:
    suffix = file.suffix.lower()
    if suffix in (*_PICKLES, *_TORCH):
        if not trust_local:
            raise Untrusted(
                f"{file.name} is a pickle: loading it can run any code",
                resource=str(file),
                hint="capture it in the job that wrote it, or pass trust_local=True if you wrote it yourself",
            )
        return _load_torch(file) if suffix in _TORCH else _load_pickle(file)
    data = file.read_bytes()
    if suffix == ".onnx":
        return file
    if suffix == ".skops":
        from ml_toolbox.packages.skops_files import load_skops

        return load_skops(data, name=file.name)
    if suffix == ".txt":
        from ml_toolbox.packages.flavours import lightgbm_flavour

        return lightgbm_flavour.booster_from(data, name=file.name)
    from ml_toolbox.packages.flavours import xgboost_flavour

    return xgboost_flavour.booster_from(data, name=file.name)


def _load_pickle(file: Path) -> Any:
    try:
        import joblib
    except ImportError:
        load = pickle.load
    else:
        load = joblib.load  # reads plain pickles too
    try:
        with file.open("rb") as stream:
            return load(stream)
    # Unpickling runs the objects' own code, which may raise anything.
    except Exception as error:
        raise Invalid(
            f"{file.name} cannot be loaded: {type(error).__name__}: {error}"[:500],
            field="model_dir",
            hint="is it complete, and are the libraries it was made with installed in this job?",
        ) from error


def _load_torch(file: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra.named("torch", "torch", f"reading {file.name}") from error
    try:
        model = torch.load(file, map_location="cpu", weights_only=False)
    # As above.
    except Exception as error:
        raise Invalid(
            f"{file.name} cannot be loaded: {type(error).__name__}: {error}"[:500], field="model_dir"
        ) from error
    if isinstance(model, dict):
        raise Unsupported(
            f"{file.name} holds weights ({len(model)} entries) without the model that uses them",
            field="model_dir",
            hint="save the whole model with torch.save(model, 'model.pt'), or package it with save_model(model, ...)",
        )
    return model


def _sample(files: dict[str, Path], given: Any) -> tuple[Any, str]:
    if given is not None:
        return given, "given"
    found = sorted(path for path in files if _is_sample(path))
    if not found:
        return None, ""
    return read_rows(files[found[0]]), found[0]


def read_rows(file: Path) -> Any:
    """The rows of a sample file (npy, csv, parquet or json); raises :class:`Invalid` when it cannot be read."""
    import numpy as np

    from ml_toolbox.packages.npy import check_npy

    suffix = file.suffix.lower()
    try:
        if suffix == ".npy":
            data = file.read_bytes()
            check_npy(data, size=len(data), name=file.name)
            return np.load(io.BytesIO(data), allow_pickle=False)
        if suffix == ".json":
            rows = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                return {key: [row.get(key) for row in rows] for key in rows[0]}
            return rows
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file)
        import pyarrow.csv as pc

        return pc.read_csv(file)
    except ImportError as error:
        raise MissingExtra.named("pyarrow", "data", f"reading {file.name}") from error
    except (ValueError, OSError) as error:
        raise Invalid(f"{file.name} cannot be read: {error}", field=SAMPLE_STEM) from error


def _flavour(model: Any, notes: list[str]) -> str:
    if isinstance(model, Path):
        return "onnx"
    try:
        return detect(model)
    except Invalid as error:
        if isinstance(model, (dict, list, tuple, str, bytes, int, float)) or not hasattr(model, "predict"):
            raise Invalid(
                f"the model file holds a {type(model).__name__}, not a model",
                field="model_dir",
                hint="dump the fitted model itself; join preprocessing and model in one scikit-learn Pipeline",
            ) from error
        notes.append(f"{error.message}: its source and state are packaged, and loading it needs explicit trust")
        return "python"


def _save(model: Any, target: Path, flavour: str, notes: list[str], **wish: Any) -> Manifest:
    from ml_toolbox.packages.save import save_model

    rows = wish.pop("sample")
    try:
        return save_model(model, target, flavour=flavour, sample_input=rows, **wish)
    except Unsupported as error:
        if flavour == "python" or isinstance(error, MissingExtra) or not hasattr(model, "predict"):
            raise
        notes.append(f"{error.message}: it is packaged as a pickle, and loading it needs explicit trust")
        return save_model(model, target, flavour="python", sample_input=rows, **wish)
