"""How the composition turns what a user names into a package's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import NotFound
from ml_toolbox.domain.models import ModelRef
from ml_toolbox.features.registry import ModelVersion
from ml_toolbox.packages import save_model


@pytest.fixture
def toolbox(tmp_path: Path) -> Toolbox:
    rows = np.arange(20.0).reshape(10, 2)
    toolbox = Toolbox(tmp_path / "home")
    for number in (1, 2):
        model = LogisticRegression(C=number).fit(rows, [0, 1] * 5)
        save_model(model, tmp_path / f"package{number}", sample_input=rows)
        toolbox.registry.register("m", tmp_path / f"package{number}")
    toolbox.registry.set_alias("m:1", "champion")
    return toolbox


def test_an_alias_that_moves_meanwhile_gives_no_files_a_wrong_name(
    toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = toolbox.registry
    real = registry.get

    def moving(ref: str | ModelRef) -> ModelVersion:
        found = real(ref)
        registry.set_alias("m:2", "champion")
        return found

    monkeypatch.setattr(registry, "get", moving)
    resolved = toolbox.model_files("m@champion")
    assert resolved.model == "m:1"
    assert Path(resolved.package).name == real("m:1").digest


def test_a_folder_is_a_package_without_a_version(toolbox: Toolbox, tmp_path: Path) -> None:
    assert toolbox.model_files(str(tmp_path / "package1")) == (str(tmp_path / "package1"), "")
    assert toolbox.model_folder(f"file://{tmp_path}/package1").is_dir()


def test_a_path_that_is_not_there_is_not_looked_up_in_the_registry(toolbox: Toolbox) -> None:
    with pytest.raises(NotFound, match="no model package"):
        toolbox.model_files("./m")
