"""Trees whose indices point elsewhere are refused before anything follows them."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from ml_toolbox.base.errors import Untrusted
from ml_toolbox.packages.skops_files import dump_skops, load_skops

ROWS = np.random.default_rng(0).normal(size=(80, 3))
TARGET = ROWS[:, 0] * ROWS[:, 1]


def _tree(**changes: Any) -> Any:
    """A tree with some of its root's fields changed, as a file could state them."""
    model = DecisionTreeRegressor(max_depth=4).fit(ROWS, TARGET)
    state = model.tree_.__getstate__()
    for name, value in changes.items():
        state["nodes"][name][0] = value
    model.tree_.__setstate__(state)
    return model


def _boosted(**changes: Any) -> Any:
    model = HistGradientBoostingRegressor(max_iter=2, categorical_features=None).fit(ROWS, TARGET)
    for name, value in changes.items():
        model._predictors[1][0].nodes[name][0] = value
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"left_child": 10**6}, "outside its nodes"),
        ({"right_child": -7}, "outside its nodes"),
        ({"right_child": 0}, "would not end"),
        ({"feature": 10**6}, "features that the model has not"),
        ({"feature": -3}, "features that the model has not"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: make_pipeline(StandardScaler().fit(ROWS), m)])
def test_crafted_tree_is_refused(change: dict[str, int], reason: str, wrap: Any) -> None:
    data, _ = dump_skops(wrap(_tree(**change)))
    with pytest.raises(Untrusted, match=reason):
        load_skops(data, name="model.skops")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"left": 10**6}, "outside its nodes"),
        ({"right": 0}, "would not end"),
        ({"feature_idx": 1000}, "features that the model has not"),
        ({"is_categorical": 1, "bitset_idx": 5}, "features that the model has not"),
    ],
)
def test_crafted_boosted_tree_is_refused(change: dict[str, int], reason: str) -> None:
    data, _ = dump_skops(_boosted(**change))
    with pytest.raises(Untrusted, match=reason):
        load_skops(data, name="model.skops")


def test_untouched_trees_pass() -> None:
    for model in (_tree(), _boosted()):
        loaded = load_skops(dump_skops(model)[0], name="model.skops")
        assert np.array_equal(loaded.predict(ROWS), model.predict(ROWS))


def test_a_false_number_of_nodes_is_not_believed() -> None:
    model = _tree()
    data, _ = dump_skops(model)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as crafted:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema["content"]["content"]["tree_"]["content"]["content"]["node_count"]["content"] = "100000"
                content = json.dumps(schema).encode()
            crafted.writestr(name, content)
    # scikit-learn 1.9 counts for itself; earlier releases take the file's number, and are refused.
    try:
        count = load_skops(target.getvalue(), name="model.skops").tree_.node_count
    except Untrusted:
        count = model.tree_.node_count
    assert count == model.tree_.node_count
