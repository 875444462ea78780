"""Stores that break one promise each. A registry on one of them is wrong, and the histories must show it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

from ml_toolbox.base.errors import Conflict, NotFound
from ml_toolbox.ports.objects import (
    Body,
    CreateOnly,
    IfMatch,
    Object,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    Version,
)
from tests.unit.features.registry.support import FaultyStore

_OVERWRITE = Overwrite()


class Planted(FaultyStore):
    """One client's way to the store. Honest itself."""

    def __init__(self, store: ObjectStore, client: int) -> None:
        super().__init__(store)
        self.client = client
        self.random = random.Random(f"planted {client}")


class DropsCompareAndSwap(Planted):
    """Writes the head whatever stands there: who read before another's write undoes it."""

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        return super().put(key, body, mode=_OVERWRITE if isinstance(mode, IfMatch) else mode)


class DropsCreateOnly(Planted):
    """Creates what exists: two registrations get one number, and the second version replaces the first."""

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        return super().put(key, body, mode=_OVERWRITE if isinstance(mode, CreateOnly) else mode)


class GivesNumbersTwice(Planted):
    """Says "created" where another's version stands, and keeps that one: the number has two owners."""

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        try:
            return super().put(key, body, mode=mode)
        except Conflict:
            if "/versions/" not in key:
                raise
            return super().head(key).version


class ServesStaleHeads(Planted):
    """Answers every tenth read of a head from the read before: a replica, or a cache, that lags."""

    def __init__(self, store: ObjectStore, client: int) -> None:
        super().__init__(store, client)
        self._former: dict[str, Object] = {}

    def get(self, key: str) -> Object:
        if key.endswith("head.json") and key in self._former and self.random.random() < 0.1:
            return self._former[key]
        found = super().get(key)
        self._former[key] = found
        return found


class LosesWrites(Planted):
    """Acknowledges one swap in twenty without making it."""

    def put(self, key: str, body: Body, *, mode: PutMode = _OVERWRITE) -> Version:
        if isinstance(mode, IfMatch) and self.random.random() < 0.05:
            return mode.version
        return super().put(key, body, mode=mode)


class HidesNewVersions(Planted):
    """Does not see another's version at the first look."""

    def __init__(self, store: ObjectStore, client: int) -> None:
        super().__init__(store, client)
        self._looked: set[str] = set()

    def head(self, key: str) -> ObjectMeta:
        meta = super().head(key)
        if "/versions/" in key and key not in self._looked and self.random.random() < 0.5:
            self._looked.add(key)
            raise NotFound(f"{key} is not there yet", resource=key)
        return meta


class SeesVersionsThatAreNone(Planted):
    """Says that a version exists which does not: whoever looks for the next number leaves a gap."""

    def head(self, key: str) -> ObjectMeta:
        try:
            return super().head(key)
        except NotFound:
            if "/versions/" not in key or self.random.random() > 0.1:
                raise
            return ObjectMeta(key, 1, datetime.now(UTC), Version("none"))


class ReordersReads(Planted):
    """Serves a version number's object under the next number's name once in fifty reads: a mixed-up cache."""

    def get(self, key: str) -> Object:
        if "/versions/" in key and self.random.random() < 0.02:
            folder, _, name = key.rpartition("/")
            before = f"{folder}/{max(1, int(name.removesuffix('.json')) - 1):010d}.json"
            return super().get(before)
        return super().get(key)


STORES: tuple[Any, ...] = (
    DropsCompareAndSwap,
    DropsCreateOnly,
    GivesNumbersTwice,
    ServesStaleHeads,
    LosesWrites,
    HidesNewVersions,
    SeesVersionsThatAreNone,
    ReordersReads,
)
