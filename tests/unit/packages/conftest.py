"""Small real data and models, fitted once."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_toolbox.packages import save_model

Rows = NDArray[np.float64]


@pytest.fixture(scope="session")
def cancer() -> tuple[Rows, NDArray[np.int64]]:
    rows, target = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order], target[order].astype(np.int64)


@pytest.fixture(scope="session")
def forest(cancer: tuple[Rows, Any]) -> RandomForestClassifier:
    return RandomForestClassifier(20, random_state=0).fit(*cancer)


@pytest.fixture(scope="session")
def linear(cancer: tuple[Rows, Any]) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(*cancer)


@pytest.fixture
def linear_package(linear: Any, cancer: tuple[Rows, Any], tmp_path: Path) -> Path:
    save_model(linear, tmp_path / "package", sample_input=cancer[0][:50])
    return tmp_path / "package"


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Changes a package's manifest as an attacker could: everything may be rewritten, the hashes too."""

    def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
        path = folder / "mltoolbox.json"
        manifest = json.loads(path.read_bytes())
        change(manifest)
        for entry in manifest["files"]:
            file = folder / entry["path"]
            if file.is_file() and not file.is_symlink():
                entry["sha256"], entry["size"] = sha256(file.read_bytes()).hexdigest(), file.stat().st_size
        path.write_text(json.dumps(manifest))

    return edit
