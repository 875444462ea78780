"""``MLmodel``: what lets MLflow load the package.

For scikit-learn MLflow's own reader of skops files is named, with the allow-list of exactly this model's types, so MLflow
loads it without this package. For the rest the loader is ours. Neither loads a pickle without the user's word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_toolbox.packages.layout import MLMODEL_NAME, REQUIREMENTS_NAME
from ml_toolbox.packages.manifest import Manifest


def write_mlmodel(folder: Path, manifest: Manifest, skops_types: tuple[str, ...] = ()) -> None:
    """Write ``MLmodel`` (JSON, which is YAML, so that no YAML library is needed in the job)."""
    python = manifest.environment["python"]
    environment = {"virtualenv": "python_env.yaml"}
    (folder / "python_env.yaml").write_text(
        json.dumps({"python": python, "build_dependencies": ["pip"], "dependencies": [f"-r {REQUIREMENTS_NAME}"]})
        + "\n"
    )
    flavours: dict[str, Any] = {}
    function: dict[str, Any] = {"env": environment, "python_version": python}
    if manifest.flavour == "sklearn":
        function |= {"loader_module": "mlflow.sklearn", "model_path": "model.skops", "predict_fn": "predict"}
        flavours["sklearn"] = {
            "code": None,
            "pickled_model": "model.skops",  # MLflow's name for the key, whatever the format
            "serialization_format": "skops",
            "skops_trusted_types": list(skops_types),
            "sklearn_version": manifest.environment.get("scikit-learn", ""),
        }
    else:
        function |= {"loader_module": "ml_toolbox.packages.mlflow_loader", "data": "."}
    flavours["python_function"] = function
    document = {
        "artifact_path": "model",
        "flavors": flavours,
        "model_uuid": None,
        "run_id": None,
        "utc_time_created": manifest.created_at.replace("T", " ").rstrip("Z"),
    }
    (folder / MLMODEL_NAME).write_text(json.dumps(document, indent=1) + "\n")
