"""What a training script left in its model folder becomes a package in that process."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.cluster import Birch

from ml_toolbox.base.errors import Conflict, Invalid, ToolboxError, Unsupported, Untrusted
from ml_toolbox.packages import Lineage, Trust, capture, open_package
from tests.data.hostile_packages.corpus import FILES
from tests.unit.packages.comparing import close
from tests.unit.packages.own_model import Threshold

Cancer = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("how", ["joblib", "joblib-compressed", "pickle"])
def test_a_dumped_estimator_becomes_safe_files(
    how: str, linear: Any, cancer: Cancer, made: Path, tmp_path: Path
) -> None:
    if how == "pickle":
        (made / "clf.pkl").write_bytes(pickle.dumps(linear))
    else:
        joblib.dump(linear, made / "model.joblib", compress=3 if how == "joblib-compressed" else 0)
    np.save(made / "sample_input.npy", cancer[0][:64])
    (made / "report").mkdir()
    (made / "report" / "metrics.json").write_text('{"accuracy": 0.9}')
    lineage = Lineage(job="job-1", hyperparameters={"C": 1.0}, metrics={"accuracy": 0.9})
    report = capture(made, tmp_path / "package", lineage=lineage, name="churn")
    assert (report.sample, report.artifacts, report.notes) == ("sample_input.npy", ("report/metrics.json",), ())
    assert report.manifest.lineage == lineage
    assert report.manifest.engines[0].options["sample"] == "given"
    package = open_package(tmp_path / "package")
    package.verify()
    assert not any(entry.executes_code for entry in package.manifest.files)
    assert not any(entry.path.endswith((".pkl", ".joblib")) for entry in package.manifest.files)
    assert (tmp_path / "package" / "artifacts" / "report" / "metrics.json").is_file()
    assert np.array_equal(package.predictor()(cancer[0])["prediction"], linear.predict(cancer[0]))


def test_without_a_sample_the_engine_is_proven_on_drawn_rows_and_said_so(
    linear: Any, made: Path, tmp_path: Path
) -> None:
    joblib.dump(linear, made / "model.joblib")
    report = capture(made, tmp_path / "a")
    again = capture(made, tmp_path / "b")
    assert report.sample == "synthetic"
    assert "drawn rows" in report.notes[0]
    assert report.manifest.engines[0].options["sample"] == "synthetic"
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    first, second = open_package(tmp_path / "a").sample(), open_package(tmp_path / "b").sample()
    assert first is not None
    assert second is not None
    assert np.array_equal(first[0], second[0])
    assert again.source == "model.joblib"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_sample_files_of_every_kind(suffix: str, linear: Any, cancer: Cancer, made: Path, tmp_path: Path) -> None:
    joblib.dump(linear, made / "model.joblib")
    frame = pd.DataFrame(cancer[0][:20], columns=[f"f{i}" for i in range(30)])
    if suffix == "csv":
        frame.to_csv(made / "sample_input.csv", index=False)
    elif suffix == "parquet":
        frame.to_parquet(made / "sample_input.parquet")
    else:
        (made / "sample_input.json").write_text(json.dumps(frame.to_dict(orient="records")))
    report = capture(made, tmp_path / "p")
    assert report.manifest.signature is not None
    assert [c.name for c in report.manifest.signature.inputs][:2] == ["f0", "f1"]
    sample = open_package(tmp_path / "p").sample()
    assert sample is not None
    close(sample[0], cancer[0][:20])


def test_native_and_graph_files(cancer: Cancer, made: Path, tmp_path: Path, linear_package: Path) -> None:
    rows, target = cancer
    forest = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, target)
    boosted = xgboost.XGBRegressor(n_estimators=3).fit(rows, target)
    writers: dict[str, Callable[[Path], Any]] = {
        "model.txt": lambda p: forest.booster_.save_model(str(p)),
        "model.json": lambda p: boosted.save_model(p),
        "model.ubj": lambda p: boosted.save_model(p),
        "model.onnx": lambda p: p.write_bytes((linear_package / "model.onnx").read_bytes()),
        "model.skops": lambda p: p.write_bytes((linear_package / "model.skops").read_bytes()),
    }
    for name, write in writers.items():
        folder = made / name.replace(".", "-")
        folder.mkdir()
        write(folder / name)
        report = capture(folder, tmp_path / f"p-{folder.name}", sample_input=rows[:30], trust_local=False)
        predictor = open_package(tmp_path / f"p-{folder.name}").predictor()
        assert len(predictor(rows[:5].astype(predictor.signature.inputs[0].dtype))["prediction"]) == 5
        assert report.source == name


def test_torch_models_and_bare_weights(made: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    torch.save(model, made / "model.pt")
    report = capture(made, tmp_path / "p")
    assert (report.manifest.flavour, report.sample) == ("torch", "synthetic")
    rows = torch.randn(3, 4)
    answers = open_package(tmp_path / "p").predictor()(rows.numpy())
    close(answers["prediction"], model(rows).detach().numpy(), atol=1e-6)
    torch.save(model.state_dict(), made / "model.pt")
    with pytest.raises(Unsupported, match=r"weights .* without the model"):
        capture(made, tmp_path / "q")


def test_finished_package_is_taken_with_the_job_s_lineage(linear_package: Path, tmp_path: Path) -> None:
    report = capture(linear_package, tmp_path / "p", lineage=Lineage(job="job-7"))
    assert (report.source, report.sample) == ("mltoolbox.json", "package")
    package = open_package(tmp_path / "p")
    package.verify()
    assert package.manifest.lineage.job == "job-7"
    (linear_package / "model.onnx").write_bytes(b"changed")
    with pytest.raises(Invalid, match=r"model\.onnx"):
        capture(linear_package, tmp_path / "q")


def test_own_class_and_unsafe_estimator_become_python_packages_with_a_note(made: Path, tmp_path: Path) -> None:
    rows = np.arange(12.0).reshape(6, 2)
    for name, model in {"own": Threshold(3.0), "birch": Birch(n_clusters=None).fit(rows)}.items():
        folder = made / name
        folder.mkdir()
        joblib.dump(model, folder / "model.joblib")
        report = capture(folder, tmp_path / name, sample_input=rows)
        assert report.manifest.flavour == "python"
        assert "explicit trust" in report.notes[0]
        with pytest.raises(Untrusted):
            open_package(tmp_path / name).load()
        trusted = open_package(tmp_path / name, trust=Trust(explicit=True))
        assert np.array_equal(trusted.predictor()(rows)["prediction"], model.predict(rows))


def test_which_file_is_the_model(linear: Any, made: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no model was found"):
        capture(made, tmp_path / "p")
    joblib.dump(linear, made / "a.joblib")
    joblib.dump(linear, made / "b.pkl")
    with pytest.raises(Invalid, match=r"a\.joblib, b\.pkl") as error:
        capture(made, tmp_path / "p")
    assert "model.joblib" in error.value.hint
    joblib.dump(linear, made / "model.joblib")
    assert capture(made, tmp_path / "p").source == "model.joblib"
    assert open_package(tmp_path / "p").manifest.files[0].path == "MLmodel"
    marks = {e.path: e.executes_code for e in open_package(tmp_path / "p").manifest.files}
    assert marks["artifacts/a.joblib"] is True
    with pytest.raises(Conflict):
        capture(made, tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "reason"), [("model.cbm", "CatBoost"), ("model.keras", "Keras"), ("model.h5", "HDF5")]
)
def test_formats_without_a_safe_form_say_what_to_export(name: str, reason: str, made: Path, tmp_path: Path) -> None:
    (made / name).write_bytes(b"x")
    with pytest.raises(Unsupported, match=reason) as error:
        capture(made, tmp_path / "p")
    assert "onnx" in error.value.hint.lower()


def test_what_is_not_a_model_is_named(made: Path, tmp_path: Path, linear: Any) -> None:
    joblib.dump({"model": linear, "threshold": 0.4}, made / "model.joblib")
    with pytest.raises(Invalid, match="holds a dict") as error:
        capture(made, tmp_path / "p")
    assert "Pipeline" in error.value.hint
    (made / "model.joblib").write_bytes(b"\x80\x04cut off")
    with pytest.raises(Invalid, match=r"model\.joblib cannot be loaded"):
        capture(made, tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["joblib", "pickle-protocol-2", "torch-save", "pickle-as-onnx", "pickle-as-skops"])
def test_folders_from_elsewhere_run_nothing(name: str, made: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    FILES[name][0](made, canary)
    with pytest.raises(ToolboxError):
        capture(made, tmp_path / "p", trust_local=False)
    assert not canary.exists()
