"""Both guides' registries, on files and on S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.cloud_integration import CloudModelRegistry, CloudStorage


@pytest.fixture
def registry(storage: CloudStorage) -> CloudModelRegistry:
    return CloudModelRegistry(storage, registry_path="models")


def churn(registry: CloudModelRegistry, model: Any, version: str | None, **more: Any) -> str:
    path = registry.storage.save_model(model, f"trained/churn-{version}.pkl")
    record: dict[str, Any] = {"model_name": "churn", "model_path": path, **more}
    if version:
        record["version"] = version
    return registry.register_model(record)


# The first guide: register_model(model, version, metadata)


def test_registered_models_come_back_by_their_label(registry: CloudModelRegistry, model: Any, other_model: Any) -> None:
    assert registry.list_versions() == []
    registry.register_model(model, "v1.0", {"accuracy": 0.95})
    registry.register_model(other_model, "v1.1", {"accuracy": 0.97})

    assert registry.list_versions() == ["v1.0", "v1.1"]
    np.testing.assert_array_equal(registry.get_model("v1.0").coef_, model.coef_)
    np.testing.assert_array_equal(registry.get_model("v1.1").coef_, other_model.coef_)


def test_a_label_is_given_once(registry: CloudModelRegistry, model: Any, other_model: Any) -> None:
    registry.register_model(model, "v1.0", {})
    with pytest.raises(Conflict, match=r"version 'v1\.0' of model 'model' is registered already") as caught:
        registry.register_model(other_model, "v1.0", {})
    assert caught.value.field == "version"
    assert registry.list_versions() == ["v1.0"]
    np.testing.assert_array_equal(registry.get_model("v1.0").coef_, model.coef_)


def test_the_same_package_again_is_the_same_version(registry: CloudModelRegistry, model: Any) -> None:
    path = registry.storage.save_model(model, "trained/churn")
    record = {"model_name": "churn", "model_path": path, "version": "1.0.0", "metrics": {"accuracy": 0.9}}
    assert registry.register_model(record) == registry.register_model(record) == "churn:1"


def test_writers_at_once_lose_nothing(storage: CloudStorage, model: Any) -> None:
    labels = [f"run-{number}" for number in range(6)]

    def register(label: str) -> str:
        return CloudModelRegistry(storage).register_model(model, label, {})

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(register, labels))
    assert sorted(ids) == [f"model:{number}" for number in range(1, 7)]
    assert sorted(CloudModelRegistry(storage).list_versions()) == labels


def test_labels_that_look_like_numbers_are_labels_first(
    registry: CloudModelRegistry, model: Any, other_model: Any
) -> None:
    registry.register_model(model, "2", {})
    registry.register_model(other_model, "1", {})
    np.testing.assert_array_equal(registry.get_model("2").coef_, model.coef_)
    np.testing.assert_array_equal(registry.get_model("1").coef_, other_model.coef_)


def test_an_unknown_version_names_the_known_ones(registry: CloudModelRegistry, model: Any) -> None:
    registry.register_model(model, "v1.0", {})
    with pytest.raises(NotFound, match=r"v1\.0"):
        registry.get_model("v9.9")
    with pytest.raises(NotFound):
        registry.get_model("7")


def test_versions_are_needed_and_must_be_names(registry: CloudModelRegistry, model: Any) -> None:
    with pytest.raises(Invalid, match="version: missing"):
        registry.register_model(model)
    with pytest.raises(Invalid, match="not a legal name"):
        registry.register_model(model, "v1/../2", {})
    assert registry.list_versions() == []


# The second guide: register_model({...'model_path': ...})


def test_a_record_becomes_a_model_id_with_metadata(registry: CloudModelRegistry, model: Any) -> None:
    model_id = churn(
        registry,
        model,
        "1.0.0",
        framework="scikit-learn",
        metrics={"accuracy": 0.95},
        hyperparameters={"C": 1.0},
        description="first",
        tags={"team": "growth"},
        owner="ada",
    )
    found = registry.get_model_metadata(model_id)

    assert model_id == "churn:1"
    expected = {
        "model_id": "churn:1",
        "model_name": "churn",
        "version": "1.0.0",
        "stage": "registered",
        "framework": "scikit-learn",
        "metrics": {"accuracy": 0.95},
        "hyperparameters": {"C": 1.0},
        "description": "first",
        "tags": {"team": "growth"},
        "owner": "ada",
    }
    assert {key: found[key] for key in expected} == expected
    assert registry.registry.verify(model_id).ok


def test_models_are_listed_by_what_they_are(registry: CloudModelRegistry, model: Any, other_model: Any) -> None:
    churn(registry, model, "1", framework="scikit-learn", tags={"team": "growth"})
    churn(registry, other_model, "2")
    registry.transition_model_stage("churn:2", "Production")
    registry.register_model(model, "v1.0", {})

    assert [entry["model_id"] for entry in registry.list_models()] == ["churn:2", "churn:1", "model:1"]
    assert [entry["model_id"] for entry in registry.list_models({"stage": "production"})] == ["churn:2"]
    assert [entry["model_id"] for entry in registry.list_models({"framework": "scikit-learn"})] == ["churn:1"]
    assert [entry["model_id"] for entry in registry.list_models({"tags": {"team": "growth"}})] == ["churn:1"]
    assert [entry["model_id"] for entry in registry.list_models({"model_name": "model"})] == ["model:1"]
    with pytest.raises(Invalid, match="did you mean stage"):
        registry.list_models({"stages": "Production"})


def test_stages_move_and_archive(registry: CloudModelRegistry, model: Any, other_model: Any) -> None:
    churn(registry, model, "1.0.0")
    churn(registry, other_model, "1.1.0")
    registry.transition_model_version("churn", "1.0.0", "Production")
    moved = registry.transition_model_version("churn", "1.1.0", "Production", archive_existing=True)

    assert (moved["version"], moved["stage"]) == ("1.1.0", "Production")
    assert registry.get_model_metadata("churn:1")["stage"] == "Archived"
    assert registry.get_latest_model_version("churn", stage="Production")["version"] == "1.1.0"
    assert registry.get_latest_model_version("churn", stage="Archived")["version"] == "1.0.0"
    with pytest.raises(NotFound):
        registry.get_latest_model_version("churn", stage="Staging")
    with pytest.raises(Invalid, match="did you mean Production"):
        registry.transition_model_stage("churn:1", "Prodution")


def test_versions_are_compared(registry: CloudModelRegistry, model: Any, other_model: Any) -> None:
    churn(registry, model, "1.0.0", metrics={"accuracy": 0.95})
    churn(registry, other_model, None, metrics={"accuracy": 0.97, "f1": 0.9})

    comparison = registry.compare_model_versions("churn", "1.0.0", 2)

    assert set(comparison) == {"version1", "version2"}
    for side in comparison.values():
        assert set(side) == {"version", "creation_timestamp", "metrics"}
    assert (comparison["version1"]["version"], comparison["version2"]["version"]) == ("1.0.0", "2")
    assert comparison["version1"]["metrics"] == {"accuracy": 0.95}
    assert comparison["version2"]["metrics"] == {"accuracy": 0.97, "f1": 0.9}


def test_a_record_without_a_model_is_refused(registry: CloudModelRegistry, model: Any) -> None:
    with pytest.raises(Invalid, match="model_path"):
        registry.register_model({"model_name": "churn"})
    with pytest.raises(NotFound, match="no model"):
        registry.register_model({"model_name": "churn", "model_path": "trained/absent"})
    with pytest.raises(Invalid, match="put them into the dict"):
        registry.register_model({"model_path": "trained/x"}, "v1")
    assert registry.list_models() == []
