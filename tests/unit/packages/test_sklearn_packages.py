"""scikit-learn models: what comes back, which engine serves, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from ml_toolbox.base.errors import Conflict, Invalid, Unsupported
from ml_toolbox.packages import Lineage, open_package, save_model
from tests.unit.packages.comparing import close

Rows = NDArray[np.float64]
Cancer = tuple[Rows, NDArray[np.int64]]


def test_linear_model_is_served_by_onnx_exactly(linear: Any, cancer: Cancer, tmp_path: Path) -> None:
    rows, _ = cancer
    manifest = save_model(
        linear,
        tmp_path / "p",
        sample_input=rows,
        sample_output=linear.predict(rows),
        name="churn",
        lineage=Lineage(job="j1", metrics={"accuracy": 0.97}),
        metadata={"team": "risk"},
    )
    package = open_package(tmp_path / "p")
    package.verify()
    assert package.manifest == manifest
    predictor = package.predictor()
    assert (predictor.engine, predictor.outputs) == ("onnxruntime", ("prediction", "probabilities"))
    answers = predictor(rows)
    assert np.array_equal(answers["prediction"], linear.predict(rows))
    close(answers["probabilities"], linear.predict_proba(rows), atol=1e-12)
    assert set(predictor(rows[:1], ["probabilities"])) == {"probabilities"}
    engine = manifest.engines[0]
    assert engine.options["input_dtype"] == "float64"
    assert 0 <= engine.max_difference < 1e-12
    assert engine.compared_rows >= 256
    assert np.array_equal(package.load().predict(rows), linear.predict(rows))


def test_forest_gets_a_float32_graph_proven_at_its_thresholds(
    forest: RandomForestClassifier, cancer: Cancer, tmp_path: Path
) -> None:
    rows, _ = cancer
    manifest = save_model(forest, tmp_path / "p", sample_input=rows)
    engine = manifest.engines[0]
    assert (engine.kind, engine.options["input_dtype"]) == ("onnxruntime", "float32")
    assert engine.compared_rows > 1000
    predictor = open_package(tmp_path / "p").predictor()
    random = np.random.default_rng(1)
    tree = forest.estimators_[0].tree_
    inner = np.flatnonzero(tree.feature >= 0)
    at = rows[random.integers(len(rows), size=len(inner))]
    at[np.arange(len(inner)), tree.feature[inner]] = tree.threshold[inner]
    close(predictor(at)["probabilities"], forest.predict_proba(at), atol=1e-6)


@pytest.mark.parametrize(
    "model", [RandomForestRegressor(10, random_state=0), RandomForestClassifier(10, random_state=0)]
)
def test_scaler_before_a_forest_computes_in_float64_and_compares_in_float32(
    model: Any, cancer: Cancer, tmp_path: Path
) -> None:
    rows, target = cancer
    pipeline = make_pipeline(StandardScaler(), model).fit(rows, target)
    manifest = save_model(pipeline, tmp_path / "p", sample_input=rows)
    assert manifest.engines[0].options["form"] == "float64 with float32 trees"
    answers = open_package(tmp_path / "p").predictor()(rows)
    close(answers["prediction"], pipeline.predict(rows), atol=1e-6)


def test_large_targets_agree_relatively(cancer: Cancer, tmp_path: Path) -> None:
    rows, _ = cancer
    model = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(rows, rows[:, 3] * 1000)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert manifest.engines[0].kind == "onnxruntime"
    assert manifest.engines[0].options["max_scaled_difference"] <= 1e-6
    close(open_package(tmp_path / "p").predictor()(rows)["prediction"], model.predict(rows), rtol=1e-6)


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [3, 7], [1.0, 2.0]])
def test_class_labels_keep_their_type(labels: list[Any], cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, np.array(labels)[target])
    manifest = save_model(model, tmp_path / "p", sample_input=rows[:40])
    assert manifest.signature is not None
    assert list(manifest.signature.classes) == labels
    answer = open_package(tmp_path / "p").predictor()(rows)["prediction"]
    assert answer.dtype.kind == np.array(labels).dtype.kind
    assert np.array_equal(answer, model.predict(rows))


def test_mixed_columns_are_served_by_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"colour": ["red", "green", "blue"] * 40, "size": np.arange(120.0)})
    target = (frame["size"] > 50).map({True: "big", False: "small"})
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["colour"]), (StandardScaler(), ["size"]))
    model = make_pipeline(encode, LogisticRegression()).fit(frame, target)
    manifest = save_model(model, tmp_path / "p", sample_input=frame)
    assert manifest.signature is not None
    assert manifest.signature.layout == "columns"
    assert [(c.name, c.dtype) for c in manifest.signature.inputs] == [("colour", "string"), ("size", "float64")]
    batch = {"colour": np.array(["red", "violet"], dtype=object), "size": np.array([1.0, 99.0])}
    for engine in manifest.engines:
        assert engine.kind in ("onnxruntime", "sklearn")
    assert manifest.engines[0].kind == "onnxruntime"
    expected = model.predict_proba(pd.DataFrame(batch))
    close(open_package(tmp_path / "p").predictor()(batch)["probabilities"], expected, atol=1e-6)


def test_numeric_frame_keeps_names_and_is_served_as_a_matrix(cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    frame = pd.DataFrame(rows[:, :3], columns=["radius", "texture", "mean area"])
    by_name = make_column_transformer((StandardScaler(), ["radius"]), remainder="passthrough")
    model = make_pipeline(by_name, LogisticRegression(max_iter=2000)).fit(frame, target)
    manifest = save_model(model, tmp_path / "p", sample_input=frame)
    assert manifest.signature is not None
    assert manifest.signature.layout == "matrix"
    assert [c.name for c in manifest.signature.inputs] == ["radius", "texture", "mean area"]
    answers = open_package(tmp_path / "p").predictor()(rows[:, :3])
    close(answers["probabilities"], model.predict_proba(frame), atol=1e-6)


def test_missing_values_in_the_sample_make_the_column_nullable(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 3))
    rows[::7, 1] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows, rows[:, 0] > 0)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert manifest.signature is not None
    assert [c.nullable for c in manifest.signature.inputs] == [False, True, False]
    assert manifest.engines[0].kind == "onnxruntime"
    assert np.array_equal(open_package(tmp_path / "p").predictor()(rows)["prediction"], model.predict(rows))


@pytest.mark.parametrize("kind", ["binary", "text", "three", "squared", "poisson", "in-pipeline"])
def test_histogram_boosting_is_exact_at_its_float64_thresholds(kind: str, cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    classifier = HistGradientBoostingClassifier(max_iter=8)
    models: dict[str, tuple[Any, Any]] = {
        "binary": (classifier, target),
        "text": (classifier, np.array(["no", "yes"])[target]),
        "three": (classifier, target + (rows[:, 0] > 15)),
        "squared": (HistGradientBoostingRegressor(max_iter=8), rows[:, 3]),
        "poisson": (HistGradientBoostingRegressor(max_iter=8, loss="poisson"), rows[:, 0]),
        "in-pipeline": (make_pipeline(StandardScaler(), classifier), target),
    }
    model, wanted = models[kind]
    model.fit(rows, wanted)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert (manifest.engines[0].kind, manifest.engines[0].options["form"]) == ("onnxruntime", "float64")
    at = rows.copy()
    boosted = model[-1] if kind == "in-pipeline" else model
    if kind != "in-pipeline":
        nodes = np.concatenate([tree.nodes for stage in boosted._predictors for tree in stage])
        for number, node in enumerate(nodes[nodes["is_leaf"] == 0][: len(at)]):
            at[number, node["feature_idx"]] = node["num_threshold"] * (1 + (number % 3 - 1) * 1e-12)
    answers = open_package(tmp_path / "p").predictor()(at)
    if kind in ("squared", "poisson"):
        close(answers["prediction"], model.predict(at), rtol=1e-6)
    else:
        close(answers["probabilities"], model.predict_proba(at), atol=1e-6)


def test_categorical_splits_are_served_by_the_original(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    rows[:, 0] = np.arange(200) % 6
    target = np.isin(rows[:, 0], [1, 4])
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]).fit(rows, target)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert [engine.kind for engine in manifest.engines] == ["sklearn"]
    assert "onnxruntime" in manifest.refused_engines
    assert np.array_equal(open_package(tmp_path / "p").predictor()(rows)["prediction"], model.predict(rows))


def test_without_a_sample_rows_are_drawn_and_said_so(linear: Any, tmp_path: Path) -> None:
    manifest = save_model(linear, tmp_path / "p")
    assert manifest.signature is not None
    assert len(manifest.signature.inputs) == 30
    assert {engine.options["sample"] for engine in manifest.engines} == {"synthetic"}


def test_a_model_without_answers_for_new_rows_loads_but_is_not_served(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    manifest = save_model(DBSCAN().fit(rows), tmp_path / "p", sample_input=rows)
    package = open_package(tmp_path / "p")
    assert manifest.signature is None
    assert np.array_equal(package.load().labels_, DBSCAN().fit(rows).labels_)
    with pytest.raises(Unsupported, match="does not answer for new rows"):
        package.predictor()


def test_foreign_functions_are_refused_by_name_and_leave_nothing(tmp_path: Path) -> None:
    model = FunctionTransformer(_own_function).fit(np.ones((3, 2)))
    with pytest.raises(Unsupported, match="_own_function") as refusal:
        save_model(model, tmp_path / "p", sample_input=np.ones((3, 2)))
    assert "flavour='python'" in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def _own_function(rows: Any) -> Any:
    return rows + 1


def test_an_existing_package_is_never_overwritten(linear_package: Path, linear: Any, cancer: Cancer) -> None:
    before = (linear_package / "mltoolbox.json").read_bytes()
    with pytest.raises(Conflict, match="not empty"):
        save_model(linear, linear_package, sample_input=cancer[0])
    assert (linear_package / "mltoolbox.json").read_bytes() == before


def test_wrong_samples_are_named(linear: Any, cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    with pytest.raises(Invalid, match="does not answer the sample input"):
        save_model(linear, tmp_path / "a", sample_input=rows[:, :5])
    with pytest.raises(Invalid, match="sample_output is not"):
        save_model(linear, tmp_path / "b", sample_input=rows, sample_output=1 - linear.predict(rows))
    with pytest.raises(Invalid, match="1 dimensions"):
        save_model(linear, tmp_path / "c", sample_input=target)
    with pytest.raises(Invalid, match="when"):
        save_model(linear, tmp_path / "d", sample_input={"when": np.array(["2024-01-01"], dtype="datetime64[D]")})
    assert list(tmp_path.iterdir()) == []


def test_serving_imports_no_scikit_learn(linear_package: Path) -> None:
    code = (
        "import sys, json, numpy as np\n"
        "from ml_toolbox.packages import open_package\n"
        f"predictor = open_package({str(linear_package)!r}).predictor()\n"
        "predictor(np.zeros((2, 30)))\n"
        "print(json.dumps([m for m in ('sklearn', 'scipy', 'pandas', 'skops', 'torch', 'onnx') if m in sys.modules]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


def test_importing_packages_loads_only_the_standard_library() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport ml_toolbox.packages\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'ml_toolbox'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def test_engine_of_another_library_version_is_proven_again(
    linear_package: Path, cancer: Cancer, edit_manifest: Edit
) -> None:
    def older(manifest: dict[str, Any]) -> None:
        manifest["engines"][0]["version"] = "1.0.0"

    edit_manifest(linear_package, older)
    package = open_package(linear_package)
    assert package.predictor().engine == "onnxruntime"
    assert package.notes == ()


def test_engine_that_no_longer_agrees_is_passed_over(
    linear_package: Path, cancer: Cancer, tmp_path: Path, edit_manifest: Edit
) -> None:
    rows, target = cancer
    other = make_pipeline(StandardScaler(), LogisticRegression(C=0.001)).fit(rows, target)
    save_model(other, tmp_path / "other", sample_input=rows)
    (linear_package / "model.onnx").write_bytes((tmp_path / "other" / "model.onnx").read_bytes())

    def older(manifest: dict[str, Any]) -> None:
        manifest["engines"][0]["version"] = "1.0.0"

    edit_manifest(linear_package, older)
    package = open_package(linear_package)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert package.predictor().engine == "sklearn"
    assert "answers differ" in package.notes[0]
    assert np.array_equal(package.predictor()(rows)["prediction"], package.load().predict(rows))


def test_unknown_engine_is_passed_over_with_a_note(linear_package: Path, edit_manifest: Edit) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["engines"][0]["kind"] = "tomorrow"

    edit_manifest(linear_package, rename)
    package = open_package(linear_package)
    assert package.predictor().engine == "sklearn"
    assert package.notes == ("tomorrow: tomorrow not installed",)


def test_unknown_output_is_named(linear_package: Path) -> None:
    with pytest.raises(Invalid, match="probabilitys") as error:
        open_package(linear_package).predictor()(np.zeros((1, 30)), ["probabilitys"])
    assert "probabilities" in error.value.hint
