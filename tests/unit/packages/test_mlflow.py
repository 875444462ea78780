"""MLflow loads the packages, and answers the same."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from ml_toolbox.base.errors import Untrusted
from ml_toolbox.packages import save_model
from tests.unit.packages.own_model import Threshold

Cancer = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture
def mlflow() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("mlflow")


def test_mlflow_loads_scikit_learn_without_a_pickle(
    mlflow: Any, forest: Any, cancer: Cancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = cancer
    save_model(forest, tmp_path / "p", sample_input=rows)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(sys.modules["pickle"], "load", never)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "p"))
    assert np.array_equal(loaded.predict(rows), forest.predict(rows))
    native = mlflow.sklearn.load_model(str(tmp_path / "p"))
    np.testing.assert_array_equal(native.predict_proba(rows), forest.predict_proba(rows))


def test_mlflow_loads_other_flavours_through_our_loader(mlflow: Any, cancer: Cancer, tmp_path: Path) -> None:
    rows, target = cancer
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, target)
    save_model(model, tmp_path / "p", sample_input=rows)
    assert np.array_equal(mlflow.pyfunc.load_model(str(tmp_path / "p")).predict(rows), model.predict(rows))


def test_mlflow_runs_code_only_when_told(mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.ones((4, 2))
    save_model(Threshold(1.0), tmp_path / "p", sample_input=rows, flavour="python")
    with pytest.raises(Untrusted):
        mlflow.pyfunc.load_model(str(tmp_path / "p"))
    monkeypatch.setenv("MLTOOLBOX_TRUST_PACKAGES", "1")
    assert mlflow.pyfunc.load_model(str(tmp_path / "p")).predict(rows).tolist() == [1, 1, 1, 1]
