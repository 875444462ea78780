"""Every platform's way of telling a script its inputs, offered at once. Pure: values in, variables, arguments, files out.

Sources of the contracts: SageMaker training toolkit (``environment.py``, ``mapping.py``) and SageMaker Developer Guide,
"Run container for training"; Vertex AI, "Code requirements" and "Distributed training"; Azure ML, "CLI (v2) command job
YAML schema" and "Write and save job output files".
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from ml_toolbox.runtime.job import Layout, RuntimeJob

_PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")
_HOST = "algo-1"
_DATA_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}


class Host(NamedTuple):
    """What the job may use of the machine."""

    cpus: int
    gpus: int


class Channel(NamedTuple):
    """One input as it lies on this machine."""

    folder: str
    """The channel's folder; a single file lies inside it under its own name."""
    path: str
    """The file itself, or the folder."""


def arguments(job: RuntimeJob, layout: Layout, channels: dict[str, Channel]) -> list[str]:
    """The script's argument vector: hyper-parameters first, then the spec's own arguments with placeholders filled in."""
    return [*hyperparameter_arguments(job.hyperparameters), *substituted(job.arguments, job, layout, channels)]


def hyperparameter_arguments(hyperparameters: dict[str, Any]) -> list[str]:
    """SageMaker's shape: sorted, ``--name value`` (``-n value`` for one letter), objects as ``a=1,b=2``.

    This shape loses types (that is what real scripts expect there); the lossless forms are ``SM_HPS`` and
    ``ml_toolbox.runtime.hyperparameters()``.
    """
    vector = []
    for name in sorted(hyperparameters):
        value = hyperparameters[name]
        if isinstance(value, dict):
            text = ",".join(f"{key}={value[key]}" for key in sorted(value))
        else:
            text = "" if value is None else str(value)
        vector += [f"--{name}" if len(name) > 1 else f"-{name}", text]
    return vector


def substituted(words: list[str], job: RuntimeJob, layout: Layout, channels: dict[str, Channel]) -> list[str]:
    """``${{inputs.x}}`` becomes the path of channel ``x``, or the hyper-parameter ``x`` (Azure ML's literal inputs);
    ``${{outputs.y}}`` becomes a folder: the model folder when ``y`` contains ``model``, otherwise ``output/data/y``.

    Raises ``KeyError`` with the name of an input that does not exist.
    """

    def fill(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "outputs":
            return output_folder(layout, name)
        if name in channels:
            return channels[name].path
        value = job.hyperparameters[name]
        return value if isinstance(value, str) else json.dumps(value)

    return [_PLACEHOLDER.sub(fill, word) for word in words]


def placeholders(words: list[str]) -> tuple[set[str], set[str]]:
    """Names of the inputs and of the outputs that the words speak of."""
    found = [match.groups() for word in words for match in _PLACEHOLDER.finditer(word)]
    return {name for kind, name in found if kind == "inputs"}, {name for kind, name in found if kind == "outputs"}


def output_folder(layout: Layout, name: str) -> str:
    return layout.model if "model" in name.lower() else os.path.join(layout.output_data, name)


def variables(job: RuntimeJob, layout: Layout, channels: dict[str, Channel], host: Host) -> dict[str, str]:
    """All environment variables of all dialects."""
    return {
        **_own(job, layout),
        **_sagemaker(job, layout, channels, host),
        **_vertex(job, layout, channels),
        **_azureml(job, layout, channels),
        **_distribution(),
    }


def files(job: RuntimeJob, layout: Layout, channels: dict[str, Channel]) -> dict[str, Any]:
    """Path -> JSON value of the configuration files: SageMaker's three and our own, which is lossless."""

    def config(name: str) -> str:
        return os.path.join(layout.config, name)

    return {
        config("hyperparameters.json"): {name: json.dumps(value) for name, value in job.hyperparameters.items()},
        config("inputdataconfig.json"): {name: _channel_config() for name in sorted(channels)},
        config("resourceconfig.json"): _resource_config(),
        config("mltoolbox.json"): {
            "job": job.job,
            "name": job.name,
            "attempt": job.attempt,
            "hyperparameters": job.hyperparameters,
            "inputs": {name: channel.path for name, channel in sorted(channels.items())},
            "model": layout.model,
            "output": layout.output_data,
            "checkpoints": layout.checkpoints,
            "progress": layout.progress,
            "checkpoint": layout.checkpoint,
            "checkpoint_store": job.checkpoint_store,
            "restored": layout.restored,
            "stop": layout.stop,
            "preempt": layout.preempt,
        },
    }


def _own(job: RuntimeJob, layout: Layout) -> dict[str, str]:
    return {
        "MLTOOLBOX_CONFIG": os.path.join(layout.config, "mltoolbox.json"),
        "MLTOOLBOX_JOB_ID": job.job,
        "MLTOOLBOX_JOB_NAME": job.name,
        "MLTOOLBOX_ATTEMPT": str(job.attempt),
    }


def _sagemaker(job: RuntimeJob, layout: Layout, channels: dict[str, Channel], host: Host) -> dict[str, str]:
    script = job.script or ""
    values: dict[str, Any] = {
        "SM_MODEL_DIR": layout.model,
        "SM_INPUT_DIR": os.path.join(layout.ml, "input"),
        "SM_INPUT_CONFIG_DIR": layout.config,
        "SM_OUTPUT_DIR": layout.output,
        "SM_OUTPUT_DATA_DIR": layout.output_data,
        "SM_OUTPUT_INTERMEDIATE_DIR": layout.intermediate,
        "SM_CHANNELS": sorted(channels),
        "SM_HPS": job.hyperparameters,
        "SM_USER_ARGS": hyperparameter_arguments(job.hyperparameters),
        "SM_HOSTS": [_HOST],
        "SM_CURRENT_HOST": _HOST,
        "SM_CURRENT_INSTANCE_TYPE": "local",
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": [_HOST],
        "SM_NUM_CPUS": host.cpus,
        "SM_NUM_GPUS": host.gpus,
        "SM_NUM_NEURONS": 0,
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_INPUT_DATA_CONFIG": {name: _channel_config() for name in sorted(channels)},
        "SM_RESOURCE_CONFIG": _resource_config(),
        "SM_FRAMEWORK_PARAMS": {},
        "SM_MODULE_DIR": layout.code,
        "SM_MODULE_NAME": os.path.splitext(os.path.basename(script))[0],
        "SM_USER_ENTRY_POINT": script,
        "SM_LOG_LEVEL": 20,
        "SAGEMAKER_BASE_DIR": layout.ml,
        "TRAINING_JOB_NAME": job.name,
    }
    values |= {f"SM_CHANNEL_{_shouted(name)}": channel.folder for name, channel in channels.items()}
    values |= {f"SM_HP_{_shouted(name)}": value for name, value in job.hyperparameters.items()}
    return {name: _text(value) for name, value in values.items()}


def _vertex(job: RuntimeJob, layout: Layout, channels: dict[str, Channel]) -> dict[str, str]:
    values = {
        # Vertex writes these as folder URIs with a closing slash.
        "AIP_MODEL_DIR": layout.model + "/",
        "AIP_CHECKPOINT_DIR": layout.checkpoints + "/",
        "AIP_TENSORBOARD_LOG_DIR": layout.tensorboard + "/",
        "CLOUD_ML_JOB_ID": job.job,
        "CLUSTER_SPEC": json.dumps(
            {
                "cluster": {"workerpool0": ["127.0.0.1:2222"]},
                "environment": "cloud",
                "task": {"type": "workerpool0", "index": 0},
            }
        ),
    }
    for split, names in {
        "TRAINING": ("training", "train"),
        "VALIDATION": ("validation", "val"),
        "TEST": ("test",),
    }.items():
        channel = next((channels[name] for name in names if name in channels), None)
        if channel is not None:
            is_folder = channel.path == channel.folder
            values[f"AIP_{split}_DATA_URI"] = channel.path + ("/*" if is_folder else "")
            if kind := _DATA_FORMATS.get(os.path.splitext(channel.path)[1].lower()):
                values["AIP_DATA_FORMAT"] = kind
    return values


def _azureml(job: RuntimeJob, layout: Layout, channels: dict[str, Channel]) -> dict[str, str]:
    words = [*job.arguments, *(job.command or [])]
    values = {
        "AZUREML_RUN_ID": job.job,
        "AZUREML_ROOT_RUN_ID": job.job,
        "AZUREML_EXPERIMENT_NAME": job.name,
    }
    values |= {f"AZURE_ML_INPUT_{name}": channel.path for name, channel in channels.items()}
    values |= {f"AZURE_ML_OUTPUT_{name}": output_folder(layout, name) for name in placeholders(words)[1]}
    return values


def _distribution() -> dict[str, str]:
    """One process: what a script asks before it decides whether to join a group."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def _channel_config() -> dict[str, str]:
    return {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}


def _resource_config() -> dict[str, Any]:
    return {
        "current_host": _HOST,
        "current_instance_type": "local",
        "current_group_name": "homogeneousCluster",
        "hosts": [_HOST],
        "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": "local", "hosts": [_HOST]}],
        "network_interface_name": "lo",
    }


def _shouted(name: str) -> str:
    return name.upper()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
