"""Random histories against a plain dictionary, through two registries at once, on memory and on files."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ml_toolbox.base.errors import Conflict, NotFound
from ml_toolbox.base.ids import nonce
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry import Registry
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import make_package

stages = st.sampled_from(list(Stage))
aliases = st.sampled_from(["champion", "challenger"])
tags = st.dictionaries(st.sampled_from("abc"), st.none() | st.sampled_from(["1", "2"]), min_size=1)


@dataclass
class Known:
    """What the machine believes of one version."""

    stage: Stage = Stage.REGISTERED
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""
    deleted: bool = False


class RegistryMachine(RuleBasedStateMachine):
    scheme: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mlt-registry-"))
        self.store = self.open()
        self.registries = [Registry(self.store, actor="ann"), Registry(self.open_again(), actor="bob")]
        self.turn = 0
        self.package = make_package(self.folder / "package")
        self.versions: dict[int, Known] = {}
        self.aliases: dict[str, int] = {}
        self.keys: dict[str, int] = {}
        self.lines = 0

    def open(self) -> ObjectStore:
        raise AssertionError("bound by the subclasses below")

    def open_again(self) -> ObjectStore:
        return self.store

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for registry in self.registries:
                registry.close()
            shutil.rmtree(self.folder)

    def registry(self) -> Registry:
        self.turn += 1
        return self.registries[self.turn % 2]

    def pick(self, seed: int) -> int:
        return seed % (len(self.versions) + 1) + 1  # sometimes one that does not exist yet

    @rule(tags=st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2"])))
    def register(self, tags: dict[str, str]) -> None:
        number = self.registry().register("m", self.package, tags=tags).number
        assert number == len(self.versions) + 1
        self.versions[number] = Known(tags=tags)

    @rule(key=st.sampled_from(["k1", "k2", "k3"]))
    def register_once(self, key: str) -> None:
        number = self.registry().register("m", self.package, idempotency_key=key).number
        assert number == self.keys.setdefault(key, len(self.versions) + 1)
        self.versions.setdefault(number, Known())

    @rule(seed=st.integers(0, 30), stage=stages, archive=st.booleans(), alias=st.none() | aliases)
    def promote(self, seed: int, stage: Stage, archive: bool, alias: str | None) -> None:
        number = self.pick(seed)
        try:
            self.registry().promote(f"m:{number}", stage, archive_existing=archive, alias=alias)
        except NotFound:
            assert number not in self.versions or self.versions[number].deleted
            return
        if archive and stage in (Stage.STAGING, Stage.PRODUCTION):
            for other, known in self.versions.items():
                if known.stage is stage and other != number:
                    known.stage = Stage.ARCHIVED
        self.versions[number].stage = stage
        if alias:
            self.aliases[alias] = number

    @rule(seed=st.integers(0, 30), alias=aliases)
    def set_alias(self, seed: int, alias: str) -> None:
        number = self.pick(seed)
        try:
            self.registry().set_alias(f"m:{number}", alias)
        except NotFound:
            assert number not in self.versions or self.versions[number].deleted
            return
        self.aliases[alias] = number

    @precondition(lambda self: self.versions)
    @rule(alias=aliases)
    def delete_alias(self, alias: str) -> None:
        self.registry().delete_alias("m", alias)
        self.aliases.pop(alias, None)

    @rule(seed=st.integers(0, 30), changes=tags, text=st.none() | st.sampled_from(["", "words"]))
    def annotate(self, seed: int, changes: dict[str, str | None], text: str | None) -> None:
        number = self.pick(seed)
        try:
            self.registry().set_tags(f"m:{number}", changes)
            if text is not None:
                self.registry().describe(f"m:{number}", text)
        except NotFound:
            assert number not in self.versions or self.versions[number].deleted
            return
        known = self.versions[number]
        merged = {**known.tags, **changes}
        known.tags = {key: value for key, value in merged.items() if value is not None}
        known.description = known.description if text is None else text

    @rule(seed=st.integers(0, 30))
    def delete(self, seed: int) -> None:
        number = self.pick(seed)
        try:
            self.registry().delete(f"m:{number}")
        except NotFound:
            assert number not in self.versions
            return
        except Conflict:
            assert self.versions[number].stage is Stage.PRODUCTION or number in self.aliases.values()
            return
        self.versions[number].deleted = True

    @rule(seed=st.integers(0, 30))
    def restore(self, seed: int) -> None:
        number = self.pick(seed)
        if number in self.versions:
            self.registry().restore(f"m:{number}")
            self.versions[number].deleted = False

    @rule()
    def start_a_new_process(self) -> None:
        self.registries[self.turn % 2] = Registry(self.open_again(), actor="new")

    @precondition(lambda self: self.versions)
    @invariant()
    def both_see_the_same_truth(self) -> None:
        for registry in self.registries:
            seen = {
                v.number: Known(stage=v.stage, tags=v.tags, description=v.description, deleted=v.deleted)
                for v in registry.versions("m", include_deleted=True)
            }
            assert seen == self.versions
        model = self.registry().model("m")
        assert model.aliases == self.aliases
        live = [number for number, known in self.versions.items() if not known.deleted]
        assert model.latest == max(live, default=0)
        for stage in Stage:
            expected = max((n for n in live if self.versions[n].stage is stage), default=0)
            assert model.stages.get(stage.value, 0) == expected
            if expected:
                assert self.registry().get(f"m@{stage.value}").number == expected

    @precondition(lambda self: self.versions)
    @invariant()
    def the_audit_trail_only_grows(self) -> None:
        lines = len(self.registry().audit("m"))
        assert lines >= max(self.lines, len(self.versions))
        self.lines = lines


class OnMemory(RegistryMachine):
    def open(self) -> ObjectStore:
        return open_store(f"memory://{nonce()}")


class OnFiles(RegistryMachine):
    def open(self) -> ObjectStore:
        return open_store(self.folder / "store")

    def open_again(self) -> ObjectStore:
        return open_store(self.folder / "store")


_settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestOnMemory = OnMemory.TestCase
TestOnMemory.settings = _settings
TestOnFiles = OnFiles.TestCase
TestOnFiles.settings = _settings
