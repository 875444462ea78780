"""Scripts written for SageMaker, Vertex AI and Azure ML run here unmodified, and their models are registered packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.features.training import JobRecord
from ml_toolbox.packages import open_package
from tests.crash.homes import Home

EXAMPLES = Path(__file__).parents[2] / "examples" / "foreign"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """scikit-learn's bundled breast-cancer data as two CSV files in a folder each."""
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    for name, part in {"train": frame.iloc[::2], "test": frame.iloc[1::2]}.items():
        (tmp_path / name).mkdir()
        part.to_csv(tmp_path / name / "data.csv", index=False)
    return tmp_path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def run(home: Home, spec: JobSpec) -> JobRecord:
    training = home.training
    job = training.submit(spec)
    record = training.wait(job.id, timeout_s=110)
    log = "\n".join(line.text for line in training.logs(job.id))
    assert record.state is JobState.SUCCEEDED, f"{record.failure}\n{log}"
    assert record.model == "cancer:1"
    assert home.registered() == [job.id]
    return record


def test_sagemaker_script_mode(home: Home, data: Path) -> None:
    record = run(
        home,
        JobSpec(
            name="sagemaker",
            script="train.py",
            source=str(EXAMPLES / "sagemaker"),
            inputs={"train": str(data / "train"), "test": str(data / "test" / "data.csv")},
            hyperparameters={"n-estimators": 30, "max_depth": 6, "min-impurity-decrease": 1e-7, "bootstrap": True},
            metrics={"accuracy": r"validation:accuracy=(.*?);", "loss": r"validation:log_loss=(.*?);"},
            register="cancer",
        ),
    )
    assert record.metrics["accuracy"] > 0.9
    assert record.metrics["loss"] < 0.5
    assert record.output_uri is not None
    assert json.loads((Path(record.output_uri) / "feature_importances.json").read_text())
    manifest = open_package(Path(str(record.model_uri))).manifest
    assert manifest.lineage.hyperparameters == {
        "n-estimators": 30,
        "max_depth": 6,
        "min-impurity-decrease": 1e-7,
        "bootstrap": True,
    }
    assert manifest.lineage.metrics == record.metrics
    assert manifest.lineage.code_sha256 == record.code_sha256 != ""
    assert manifest.lineage.job == record.id
    assert all("@sha256:" in version for version in manifest.lineage.data.values())
    assert set(manifest.lineage.data) == {"train", "test"}


def test_vertex_custom_job(home: Home, data: Path) -> None:
    record = run(
        home,
        JobSpec(
            name="vertex",
            script="train.py",
            source=str(EXAMPLES / "vertex"),
            inputs={"training": str(data / "train" / "data.csv")},
            hyperparameters={"epochs": 3, "alpha": 0.001},
            metrics={"epoch": r"epoch: (\d+)/", "auc": r"val_auc: ([0-9.]+)"},
            register="cancer",
        ),
    )
    assert record.metrics["auc"] > 0.9
    assert record.epoch == 3


def test_azureml_command_job(home: Home, data: Path) -> None:
    record = run(
        home,
        JobSpec(
            name="azureml",
            command=(
                "python",
                "train.py",
                "--training_data",
                "${{inputs.training_data}}",
                "--test_train_ratio",
                "${{inputs.test_train_ratio}}",
                "--learning_rate",
                "${{inputs.learning_rate}}",
                "--model_output",
                "${{outputs.model_output}}",
                "--report",
                "${{outputs.report}}",
            ),
            source=str(EXAMPLES / "azureml"),
            inputs={"training_data": str(data / "train" / "data.csv")},
            hyperparameters={"test_train_ratio": 0.25, "learning_rate": 0.2},
            register="cancer",
        ),
    )
    assert record.metrics["f1"] > 0.9
    assert record.metrics["num_samples"] == 285
    assert record.output_uri is not None
    assert "precision" in (Path(record.output_uri) / "report" / "report.txt").read_text()
