"""What Python users call without making a :class:`Toolbox` first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.app.providers import DEFAULT_BACKEND
from ml_toolbox.app.toolbox import Toolbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ml_toolbox.domain.jobs import JobSpec
    from ml_toolbox.features.data import DatasetVersion
    from ml_toolbox.features.serving import Endpoint
    from ml_toolbox.features.training import Job


def train(
    target: str | Path | JobSpec,
    *,
    inputs: Mapping[str, str | Path] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    register: str | None = None,
    metrics: Mapping[str, str] | None = None,
    on: str = DEFAULT_BACKEND,
    toolbox: Toolbox | None = None,
) -> Job:
    """Start a training job and return at once with its handle (``wait()``, ``logs()``, ``stop()``, ``model``).

    Args:
        target: path of the script or of a spec file (YAML, JSON), or a :class:`JobSpec`.
        inputs: channel -> file, folder, URI, or ``data:NAME[:VERSION]``.
        hyperparameters: any JSON values; they arrive in the script with type and precision unchanged.
        name: of the job; default: the registered model's name, or the script's.
        register: name of the model that the result becomes a version of.
        metrics: metric -> regular expression with one group, searched in printed lines.
        on: backend.
    Raises:
        Invalid: naming the field, before anything is started.
        Unsupported: the backend cannot run it, with its reason.
    """
    from dataclasses import replace

    spec = _spec_of(target, name or register)
    spec = replace(
        spec,
        name=name or spec.name,
        inputs={**spec.inputs, **{channel: str(uri) for channel, uri in (inputs or {}).items()}},
        hyperparameters={**spec.hyperparameters, **(hyperparameters or {})},
        register=register or spec.register,
        metrics={**spec.metrics, **(metrics or {})},
    )
    return (toolbox or Toolbox()).training.submit(spec, on)


def _spec_of(target: str | Path | JobSpec, name: str | None) -> JobSpec:
    from ml_toolbox.features.training.spec import target_spec

    return target if not isinstance(target, (str, Path)) else target_spec(Path(target), name=name)


def deploy(
    model: str | Path,
    *,
    endpoint: str,
    weight: float | None = None,
    replicas: int | None = None,
    on: str = DEFAULT_BACKEND,
    wait_s: float | None = 120.0,
    toolbox: Toolbox | None = None,
) -> Endpoint:
    """Serve a model at an endpoint, creating it or adding the version beside what is there.

    Args:
        model: ``NAME[:VERSION|@ALIAS]`` in the registry, a package folder, or the URI of one.
        weight: share of traffic in percent; default: everything.
        wait_s: how long to wait until it answers; ``None``: return at once.
    Raises:
        NotFound: no such model. NotYet: not ready after ``wait_s``.
    """
    handle = (toolbox or Toolbox()).serving.deploy(str(model), endpoint, weight=weight, replicas=replicas, on=on)
    if wait_s is not None:
        handle.wait_ready(timeout_s=wait_s)
    return handle


def load_model(model: str | Path, *, trust: bool = False, toolbox: Toolbox | None = None) -> Any:
    """The original model object of a registered version, a package folder or its URI.

    Contents that execute code when loaded (pickle, joblib, Python sources) raise ``Untrusted`` unless ``trust``.
    """
    from ml_toolbox.packages import Trust, open_package

    folder = (toolbox or Toolbox()).model_folder(str(model))
    return open_package(folder, trust=Trust(explicit=trust)).load()


def save_dataset(name: str, data: Any, *, description: str = "", toolbox: Toolbox | None = None) -> DatasetVersion:
    """Store arrays, frames, tables, files or folders as the next version of the dataset ``name``."""
    return (toolbox or Toolbox()).datasets.put(name, data, description=description)


def load_dataset(ref: str, *, toolbox: Toolbox | None = None) -> Any:
    """What was stored as ``NAME[:VERSION]``, in the form it was stored in."""
    return (toolbox or Toolbox()).datasets.get(ref)
