"""Each of scikit-learn's own estimators comes back equal without a question asked, or is refused by its name."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from ml_toolbox.base.errors import Unsupported
from ml_toolbox.packages import open_package, save_model
from tests.unit.packages import estimators

# skops cannot write it: its nodes refer to each other in circles.
REFUSED = {"Birch"}


@pytest.mark.parametrize("name", estimators.names())
def test_estimator_round_trips_or_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model, rows = estimators.fitted(name)
    sample = rows if rows is estimators.X else None
    if name in REFUSED:
        with pytest.raises(Unsupported, match=name):
            save_model(model, tmp_path / "package", sample_input=sample, convert=False)
        assert list(tmp_path.iterdir()) == []
        return
    save_model(model, tmp_path / "package", sample_input=sample, convert=False)
    package = open_package(tmp_path / "package")
    package.verify()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = package.load()
    assert type(loaded) is type(model)
    expected = estimators.answers(model, rows)
    given = estimators.answers(loaded, rows)
    if expected is None:
        assert given is None
    elif expected.dtype.kind == "f":
        # KernelRidge's sums run in another order when its arrays lie elsewhere in memory: the last bits differ.
        np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12)
    else:
        assert np.array_equal(given, expected)


def test_at_least_the_144_estimators_of_a_small_float_matrix_are_covered() -> None:
    on_matrix = [name for name in estimators.names() if estimators.takes_matrix(name)]
    assert len(on_matrix) >= 144
