"""What local jobs and endpoints cannot do, apart from the code that runs them: listing backends must not load it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from ml_toolbox.ports.lacks import Lacking, Lacks

JOBS: Final[Lacking] = MappingProxyType(
    {
        "spot": Lacks("never", "this machine has no cheaper capacity that could be taken away"),
        "multi-node": Lacks("never", "this is one machine"),
        "images": Lacks("not-done", "local jobs run as processes; give requirements instead of an image"),
    }
)

ENDPOINTS: Final[Lacking] = MappingProxyType(
    {
        "accelerators": Lacks("not-done", "the local model server runs its engines on the CPU"),
        "scale-to-zero": Lacks("not-done", "a local endpoint keeps its servers running until it is deleted"),
    }
)
