"""What the module offers, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import ml_toolbox.cloud_integration as cloud

HEAVY = ("numpy", "pyarrow", "sklearn", "obstore", "boto3", "azure", "sqlalchemy", "onnxruntime")


def test_every_name_resolves_and_no_other_does() -> None:
    for name in cloud.__all__:
        assert inspect.isclass(getattr(cloud, name))
    assert dir(cloud) == sorted(cloud.__all__)
    # Comes with its storage, not as an empty shell.
    assert not hasattr(cloud, "GoogleCloudProvider")


def test_importing_the_names_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom ml_toolbox.cloud_integration import *\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (cloud.AWSProvider, ["region"]),
        (cloud.AzureProvider, ["subscription_id", "resource_group"]),
        (cloud.CloudProvider.upload_data, ["self", "data", "path"]),
        (cloud.CloudProvider.download_data, ["self", "path"]),
        (cloud.CloudProvider.create_training_job, ["self", "config"]),
        (cloud.CloudProvider.deploy_model, ["self", "model", "config"]),
        (cloud.CloudProvider.monitor_metrics, ["self", "metrics"]),
        (cloud.CloudStorage.save_dataset, ["self", "X", "y", "path"]),
        (cloud.CloudStorage.load_dataset, ["self", "path"]),
        (cloud.CloudStorage.save_model, ["self", "model", "path", "metadata"]),
        (cloud.CloudStorage.load_model, ["self", "path"]),
        (cloud.CloudModelRegistry, ["storage", "registry_path"]),
        (cloud.CloudModelRegistry.register_model, ["self", "model", "version", "metadata"]),
        (cloud.CloudModelRegistry.get_model, ["self", "version"]),
        (cloud.CloudModelRegistry.list_models, ["self", "filters"]),
        (cloud.CloudModelRegistry.get_model_metadata, ["self", "model_id"]),
        (cloud.CloudModelRegistry.transition_model_stage, ["self", "model_id", "stage"]),
        (cloud.CloudModelRegistry.transition_model_version, ["self", "model_name", "version", "stage"]),
        (cloud.CloudModelRegistry.get_latest_model_version, ["self", "model_name", "stage"]),
        (cloud.CloudModelRegistry.compare_model_versions, ["self", "model_name", "version1", "version2"]),
        (cloud.CloudTraining, ["provider", "config"]),
        (cloud.CloudTraining.train_distributed, ["self", "training_script", "data_path", "output_path"]),
        (cloud.CloudModelServing, ["provider", "config"]),
        (cloud.CloudModelServing.deploy_model, ["self", "model", "version", "endpoint_name"]),
    ],
)
def test_signatures_are_the_guides_and_what_we_add_is_by_name_only(call: object, parameters: list[str]) -> None:
    assert callable(call)
    found = inspect.signature(call).parameters.values()
    assert [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD] == parameters
