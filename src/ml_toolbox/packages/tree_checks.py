"""Indices in loaded trees, checked before anything follows them.

scikit-learn's compiled prediction code walks ``nodes[left]`` and ``row[feature]`` without bounds checks, because it trusts
what it fitted itself. A crafted file could point outside and crash or read foreign memory, or point back and never end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ml_toolbox.base.errors import Untrusted


def check_trees(model: Any, *, name: str) -> None:
    """Raise :class:`Untrusted` unless every tree inside ``model`` stays within its own arrays."""
    todo, seen = [model], set()
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type(None))):
            continue
        seen.add(id(item))
        kind = type(item)
        if kind.__name__ == "Tree" and kind.__module__ == "sklearn.tree._tree":
            _check_tree(item, name)
        elif kind.__name__.startswith("HistGradientBoosting") and hasattr(item, "_predictors"):
            for stage in item._predictors:
                for predictor in stage:
                    _check_predictor(predictor, int(item._n_features), name)
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple, set)):
            todo.extend(item)
        elif isinstance(item, np.ndarray):
            if item.dtype == object:
                todo.extend(item.ravel().tolist())
        elif hasattr(item, "__dict__"):
            todo.extend(vars(item).values())


def _check_tree(tree: Any, name: str) -> None:
    # node_count comes from the file, capacity from the array that was really allocated.
    if not 0 < tree.node_count <= tree.capacity:
        _refuse(name, "has more nodes than it holds")
    own = np.arange(tree.node_count)
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    inner = left != -1
    _check_children(left[inner], right[inner], own[inner], tree.node_count, name)
    if not ((right[~inner] == -1).all() and _within(feature[inner], tree.n_features)):
        _refuse(name, "reads features that the model has not")


def _check_predictor(predictor: Any, features: int, name: str) -> None:
    nodes = predictor.nodes
    inner = nodes[nodes["is_leaf"] == 0]
    own = np.flatnonzero(nodes["is_leaf"] == 0)
    if len(nodes) == 0:
        _refuse(name, "has no nodes")
    _check_children(inner["left"].astype(np.int64), inner["right"].astype(np.int64), own, len(nodes), name)
    categorical = inner[inner["is_categorical"] != 0]["bitset_idx"].astype(np.int64)
    if not _within(inner["feature_idx"].astype(np.int64), features) or not _within(
        categorical, min(len(predictor.raw_left_cat_bitsets), len(predictor.binned_left_cat_bitsets))
    ):
        _refuse(name, "reads features that the model has not")


def _check_children(left: Any, right: Any, own: Any, count: int, name: str) -> None:
    if not (_within(left, count) and _within(right, count)):
        _refuse(name, "points outside its nodes")
    # Builders append children after their parent, so a child with a smaller number closes a circle.
    if not ((left > own).all() and (right > own).all()):
        _refuse(name, "points back, so a walk through it would not end")


def _within(values: Any, limit: int) -> bool:
    return bool(((values >= 0) & (values < limit)).all())


def _refuse(name: str, what: str) -> None:
    raise Untrusted(
        f"{name}: a decision tree {what}",
        resource=name,
        hint="the file was damaged or crafted; get it again from its author",
    )
