"""What runs a packaged model: one module per engine, each giving a :class:`~ml_toolbox.packages.predictor.Predictor`.

An engine knows how to turn a batch in the signature's layout into the signature's outputs. It does not know how it was
made or proven: that is ``flavours`` and ``save``.
"""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

# Kind -> (module here, the importable packages it needs, the package whose version proves it, the extra that installs it).
_ENGINES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "onnxruntime": ("onnxruntime_engine", ("numpy", "onnxruntime"), "onnxruntime", "serving"),
    "sklearn": ("sklearn_engine", ("numpy", "sklearn", "skops"), "sklearn", "sklearn"),
    "lightgbm": ("lightgbm_engine", ("numpy", "lightgbm"), "lightgbm", "lightgbm"),
    "xgboost": ("xgboost_engine", ("numpy", "xgboost"), "xgboost", "xgboost"),
    "torch-export": ("torch_engine", ("numpy", "torch"), "torch", "torch"),
    "python": ("python_engine", ("numpy",), "", ""),
}
_DISTRIBUTIONS = {
    "sklearn": ("scikit-learn",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


def engine_module(kind: str) -> Any:
    """The module of an engine; it has ``open_engine(package, entry, threads) -> Predictor``."""
    return import_module(f"{__name__}.{_ENGINES[kind][0]}")


def missing_packages(kind: str) -> tuple[str, ...]:
    """What this interpreter lacks to run the engine; an unknown kind lacks itself."""
    if kind not in _ENGINES:
        return (kind,)
    return tuple(name for name in _ENGINES[kind][1] if find_spec(name) is None)


def extra_of(kind: str) -> str:
    """The extra of this distribution that installs the engine, or ""."""
    return _ENGINES[kind][3] if kind in _ENGINES else ""


def installed_version(kind: str) -> str:
    """Version of the engine's library here, or "" when it has none or is not installed."""
    return distribution(_ENGINES[kind][2])[1] if kind in _ENGINES and _ENGINES[kind][2] else ""


def distribution(module: str) -> tuple[str, str]:
    """(name, version) of the installed distribution that provides ``module``, or ``(module, "")``."""
    for name in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return module, ""
