"""Training: from a spec to a finished job and its model, on any backend, through the durable loop.

:mod:`spec` reads specs, :mod:`snapshot` freezes the sources, :mod:`workflow` decides (pure), :mod:`training` is the feature
that commands and servers call. Placement, prices and the registry are other features: they are handed in as callables.
"""

from __future__ import annotations

from ml_toolbox.features.training.attempts import Worst, worst
from ml_toolbox.features.training.prepare import ResolvedInput, prepare
from ml_toolbox.features.training.records import AttemptRecord, JobRecord, payers
from ml_toolbox.features.training.spec import load_spec
from ml_toolbox.features.training.training import Job, Training

__all__ = [
    "AttemptRecord",
    "Job",
    "JobRecord",
    "ResolvedInput",
    "Training",
    "Worst",
    "load_spec",
    "payers",
    "prepare",
    "worst",
]
