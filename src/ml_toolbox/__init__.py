"""Train, register, deploy, roll out, watch and pay for models on any cloud with zero code changes.

    import ml_toolbox as mlt

    job = mlt.train("train.py", inputs={"training": "data.csv"}, hyperparameters={"n_estimators": 200}, register="churn")
    job.wait()
    endpoint = mlt.deploy(job.model, endpoint="churn")
    endpoint.predict(rows)

Public names are loaded on first use (PEP 562), so that ``import ml_toolbox`` stays light: no numpy, no web framework, no
cloud SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_toolbox.app import Toolbox
    from ml_toolbox.app.functions import deploy, load_dataset, load_model, save_dataset, train
    from ml_toolbox.base.errors import ToolboxError
    from ml_toolbox.domain.jobs import Environment, JobSpec, Limits, Resources, RetryRule
    from ml_toolbox.packages import save_model

__version__ = "0.1.0"

_HOMES = {
    "Environment": "ml_toolbox.domain.jobs",
    "JobSpec": "ml_toolbox.domain.jobs",
    "Limits": "ml_toolbox.domain.jobs",
    "Resources": "ml_toolbox.domain.jobs",
    "RetryRule": "ml_toolbox.domain.jobs",
    "Toolbox": "ml_toolbox.app",
    "ToolboxError": "ml_toolbox.base.errors",
    "deploy": "ml_toolbox.app.functions",
    "load_dataset": "ml_toolbox.app.functions",
    "load_model": "ml_toolbox.app.functions",
    "save_dataset": "ml_toolbox.app.functions",
    "save_model": "ml_toolbox.packages",
    "train": "ml_toolbox.app.functions",
}

__all__ = [
    "Environment",
    "JobSpec",
    "Limits",
    "Resources",
    "RetryRule",
    "Toolbox",
    "ToolboxError",
    "deploy",
    "load_dataset",
    "load_model",
    "save_dataset",
    "save_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
