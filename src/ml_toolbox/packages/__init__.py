"""The model package format: manifest, safe loaders, engines, signatures, verification.

Here belongs everything that reads or writes a package folder. What a registry, a server or a job does with the package
does not. Also used inside a training job's own environment, so nothing here imports more than the standard library at
the top: the names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_toolbox.packages.archives import archive, unpack
    from ml_toolbox.packages.capturing import CaptureReport, capture
    from ml_toolbox.packages.manifest import ColumnSpec, EngineEntry, FileEntry, Lineage, Manifest, Signature
    from ml_toolbox.packages.package import Package, open_package
    from ml_toolbox.packages.predictor import Predictor
    from ml_toolbox.packages.save import save_model
    from ml_toolbox.packages.screening import screen
    from ml_toolbox.packages.signing import sign, verify_signature
    from ml_toolbox.packages.trust import NO_TRUST, Trust

_WHERE = {
    "archive": "archives",
    "unpack": "archives",
    "CaptureReport": "capturing",
    "capture": "capturing",
    "ColumnSpec": "manifest",
    "EngineEntry": "manifest",
    "FileEntry": "manifest",
    "Lineage": "manifest",
    "Manifest": "manifest",
    "Signature": "manifest",
    "Package": "package",
    "open_package": "package",
    "Predictor": "predictor",
    "save_model": "save",
    "screen": "screening",
    "sign": "signing",
    "verify_signature": "signing",
    "NO_TRUST": "trust",
    "Trust": "trust",
}

__all__ = [
    "NO_TRUST",
    "CaptureReport",
    "ColumnSpec",
    "EngineEntry",
    "FileEntry",
    "Lineage",
    "Manifest",
    "Package",
    "Predictor",
    "Signature",
    "Trust",
    "archive",
    "capture",
    "open_package",
    "save_model",
    "screen",
    "sign",
    "unpack",
    "verify_signature",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
