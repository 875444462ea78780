"""What writing a model in its own format gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.manifest import EngineEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The original, on disk."""

    files: tuple[str, ...]
    answers: dict[str, Array] | None
    """What the model says about the sample, or None when it has no answer for new rows or there is no sample."""
    kind: str
    """Kind of the engine that runs the original."""
    options: dict[str, Any] = field(default_factory=dict)
    executes_code: tuple[str, ...] = ()
    classes: tuple[Any, ...] = ()
    skops_types: tuple[str, ...] = ()
    """Types that another reader of the ``.skops`` file has to be told to trust."""
    modules: tuple[str, ...] = ()
    """Importable names of the libraries that loading it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Faster engines that were kept, and those that were not, with the reason."""

    kept: tuple[EngineEntry, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
