"""Every estimator of the installed scikit-learn, fitted on a small input of the kind it takes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators

_RANDOM = np.random.default_rng(0)
X = np.abs(_RANDOM.normal(size=(60, 6)))
Y_CLASS = (X[:, 0] > X[:, 1]).astype(int)
Y_NUMBER = X @ np.arange(6.0)
Y_NUMBERS = np.column_stack([Y_NUMBER, 2 * Y_NUMBER])
Y_LABELS = np.column_stack([Y_CLASS, 1 - Y_CLASS])
TEXT = [f"red fox {i} jumps over {i % 7} dogs" for i in range(20)]
RECORDS = [{"a": float(i), "b": 1.0} for i in range(20)]

_SPECIAL: dict[str, Callable[[type], Any]] = {
    "ColumnTransformer": lambda c: c([("scale", StandardScaler(), [0, 1])], remainder="passthrough"),
    "FeatureUnion": lambda c: c([("pca", PCA(2)), ("scale", StandardScaler())]),
    "Pipeline": lambda c: c([("scale", StandardScaler()), ("model", LogisticRegression())]),
    "FrozenEstimator": lambda c: c(LogisticRegression().fit(X, Y_CLASS)),
    "FixedThresholdClassifier": lambda c: c(LogisticRegression()),
    "TunedThresholdClassifierCV": lambda c: c(LogisticRegression()),
    "GridSearchCV": lambda c: c(Ridge(), {"alpha": [0.1, 1.0]}),
    "RandomizedSearchCV": lambda c: c(Ridge(), {"alpha": [0.1, 1.0]}, n_iter=2, random_state=0),
    "HalvingGridSearchCV": lambda c: c(Ridge(), {"alpha": [0.1, 1.0]}),
    "SelfTrainingClassifier": lambda c: c(LogisticRegression()),
    "SelectFromModel": lambda c: c(LogisticRegression()),
    "SequentialFeatureSelector": lambda c: c(Ridge(), n_features_to_select=2),
    "SparseCoder": lambda c: c(np.eye(6)),
    "GaussianRandomProjection": lambda c: c(n_components=3, random_state=0),
    "SparseRandomProjection": lambda c: c(n_components=3, random_state=0),
    "StackingClassifier": lambda c: c([("a", LogisticRegression()), ("b", LogisticRegression(C=0.1))]),
    "VotingClassifier": lambda c: c([("a", LogisticRegression()), ("b", LogisticRegression(C=0.1))]),
    "StackingRegressor": lambda c: c([("a", Ridge()), ("b", Ridge(2.0))]),
    "VotingRegressor": lambda c: c([("a", Ridge()), ("b", Ridge(2.0))]),
    "ClassifierChain": lambda c: c(LogisticRegression()),
    "MultiOutputClassifier": lambda c: c(LogisticRegression()),
    "RegressorChain": lambda c: c(Ridge()),
    "MultiOutputRegressor": lambda c: c(Ridge()),
    "RFE": lambda c: c(Ridge(), n_features_to_select=2),
    "RFECV": lambda c: c(Ridge()),
    "Birch": lambda c: c(n_clusters=None),
    "BisectingKMeans": lambda c: c(n_clusters=3, random_state=0),
    "OrthogonalMatchingPursuitCV": lambda c: c(max_iter=3),
    "PatchExtractor": lambda c: c(patch_size=(2, 2)),
    "TSNE": lambda c: c(random_state=0, max_iter=250),
}
_INPUTS: dict[str, tuple[Any, Any]] = {
    "CountVectorizer": (TEXT, None),
    "TfidfVectorizer": (TEXT, None),
    "HashingVectorizer": (TEXT, None),
    "DictVectorizer": (RECORDS, None),
    "FeatureHasher": (RECORDS, None),
    "IsotonicRegression": (X[:, 0], Y_NUMBER),
    "KernelCenterer": (X @ X.T, None),
    "LabelBinarizer": (Y_CLASS, None),
    "LabelEncoder": (Y_CLASS, None),
    "MultiLabelBinarizer": ([{"a", "b"}, {"b"}, {"c"}], None),
    "PatchExtractor": (_RANDOM.normal(size=(3, 8, 8)), None),
    "RegressorChain": (X, Y_NUMBERS),
    "MultiOutputRegressor": (X, Y_NUMBERS),
    "ClassifierChain": (X, Y_LABELS),
    "MultiOutputClassifier": (X, Y_LABELS),
}


def names() -> list[str]:
    """Names of all estimators."""
    return [name for name, _ in all_estimators()]


def fitted(name: str) -> tuple[Any, Any]:
    """(the fitted estimator, the input it was fitted on). Its answers do not depend on chance."""
    kind = dict(all_estimators())[name]
    rows, target = _INPUTS.get(name, (X, ...))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if target is not ...:
            model = _made(name, kind)
            return (model.fit(rows) if target is None else model.fit(rows, target)), rows
        errors = []
        is_regressor = getattr(kind, "_estimator_type", "") == "regressor" or "Regress" in name
        for choice in (Y_NUMBER, Y_CLASS, Y_NUMBERS, None) if is_regressor else (Y_CLASS, Y_NUMBER, Y_NUMBERS, None):
            try:
                model = _made(name, kind)
                return (model.fit(rows) if choice is None else model.fit(rows, choice)), rows
            except (ValueError, TypeError, AttributeError) as error:
                errors.append(f"{type(error).__name__}: {error}")
    raise AssertionError(f"{name} could not be fitted: {errors}")


def _made(name: str, kind: type) -> Any:
    if name in _SPECIAL:
        return _SPECIAL[name](kind)
    parameters = inspect.signature(kind).parameters
    wished: dict[str, Any] = {"random_state": 0, "n_estimators": 8, "max_iter": 60}
    arguments = {key: value for key, value in wished.items() if key in parameters}
    if parameters.get("estimator") is not None and parameters["estimator"].default is inspect.Parameter.empty:
        arguments["estimator"] = LogisticRegression()
    return kind(**arguments)


def answers(model: Any, rows: Any) -> Any:
    """What the model says about rows, as an array, or None when it only speaks about those it was fitted on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("predict", "transform"):
            if hasattr(model, method):
                result = getattr(model, method)(rows)
                return np.asarray(result.toarray() if hasattr(result, "toarray") else result)
    return None


def takes_matrix(name: str) -> bool:
    """Whether the estimator is fitted on the small float matrix (and not on text, records, images or labels)."""
    return name not in _INPUTS or _INPUTS[name][0] is X
