"""A plan on the real composition: checked like the real thing, and nothing happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.domain.jobs import Environment, JobSpec, Resources


@pytest.fixture
def toolbox(tmp_path: Path) -> Toolbox:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print(1)")
    return Toolbox(tmp_path / "home")


def spec(toolbox: Toolbox, **changes: object) -> JobSpec:
    return JobSpec(name="churn", script="train.py", source=str(toolbox.home.parent / "code"), **changes)  # type: ignore[arg-type]


def test_nothing_is_launched_or_written_but_the_installations_id(toolbox: Toolbox) -> None:
    plan = toolbox.plan(spec(toolbox, register="churn"))
    assert plan.creates[0].endswith("1 files, 0.0 KiB")
    assert "1 new version of the registered model churn" in plan.creates[-1]
    assert sorted(path.name for path in toolbox.home.iterdir()) == ["install-id"]


def test_a_dataset_is_pinned_to_its_version(toolbox: Toolbox) -> None:
    toolbox.datasets.put("points", np.arange(6.0))
    plan = toolbox.plan(spec(toolbox, inputs={"training": "data:points"}))
    assert plan.requests[0].body["inputs"] == {"training": "data:points:1"}


def test_secrets_in_variables_are_not_shown(toolbox: Toolbox) -> None:
    variables = {"STAGE": "test", "API_KEY": "hunter2"}
    plan = toolbox.plan(spec(toolbox, environment=Environment(variables=variables)))
    assert plan.requests[0].body["variables"] == {"STAGE": "test", "API_KEY": "***"}


def test_what_training_would_refuse_is_refused(toolbox: Toolbox) -> None:
    with pytest.raises(Invalid, match="does not exist"):
        toolbox.plan(spec(toolbox, inputs={"training": "/no/such/file"}))
    with pytest.raises(NotFound):
        toolbox.plan(spec(toolbox, inputs={"training": "data:nosuch"}))
    with pytest.raises(Unsupported, match="this is one machine"):
        toolbox.plan(spec(toolbox, resources=Resources(nodes=2)))
