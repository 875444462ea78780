"""Stages, aliases, tags, deletion and the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry import Registry
from ml_toolbox.features.registry.heads import AUDIT_TAIL, NOTES_TAIL
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import FaultyStore


@pytest.fixture
def three(registry: Registry, package: Path) -> Registry:
    for _ in range(3):
        registry.register("churn", package)
    return registry


def test_promotion_moves_a_version_and_archives_the_former_on_demand(three: Registry) -> None:
    assert three.promote("churn:1", "Production").stage is Stage.PRODUCTION
    three.promote("churn:2", Stage.PRODUCTION)
    assert [three.get(f"churn:{n}").stage.value for n in (1, 2, 3)] == ["Production", "Production", "registered"]
    three.promote("churn:3", "production", archive_existing=True)
    assert [three.get(f"churn:{n}").stage.value for n in (1, 2, 3)] == ["Archived", "Archived", "Production"]
    assert three.promote("churn:3", "registered").stage is Stage.REGISTERED


def test_references_resolve(three: Registry) -> None:
    three.promote("churn:2", "Staging")
    three.promote("churn:1", "Staging")
    three.set_alias("churn:1", "champion")
    resolved = {ref: three.get(ref).number for ref in ("churn", "churn:1", "churn@latest", "churn@Staging")}
    assert resolved == {"churn": 3, "churn:1": 1, "churn@latest": 3, "churn@Staging": 2}
    assert three.get("churn@champion").number == 1
    assert three.get("churn@registered").number == 3


@pytest.mark.parametrize("ref", ["churn:4", "churn@nobody", "churn@Production", "fraud", "fraud:1", "fraud@x"])
def test_what_is_not_there_is_not_found(three: Registry, ref: str) -> None:
    with pytest.raises(NotFound):
        three.get(ref)


def test_stage_alias_and_audit_line_are_one_swap(three: Registry, store: ObjectStore) -> None:
    spy = FaultyStore(store)
    registry = Registry(spy, actor="bob")
    registry.promote("churn:2", "Production", archive_existing=True, alias="champion")
    writes = [call for call in spy.calls if call[0].startswith("put")]
    assert writes == [("put-CreateOnly", "models/churn/head.json")]
    version = three.get("churn@champion")
    assert (version.number, version.stage) == (2, Stage.PRODUCTION)
    last = three.audit("churn")[-1]
    assert (last.actor, last.action, last.version) == ("bob", "promote", 2)
    assert last.detail == {"from": "registered", "to": "Production", "alias": "champion"}


def test_what_is_so_already_changes_nothing(three: Registry) -> None:
    for _ in range(2):
        three.promote("churn:1", "Staging")
        three.set_alias("churn:1", "champion")
        three.set_tags("churn:1", {"a": "b"})
        three.describe("churn:1", "text")
        three.set_tags("churn", {"a": "b"})
        three.describe("churn", "text")
        three.delete("churn:2")
        three.restore("churn:3")
        three.delete_alias("churn", "nobody")
    assert len(three.audit("churn")) == 3 + 7


@pytest.mark.parametrize("alias", ["latest", "Latest", "production", "Staging", "registered", "a/b", ""])
def test_aliases_that_mean_something_already_are_refused(three: Registry, alias: str) -> None:
    with pytest.raises(Invalid):
        three.set_alias("churn:1", alias)


def test_aliases_move_and_go(three: Registry) -> None:
    three.set_alias("churn:1", "champion")
    assert three.set_alias("churn:2", "champion").aliases == ("champion",)
    assert three.model("churn").aliases == {"champion": 2}
    three.delete_alias("churn", "champion")
    with pytest.raises(NotFound, match="no alias"):
        three.get("churn@champion")


def test_tags_and_descriptions_of_versions_and_models(registry: Registry, package: Path) -> None:
    registry.register("churn", package, tags={"team": "x", "old": "1"}, description="as registered")
    registry.set_tags("churn:1", {"old": None, "new": "2"})
    registry.describe("churn@latest", "better words")
    version = registry.get("churn:1")
    assert (version.tags, version.description) == ({"team": "x", "new": "2"}, "better words")
    registry.set_tags("churn", {"owner": "ann"})
    registry.describe("churn", "who leaves")
    model = registry.model("churn")
    assert (model.tags, model.description) == ({"owner": "ann"}, "who leaves")
    assert registry.versions("churn")[0] == version


@pytest.mark.parametrize("tags", [{"": "x"}, {"k" * 257: "x"}, {"k": 3}, {"k": "x" * 4097}])
def test_tags_are_short_strings(three: Registry, tags: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        three.set_tags("churn:1", tags)


def test_deleted_versions_hide_and_return(three: Registry) -> None:
    three.delete("churn:3")
    with pytest.raises(NotFound, match="is deleted"):
        three.get("churn:3")
    assert three.get("churn").number == 2
    assert list(three.versions("churn").numbers) == [2, 1]
    assert three.versions("churn", include_deleted=True)[0].deleted
    for refused in (lambda: three.promote("churn:3", "Staging"), lambda: three.set_tags("churn:3", {"a": "b"})):
        with pytest.raises(NotFound):
            refused()
    three.restore("churn:3")
    assert three.get("churn").number == 3


def test_a_number_is_never_given_again(three: Registry, package: Path) -> None:
    three.delete("churn:3")
    assert three.register("churn", package).number == 4


def test_what_is_in_use_is_not_deleted(three: Registry) -> None:
    three.promote("churn:1", "Production")
    three.set_alias("churn:2", "champion")
    with pytest.raises(Conflict, match="Production"):
        three.delete("churn:1")
    with pytest.raises(Conflict, match="champion"):
        three.delete("churn@champion")


def test_deleted_models_hide_and_return(three: Registry, package: Path) -> None:
    three.set_alias("churn:1", "champion")
    three.delete("churn")
    for ref in ("churn", "churn:1", "churn@champion"):
        with pytest.raises(NotFound, match="deleted"):
            three.get(ref)
    with pytest.raises(NotFound, match="deleted"):
        three.register("churn", package)
    assert three.models() == ()
    assert [model.name for model in three.models(include_deleted=True)] == ["churn"]
    three.restore("churn")
    assert three.get("churn@champion").number == 1


def test_every_version_deleted(registry: Registry, package: Path) -> None:
    registry.register("churn", package)
    registry.delete("churn:1")
    with pytest.raises(NotFound, match="every version"):
        registry.get("churn")
    assert list(registry.versions("churn")) == []
    assert registry.model("churn").latest == 0


def test_models_are_listed_by_name(three: Registry, package: Path) -> None:
    three.register("alpha", package)
    three.promote("churn:2", "Production")
    assert [(m.name, m.latest, m.stages) for m in three.models()] == [
        ("alpha", 1, {"registered": 1}),
        ("churn", 3, {"registered": 3, "Production": 2}),
    ]


def test_the_audit_trail_outgrows_the_head_and_loses_nothing(three: Registry, store: ObjectStore) -> None:
    moves = 2 * AUDIT_TAIL + 5
    for move in range(moves):
        three.promote("churn:1", ("Staging", "Production")[move % 2])
        if move == AUDIT_TAIL - 1:
            size = store.head("models/churn/head.json").size
    lines = [line for line in three.audit("churn") if line.action == "promote"]
    assert [line.detail["to"] for line in lines] == [("Staging", "Production")[move % 2] for move in range(moves)]
    assert store.head("models/churn/head.json").size < size


def test_notes_outgrow_the_head_and_lose_nothing(registry: Registry, store: ObjectStore, package: Path) -> None:
    count = NOTES_TAIL + 3
    for number in range(1, count + 1):
        registry.register("churn", package, tags={"from": "start"})
        registry.set_tags(f"churn:{number}", {"n": str(number)})
    registry.set_tags("churn:1", {"from": None, "twice": "yes"})
    registry.describe("churn:2", "second")
    expected = {number: {"from": "start", "n": str(number)} for number in range(1, count + 1)}
    expected[1] = {"n": "1", "twice": "yes"}
    fresh = Registry(store, actor="bob")
    assert {version.number: version.tags for version in fresh.versions("churn")} == expected
    assert fresh.get("churn:1").tags == expected[1]
    assert fresh.get("churn:2").description == "second"
    assert len(list(store.list("models/churn/notes"))) == 1
