"""LightGBM and XGBoost: native files, served by their own boosters, also inside scikit-learn pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_toolbox.base.errors import Invalid
from ml_toolbox.packages import open_package, save_model
from ml_toolbox.packages.flavours.lightgbm_flavour import booster_from as lightgbm_booster
from ml_toolbox.packages.flavours.xgboost_flavour import booster_from as xgboost_booster
from tests.unit.packages.comparing import close

Cancer = tuple[NDArray[np.float64], NDArray[np.int64]]


def _models() -> dict[str, Any]:
    lgbm: dict[str, Any] = {"n_estimators": 8, "verbose": -1, "n_jobs": 1}
    xgb: dict[str, Any] = {"n_estimators": 8, "n_jobs": 1}
    return {
        "lgbm-classifier": lightgbm.LGBMClassifier(**lgbm),
        "lgbm-regressor": lightgbm.LGBMRegressor(**lgbm),
        "xgb-classifier": xgboost.XGBClassifier(**xgb),
        "xgb-regressor": xgboost.XGBRegressor(**xgb),
        "xgb-forest": xgboost.XGBRFClassifier(**xgb),
        "lgbm-in-pipeline": make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(**lgbm)),
        "xgb-in-pipeline": make_pipeline(StandardScaler(), xgboost.XGBRegressor(**xgb)),
    }


@pytest.mark.parametrize("name", _models())
def test_scikit_learn_style_models_come_back_and_are_served(name: str, cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    model = _models()[name].fit(rows, target)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    package = open_package(tmp_path / "p")
    package.verify()
    assert not any(entry.executes_code for entry in manifest.files)
    loaded = package.load()
    assert type(loaded) is type(model)
    assert np.array_equal(loaded.predict(rows), model.predict(rows))
    answers = package.predictor()(rows)
    close(answers["prediction"], model.predict(rows), atol=1e-6)
    if hasattr(model, "predict_proba"):
        close(answers["probabilities"], model.predict_proba(rows), atol=1e-6)


def test_three_classes_with_text_labels(tmp_path: Path) -> None:
    rows, target = load_iris(return_X_y=True)
    labels = np.array(["setosa", "versicolor", "virginica"])[target]
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(rows, labels)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert [engine.kind for engine in manifest.engines] == ["lightgbm", "sklearn"]
    answers = open_package(tmp_path / "p").predictor()(rows)
    assert np.array_equal(answers["prediction"], model.predict(rows))
    assert answers["probabilities"].shape == (150, 3)


def test_early_stopping_keeps_its_best_iteration(cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    model = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(rows[:300], target[:300], eval_set=[(rows[300:], target[300:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    save_model(model, tmp_path / "p", sample_input=rows)
    answers = open_package(tmp_path / "p").predictor()(rows)
    close(answers["probabilities"], model.predict_proba(rows), atol=1e-6)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_bare_boosters(library: str, cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    if library == "lightgbm":
        data = lightgbm.Dataset(rows, label=target)
        booster: Any = lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=5)
        expected = booster.predict(rows)
    else:
        booster = xgboost.train(
            {"objective": "binary:logistic"}, xgboost.DMatrix(rows, label=target), num_boost_round=5
        )
        expected = booster.predict(xgboost.DMatrix(rows))
    manifest = save_model(booster, tmp_path / "p", sample_input=rows)
    assert manifest.flavour == library
    close(open_package(tmp_path / "p").predictor()(rows)["prediction"], expected, atol=1e-6)
    assert type(open_package(tmp_path / "p").load()) is type(booster)


@pytest.mark.parametrize(
    "content", [b"", b"tree\nnonsense", b"tree\n\0", b"binf" + b"\0" * 64, b"\x80\x04.", b"{", b'{"learner": 1}']
)
def test_damaged_boosters_are_refused(content: bytes) -> None:
    with pytest.raises(Invalid, match=r"model\.txt"):
        lightgbm_booster(content, name="model.txt")
    with pytest.raises(Invalid, match=r"model\.ubj"):
        xgboost_booster(content, name="model.ubj")
