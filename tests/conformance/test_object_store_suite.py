"""The suite of object stores, tested: an honest store in memory passes every test, and each lie is found by its own test."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from ml_toolbox.base.errors import Bug, Conflict, Invalid, NotFound
from ml_toolbox.base.uri import check_key, check_prefix
from ml_toolbox.objects.forks import ForkGuard
from ml_toolbox.ports.lacks import Lacking, Lacks, refuse
from ml_toolbox.ports.objects import (
    Body,
    CreateOnly,
    IfMatch,
    Listing,
    Object,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    Version,
)
from ml_toolbox.testing.objects import Bound, Fresh, ObjectStoreTests

OVERWRITE = Overwrite()


class Place:
    """What several handles of one store share."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, ObjectMeta]] = {}
        self.lock = threading.RLock()
        self.counter = 0


class Honest:
    """A store in a dictionary that keeps every promise. The liars below each break one."""

    def __init__(self, place: Place) -> None:
        self.uri = "memory://honest"
        self.lacks: Lacking = {"presign": Lacks("never", "a dictionary has no server")}
        self.place = place
        self.guard = ForkGuard()

    def _found(self, key: str) -> tuple[bytes, ObjectMeta]:
        self.guard.check(self.uri)
        try:
            return self.place.objects[check_key(key)]
        except KeyError:
            raise NotFound(f"{key} is not there") from None

    def get(self, key: str) -> Object:
        data, meta = self._found(key)
        return Object(data, lambda: meta)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        data, _ = self._found(key)
        if not 0 <= start <= end or start > len(data):
            raise Invalid("range", field="range")
        return data[start:end]

    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        data, _ = self._found(key)
        for at in range(0, len(data), chunk_size):
            yield data[at : at + chunk_size]

    def head(self, key: str) -> ObjectMeta:
        return self._found(key)[1]

    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        self.guard.check(self.uri)
        check_key(key)
        if isinstance(body, Path):
            data = body.read_bytes()
        elif isinstance(body, bytes):
            data = body
        else:
            data = body.read() if hasattr(body, "read") else b"".join(body)
        with self.place.lock:
            self._check(key, mode)
            return self._store(key, data)

    def _check(self, key: str, mode: PutMode) -> None:
        found = self.place.objects.get(key)
        if isinstance(mode, CreateOnly) and found is not None:
            raise Conflict("there already")
        if isinstance(mode, IfMatch) and (found is None or found[1].version != mode.version):
            raise Conflict("changed")

    def _store(self, key: str, data: bytes) -> Version:
        self.place.counter += 1
        version = Version(f"{self.place.counter}")
        self.place.objects[key] = (data, ObjectMeta(key, len(data), datetime.now(UTC), version))
        return version

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        below = check_prefix(prefix)
        inside = f"{below}/" if below else ""
        keys = sorted(self.place.objects, key=str.encode)
        return (self.place.objects[key][1] for key in keys if key.startswith(inside) and key > start_after)

    def list_level(self, prefix: str = "") -> Listing:
        below = check_prefix(prefix)
        inside = f"{below}/" if below else ""
        objects: list[ObjectMeta] = []
        prefixes: dict[str, None] = {}
        for meta in self.list(below):
            name, slash, _ = meta.key[len(inside) :].partition("/")
            if slash:
                prefixes[f"{inside}{name}/"] = None
            else:
                objects.append(meta)
        return Listing(tuple(objects), tuple(sorted(prefixes)))

    def delete(self, key: str) -> None:
        self.guard.check(self.uri)
        self.place.objects.pop(check_key(key), None)

    def copy(self, source: str, target: str) -> None:
        data, _ = self._found(source)
        self.put(target, data)

    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        refuse(self.lacks, "presign", who=self.uri)


def fresh_of(kind: Callable[[Place], ObjectStore]) -> Fresh:
    def bound() -> Bound:
        place = Place()

        def read(key: str) -> bytes | None:
            return place.objects[key][0] if key in place.objects else None

        def write(key: str, data: bytes) -> None:
            Honest(place).put(key, data)

        return Bound(store=kind(place), again=lambda: kind(place), write=write, read=read)

    return bound


class TestAnHonestStorePasses(ObjectStoreTests):
    examples = 40

    @pytest.fixture
    def fresh(self) -> Fresh:
        return fresh_of(Honest)


# Liars: each breaks one promise.


class RacyCreate(Honest):
    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        self.guard.check(self.uri)
        check_key(key)
        self._check(key, mode)  # looks, then leaps
        time.sleep(0.001)
        return super().put(key, body)


class BlindSwap(Honest):
    def _check(self, key: str, mode: PutMode) -> None:
        if not isinstance(mode, IfMatch):
            super()._check(key, mode)


class SwapCreates(Honest):
    def _check(self, key: str, mode: PutMode) -> None:
        if key in self.place.objects:
            super()._check(key, mode)


class CreatesByContent(Honest):
    """Takes equal bytes for its own write, as a read-back without a nonce would."""

    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        try:
            return super().put(key, body, mode=mode)
        except Conflict:
            if self.place.objects.get(key, (None,))[0] == body and isinstance(mode, CreateOnly):
                return self.head(key).version
            raise


class QuietlyPresigns(Honest):
    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        return f"http://127.0.0.1/{key}"


class OtherReason(Honest):
    def presign(
        self, key: str, *, method: Literal["GET", "PUT"] = "GET", expires: timedelta = timedelta(hours=1)
    ) -> str:
        refuse({"presign": Lacks("never", "because")}, "presign", who=self.uri)


class ListsByTime(Honest):
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        return iter(
            sorted(super().list(prefix, start_after=start_after), key=lambda meta: int(meta.version.e_tag or 0))
        )


class ListsAtOnce(Honest):
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        return list(super().list(prefix, start_after=start_after))  # type: ignore[return-value]


class PrefixByCharacter(Honest):
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        check_prefix(prefix)
        return (meta for meta in super().list(start_after=start_after) if meta.key.startswith(prefix.rstrip("/")))


class IgnoresStart(Honest):
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectMeta]:
        return super().list(prefix)


class DeletesFolders(Honest):
    def delete(self, key: str) -> None:
        for name in [name for name in self.place.objects if name == key or name.startswith(f"{key}/")]:
            super().delete(name)


class DeleteComplains(Honest):
    def delete(self, key: str) -> None:
        self._found(key)
        super().delete(key)


class DecodesKeys(Honest):
    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        check_key(key)
        return super().put(key.replace("%20", " "), body, mode=mode)


class AcceptsAnyKey(Honest):
    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        return super().put(key.replace("\\", "/"), body, mode=mode)


class GenerousRanges(Honest):
    def get_range(self, key: str, start: int, end: int) -> bytes:
        return self._found(key)[0][max(start, 0) : end]


class EagerStream(Honest):
    def stream(self, key: str, *, chunk_size: int = 8 * 1024 * 1024) -> Iterator[bytes]:
        return iter([self.get(key).data])


class VersionOfTheMoment(Honest):
    def head(self, key: str) -> ObjectMeta:
        data, meta = self._found(key)
        return ObjectMeta(key, len(data), meta.last_modified, Version(f"{time.monotonic_ns()}"))


class Torn(Honest):
    def put(self, key: str, body: Body, *, mode: PutMode = OVERWRITE) -> Version:
        if isinstance(body, bytes) and len(body) > 100_000:
            super().put(key, body[:100])
            time.sleep(0.01)
        return super().put(key, body, mode=mode)


class CopyMoves(Honest):
    def copy(self, source: str, target: str) -> None:
        super().copy(source, target)
        self.delete(source)


class Forgetful(Honest):
    """Every handle has its own memory."""

    def __init__(self, place: Place) -> None:
        super().__init__(Place())


class NoGuard(Honest):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.guard = type("Never", (), {"check": lambda self, uri: None})()


class TrailingSlash(Honest):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.uri = "memory://honest/"


class KeepsEmptyPrefixes(Honest):
    def list_level(self, prefix: str = "") -> Listing:
        level = super().list_level(prefix)
        return Listing(level.objects, tuple({*level.prefixes, *(["a/b/"] if prefix == "a" else [])}))


LIES: list[tuple[type[Honest], str]] = [
    (RacyCreate, "test_one_of_64_racing_creators_wins"),
    (RacyCreate, "test_compare_and_swap_counts_exactly"),
    (BlindSwap, "test_if_match"),
    (SwapCreates, "test_if_match"),
    (CreatesByContent, "test_one_of_64_racing_creators_wins"),
    (QuietlyPresigns, "test_lacks_are_declared_and_refuse_with_their_reason"),
    (OtherReason, "test_lacks_are_declared_and_refuse_with_their_reason"),
    (ListsByTime, "test_order_is_that_of_whole_keys"),
    (ListsAtOnce, "test_many_keys_come_in_order_and_on_demand"),
    (PrefixByCharacter, "test_a_prefix_is_whole_segments"),
    (IgnoresStart, "test_start_after"),
    (DeletesFolders, "test_delete_is_silent_about_absence"),
    (DeleteComplains, "test_delete_is_silent_about_absence"),
    (DecodesKeys, "test_odd_keys_are_kept_exactly"),
    (AcceptsAnyKey, "test_an_illegal_key_is_refused_by_every_method"),
    (GenerousRanges, "test_ranges"),
    (EagerStream, "test_a_stream_waits_for_its_first_step"),
    (VersionOfTheMoment, "test_every_view_of_an_object_agrees"),
    (Torn, "test_no_reader_sees_a_torn_object"),
    (CopyMoves, "test_copy"),
    (CopyMoves, "test_any_sequence_of_calls_behaves_like_a_dictionary"),
    (Forgetful, "test_what_is_put_is_there_for_every_client"),
    (NoGuard, "test_a_forked_child_is_told_instead_of_hanging"),
    (TrailingSlash, "test_the_uri_is_normalised"),
    (KeepsEmptyPrefixes, "test_one_level"),
]


class Impatient(ObjectStoreTests):
    """The suite as it is, except that a lie need not be shown in its shortest form, and is looked for until it is found."""

    __test__ = False
    shrinks = False
    examples = 1000


@pytest.mark.parametrize(("liar", "test"), LIES, ids=[f"{liar.__name__}-{test}" for liar, test in LIES])
def test_each_lie_is_found(liar: type[Honest], test: str) -> None:
    suite = Impatient()
    method = getattr(suite, test)
    extra: dict[str, object] = {}
    if "same_bytes" in inspect.signature(method).parameters:
        extra["same_bytes"] = liar is CreatesByContent
    if "key" in inspect.signature(method).parameters:
        extra["key"] = "a\\b"
    with pytest.raises((AssertionError, pytest.fail.Exception, Conflict, NotFound, Invalid, Bug)):
        method(fresh_of(liar), **extra)


def test_every_test_of_the_suite_has_a_lie_that_it_finds_or_needs_none() -> None:
    tests = {name for name in vars(ObjectStoreTests) if name.startswith("test_")}
    without = tests - {test for _, test in LIES}
    # These state what a store can do; a store that cannot fails them without any need to lie.
    assert without == {
        "test_absence_is_not_found",
        "test_every_shape_of_body",
        "test_an_empty_object_is_an_object",
        "test_a_body_of_several_parts",
        "test_create_only",
        "test_presigned_urls_work_for_their_bearer",
    }
