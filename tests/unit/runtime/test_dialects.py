"""What each platform's script is offered. The expected values are those of the platforms' own toolkits and documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.runtime.dialects import (
    Channel,
    Host,
    arguments,
    files,
    hyperparameter_arguments,
    placeholders,
    variables,
)
from ml_toolbox.runtime.job import Layout, RuntimeJob

LAYOUT = Layout("/root")
CHANNELS = {
    "train": Channel("/root/ml/input/data/train", "/root/ml/input/data/train/data.csv"),
    "test": Channel("/root/ml/input/data/test", "/root/ml/input/data/test"),
}


def job(**values: Any) -> RuntimeJob:
    return RuntimeJob(**{"job": "id-1", "name": "churn", "script": "src/train.py", **values})


def offered(**values: Any) -> dict[str, str]:
    return variables(job(**values), LAYOUT, CHANNELS, Host(cpus=4, gpus=1))


def test_arguments_have_the_shape_of_the_sagemaker_toolkit() -> None:
    given = {"lr": 0.1, "e": 3, "flag": True, "opt": {"b": 2, "a": 1}, "name": "x y", "none": None, "list": [1, "a"]}
    assert hyperparameter_arguments(given) == [
        *("-e", "3"),
        *("--flag", "True"),
        *("--list", "[1, 'a']"),
        *("--lr", "0.1"),
        *("--name", "x y"),
        *("--none", ""),
        *("--opt", "a=1,b=2"),
    ]


def test_sagemaker_variables() -> None:
    seen = offered(hyperparameters={"lr": 0.1, "deep": {"a": 1}})
    assert seen["SM_MODEL_DIR"] == "/root/ml/model"
    assert seen["SM_OUTPUT_DATA_DIR"] == "/root/ml/output/data"
    assert seen["SM_CHANNEL_TRAIN"] == "/root/ml/input/data/train"
    assert json.loads(seen["SM_CHANNELS"]) == ["test", "train"]
    assert json.loads(seen["SM_HPS"]) == {"lr": 0.1, "deep": {"a": 1}}
    assert (seen["SM_HP_LR"], seen["SM_HP_DEEP"]) == ("0.1", '{"a": 1}')
    assert json.loads(seen["SM_HOSTS"]) == [seen["SM_CURRENT_HOST"]] == ["algo-1"]
    assert (seen["SM_NUM_CPUS"], seen["SM_NUM_GPUS"]) == ("4", "1")
    assert (seen["SM_MODULE_NAME"], seen["SM_USER_ENTRY_POINT"]) == ("train", "src/train.py")
    assert seen["TRAINING_JOB_NAME"] == "churn"


def test_vertex_variables() -> None:
    seen = offered()
    assert seen["AIP_MODEL_DIR"] == "/root/ml/model/"
    assert seen["AIP_CHECKPOINT_DIR"] == "/root/ml/checkpoints/"
    assert seen["AIP_TENSORBOARD_LOG_DIR"] == "/root/ml/tensorboard/"
    assert (seen["AIP_TRAINING_DATA_URI"], seen["AIP_DATA_FORMAT"]) == ("/root/ml/input/data/train/data.csv", "csv")
    assert seen["AIP_TEST_DATA_URI"] == "/root/ml/input/data/test/*"
    assert json.loads(seen["CLUSTER_SPEC"])["task"] == {"type": "workerpool0", "index": 0}
    assert seen["CLOUD_ML_JOB_ID"] == "id-1"


def test_azure_variables_and_placeholders() -> None:
    words = [
        "--data",
        "${{inputs.train}}",
        "--rate=${{ inputs.lr }}",
        "${{outputs.trained_model}}",
        "${{outputs.report}}",
    ]
    asked = job(arguments=words, hyperparameters={"lr": 0.1})
    assert arguments(asked, LAYOUT, CHANNELS)[2:] == [
        "--data",
        "/root/ml/input/data/train/data.csv",
        "--rate=0.1",
        "/root/ml/model",
        "/root/ml/output/data/report",
    ]
    seen = variables(asked, LAYOUT, CHANNELS, Host(cpus=1, gpus=0))
    assert seen["AZUREML_RUN_ID"] == "id-1"
    assert seen["AZURE_ML_INPUT_train"] == "/root/ml/input/data/train/data.csv"
    assert seen["AZURE_ML_OUTPUT_report"] == "/root/ml/output/data/report"
    assert placeholders(words) == ({"train", "lr"}, {"trained_model", "report"})


def test_an_unknown_placeholder_is_no_empty_text() -> None:
    with pytest.raises(KeyError, match="nosuch"):
        arguments(job(arguments=["${{inputs.nosuch}}"]), LAYOUT, CHANNELS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.dictionaries(st.text(min_size=1, max_size=8), JSON, max_size=5))
def test_hyperparameters_arrive_lossless_in_three_places(values: dict[str, Any]) -> None:
    asked = job(hyperparameters=values)
    assert json.loads(variables(asked, LAYOUT, {}, Host(cpus=1, gpus=0))["SM_HPS"]) == values
    written = json.loads(json.dumps(files(asked, LAYOUT, {})))
    assert written["/root/ml/input/config/mltoolbox.json"]["hyperparameters"] == values
    strings = written["/root/ml/input/config/hyperparameters.json"]
    assert all(isinstance(text, str) for text in strings.values()), "SageMaker: every value a string"
    assert {name: json.loads(text) for name, text in strings.items()} == values


def test_every_variable_is_text_that_an_environment_can_hold() -> None:
    seen = offered(hyperparameters={"x": None, "y": [1], "z": True})
    assert all(isinstance(value, str) and "\0" not in value for value in seen.values())
