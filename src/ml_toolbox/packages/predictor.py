"""What the model server asks of a loaded package, whatever engine is inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ml_toolbox.packages.manifest import Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Batch = NDArray[np.generic] | Mapping[str, NDArray[np.generic]]
    """Rows in the signature's layout: one array for ``matrix`` and ``tensor``, a mapping of 1-D arrays for ``columns``."""
else:
    Batch = Any


class Predictor(Protocol):
    """Runs a batch. Safe to call from one thread at a time unless ``thread_safe``."""

    @property
    def signature(self) -> Signature: ...

    @property
    def engine(self) -> str:
        """Kind of the engine that answers, e.g. ``onnxruntime``."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names it can return; the first is the default answer (``prediction``), then e.g. ``probabilities``."""

    @property
    def releases_gil(self) -> bool:
        """Whether a call lets other Python threads run (native engines do)."""

    def __call__(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        """The named outputs (default: all), each with the rows of ``batch`` as first axis, in order."""
