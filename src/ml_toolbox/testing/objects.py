"""The conformance suite of the port ``ObjectStore``. Bind it with one fixture::

    class TestMyStore(ObjectStoreTests):
        @pytest.fixture
        def fresh(self, ...) -> Callable[[], Bound]:
            def bound() -> Bound:
                ...  # an empty place nobody else uses
                return Bound(store=..., again=lambda: ..., write=..., read=...)
            return bound

``write`` and ``read`` are the back door: another client than the store under test, so that a store cannot agree with its
own mistakes. Requires pytest and Hypothesis.
"""

from __future__ import annotations

import io
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ml_toolbox.base.errors import Bug, Conflict, Invalid, NotFound, Unsupported
from ml_toolbox.base.uri import Uri
from ml_toolbox.ports.objects import CAPABILITIES, Body, CreateOnly, IfMatch, ObjectStore, Version

ILLEGAL_KEYS = ("", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a\\b", "a\x00b", "a\nb", "%2e%2e/a", "x" * 1025,
                "y" * 256, "a/.mlt~x", "\ud800")  # fmt: skip

ODD_KEYS = (
    "a b", " lead", "trail ", "a%20b", "a%2Fb", "a%b", "100%", "a+b", "~tilde", "[x]", "{y}", "#hash", "q?x=1&y=2", "star*",
    "&=;:@,$!'()", '"quoted"', "<tag>", "a^b`c|d", ".hidden", "not.mlt~reserved", "dot.", "...", "é", "e\u0301", "日本語/キー",
    "\U0001f600", "\uffee", "\U0001f600 d/inside", "-dash", "UPPER", "upper", "a" * 255, "/".join(["deep"] * 100),
    "/".join(["s" * 255] * 3),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One empty place and two ways into it."""

    store: ObjectStore
    again: Callable[[], ObjectStore]
    """Opens the same place once more, as another process would."""
    write: Callable[[str, bytes], None]
    """The back door: put these bytes under that key."""
    read: Callable[[str], bytes | None]
    """The back door: what is there, or ``None``."""


Fresh = Callable[[], Bound]


def _together(count: int, action: Callable[[int], object]) -> list[object]:
    """Run ``action(0..count-1)`` on as many threads, all let go at once; results, or the ``Conflict`` each met."""
    gate = threading.Barrier(count)

    def one(number: int) -> object:
        gate.wait()
        try:
            return action(number)
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class ObjectStoreTests:
    """Every promise of the port, once."""

    many: ClassVar[int] = 1_100
    """Keys of the listing test: more than one page of the usual services."""
    examples: ClassVar[int] = 15
    """Runs of the state machine."""
    shrinks: ClassVar[bool] = True
    """Whether a failing run is made as short as it can be, which takes a while."""

    @pytest.fixture
    def fresh(self) -> Fresh:
        raise NotImplementedError("bind the suite: return a function that gives an empty place")

    # what is written is there

    def test_what_is_put_is_there_for_every_client(self, fresh: Fresh) -> None:
        bound = fresh()
        bound.store.put("folder/object", b"bytes \x00\xff")
        assert bound.read("folder/object") == b"bytes \x00\xff"
        bound.write("folder/other", b"from outside")
        assert bound.store.get("folder/other").data == b"from outside"
        assert bound.again().get("folder/object").data == b"bytes \x00\xff"

    def test_absence_is_not_found(self, fresh: Fresh) -> None:
        store = fresh().store
        store.put("folder/there", b"x")
        for absent in ("nothing", "folder", "folder/there/below"):
            for action in (
                lambda key=absent: store.get(key),
                lambda key=absent: store.head(key),
                lambda key=absent: store.get_range(key, 0, 1),
                lambda key=absent: store.get_range(key, 0, 0),
                lambda key=absent: next(store.stream(key)),
                lambda key=absent: store.copy(key, "target"),
            ):
                with pytest.raises(NotFound):
                    action()

    def test_every_view_of_an_object_agrees(self, fresh: Fresh) -> None:
        store = fresh().store
        before = datetime.now(UTC) - timedelta(seconds=2)  # services keep whole seconds
        version = store.put("a/b", b"12345")
        meta = store.head("a/b")
        assert (meta.key, meta.size, meta.version) == ("a/b", 5, version)
        assert before <= meta.last_modified <= datetime.now(UTC) + timedelta(seconds=2)
        found = store.get("a/b")
        assert found.meta == meta
        assert list(store.list("a")) == [meta]
        assert store.list_level("a").objects == (meta,)
        assert store.put("a/b", b"other") != version
        assert found.meta == meta  # of the bytes that were read, whenever it is asked

    def test_every_shape_of_body(self, fresh: Fresh, tmp_path: Path) -> None:
        bound = fresh()
        data = os.urandom(300_000)
        path = tmp_path / "body"
        path.write_bytes(data)
        shapes: dict[str, Callable[[], Body]] = {
            "bytes": lambda: data,
            "path": lambda: path,
            "file": lambda: io.BytesIO(data),
            "chunks": lambda: (data[at : at + 7_000] for at in range(0, len(data), 7_000)),
        }
        for name, body in shapes.items():
            bound.store.put(f"plain/{name}", body())
            version = bound.store.put(f"created/{name}", body(), mode=CreateOnly())
            bound.store.put(f"created/{name}", body(), mode=IfMatch(version))
            assert bound.read(f"plain/{name}") == bound.read(f"created/{name}") == data

    def test_an_empty_object_is_an_object(self, fresh: Fresh) -> None:
        store = fresh().store
        empty: tuple[Body, ...] = (b"", io.BytesIO(), iter(()), [b"", b""])
        for number, body in enumerate(empty):
            store.put(f"e{number}", body)
            assert store.get(f"e{number}").data == b""
            assert store.head(f"e{number}").size == 0
            assert b"".join(store.stream(f"e{number}")) == b""
            assert store.get_range(f"e{number}", 0, 10) == b""

    def test_a_body_of_several_parts(self, fresh: Fresh) -> None:
        store = fresh().store
        block = os.urandom(1_000_003)
        version = store.put("large", (block for _ in range(37)))
        assert store.head("large").version == version
        assert store.head("large").size == 37 * len(block)
        seen = 0
        for chunk in store.stream("large", chunk_size=5_000_000):
            assert len(chunk) <= 5_000_000
            assert chunk == (block * 7)[seen % len(block) :][: len(chunk)]
            seen += len(chunk)
        assert seen == 37 * len(block)

    # keys

    @pytest.mark.parametrize("key", ILLEGAL_KEYS, ids=ascii)
    def test_an_illegal_key_is_refused_by_every_method(self, fresh: Fresh, key: str) -> None:
        store = fresh().store
        store.put("legal", b"x")
        for action in (
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: next(store.stream(key)),
            lambda: store.head(key),
            lambda: store.put(key, b""),
            lambda: store.put(key, b"", mode=CreateOnly()),
            lambda: store.delete(key),
            lambda: store.copy(key, "target"),
            lambda: store.copy("legal", key),
        ):
            with pytest.raises(Invalid):
                action()
        assert [meta.key for meta in store.list()] == ["legal"]

    def test_odd_keys_are_kept_exactly(self, fresh: Fresh) -> None:
        bound = fresh()
        for key in ODD_KEYS:
            bound.store.put(key, key.encode())
        for key in ODD_KEYS:
            assert bound.read(key) == key.encode()
            assert bound.store.get(key).data == key.encode()
            assert bound.store.head(key).key == key
        assert [meta.key for meta in bound.store.list()] == sorted(ODD_KEYS, key=str.encode)

    # ranges and streams

    def test_ranges(self, fresh: Fresh) -> None:
        store = fresh().store
        store.put("digits", b"0123456789")
        for start, end, expected in ((0, 10, b"0123456789"), (3, 5, b"34"), (7, 99, b"789"), (4, 4, b""), (10, 10, b""),
                                     (10, 12, b"")):  # fmt: skip
            assert store.get_range("digits", start, end) == expected
        for start, end in ((-1, 3), (5, 4), (11, 12), (11, 11)):
            with pytest.raises(Invalid):
                store.get_range("digits", start, end)

    def test_a_stream_waits_for_its_first_step(self, fresh: Fresh) -> None:
        bound = fresh()
        late = bound.store.stream("late", chunk_size=2)
        bound.write("late", b"12345")
        assert list(late) == [b"12", b"34", b"5"]

    # listing

    def test_order_is_that_of_whole_keys(self, fresh: Fresh) -> None:
        bound = fresh()
        keys = ["a!b", "a-b", "a.b", "a/b", "a/b-c", "a/c/d", "a0", "b", "b.d/x", "ba", "B", "\uffee", "\U0001f600"]
        for key in keys:
            bound.write(key, b"")
        assert [meta.key for meta in bound.store.list()] == sorted(keys, key=str.encode)

    def test_a_prefix_is_whole_segments(self, fresh: Fresh) -> None:
        store = fresh().store
        for key in ("run/1", "run/2/x", "runs/1", "ru", "run-1/y"):
            store.put(key, b"")
        for prefix in ("run", "run/"):
            assert [meta.key for meta in store.list(prefix)] == ["run/1", "run/2/x"]
        assert list(store.list("ru")) == []
        assert list(store.list("nothing/here")) == []
        with pytest.raises(Invalid):
            list(store.list("../x"))

    def test_start_after(self, fresh: Fresh) -> None:
        store = fresh().store
        keys = (
            ["p/01", "p/02", "p/02/x", "p/03", "p/1", "q"]
            if _holds_both(store)
            else ["p/01", "p/02", "p/03", "p/1", "q"]
        )
        for key in keys:
            store.put(key, b"")
        for after in ("p/02", "p/021", "p/0", "a", "p", "p/1", "z", "p/02/a/b"):
            assert [meta.key for meta in store.list("p", start_after=after)] == [
                key for key in keys if key.startswith("p/") and key > after
            ]
            assert [meta.key for meta in store.list(start_after=after)] == [key for key in keys if key > after]

    def test_many_keys_come_in_order_and_on_demand(self, fresh: Fresh) -> None:
        bound = fresh()
        keys = [f"n/{number * 7919 % 100_003:06}" for number in range(self.many)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: bound.write(key, b"x"), keys))
        listing = bound.store.list("n")
        assert isinstance(listing, Iterator)
        assert next(listing).key == min(keys)
        assert [meta.key for meta in listing] == sorted(keys)[1:]

    def test_one_level(self, fresh: Fresh) -> None:
        store = fresh().store
        for key in ("top", "a/x", "a/b/c", "a.b/y", "z/1", "z/2"):
            store.put(key, b"")
        level = store.list_level()
        assert ([meta.key for meta in level.objects], list(level.prefixes)) == (["top"], ["a.b/", "a/", "z/"])
        level = store.list_level("a/")
        assert ([meta.key for meta in level.objects], list(level.prefixes)) == (["a/x"], ["a/b/"])
        store.delete("a/b/c")
        assert store.list_level("a").prefixes == ()
        assert store.list_level("nothing") == type(level)()

    # deleting and copying

    def test_delete_is_silent_about_absence(self, fresh: Fresh) -> None:
        bound = fresh()
        for key in ("d/one", "d/two"):
            bound.store.put(key, b"x")
        bound.store.delete("d/one")
        bound.store.delete("d/one")
        bound.store.delete("never/was")
        bound.store.delete("d")  # a folder is not an object
        assert bound.read("d/one") is None
        assert bound.read("d/two") == b"x"
        bound.store.delete("d/two")
        bound.store.put("d", b"now an object")
        assert bound.store.get("d").data == b"now an object"

    def test_copy(self, fresh: Fresh) -> None:
        bound = fresh()
        bound.store.put("from", b"new")
        bound.store.put("to/there", b"old")
        bound.store.copy("from", "to/there")
        assert (bound.read("from"), bound.read("to/there")) == (b"new", b"new")

    # conditions

    def test_create_only(self, fresh: Fresh) -> None:
        bound = fresh()
        version = bound.store.put("once", b"first", mode=CreateOnly())
        assert bound.store.head("once").version == version
        with pytest.raises(Conflict):
            bound.again().put("once", b"second", mode=CreateOnly())
        assert bound.read("once") == b"first"

    def test_if_match(self, fresh: Fresh) -> None:
        bound = fresh()
        first = bound.store.put("state", b"1", mode=CreateOnly())
        second = bound.again().put("state", b"2", mode=IfMatch(first))
        assert bound.store.head("state").version == second != first
        with pytest.raises(Conflict):
            bound.store.put("state", b"3", mode=IfMatch(first))
        assert bound.read("state") == b"2"
        bound.store.delete("state")
        with pytest.raises(Conflict):
            bound.store.put("state", b"3", mode=IfMatch(second))
        assert bound.read("state") is None
        with pytest.raises(Conflict):
            bound.store.put("never", b"3", mode=IfMatch(Version("none")))

    @pytest.mark.parametrize("same_bytes", [False, True])
    def test_one_of_64_racing_creators_wins(self, fresh: Fresh, same_bytes: bool) -> None:
        bound = fresh()
        others = [bound.again() for _ in range(8)]

        def body(number: int) -> bytes:
            return b"same" if same_bytes else b"%d" % number

        results = _together(64, lambda number: others[number % 8].put("prize", body(number), mode=CreateOnly()))
        winners = [number for number, result in enumerate(results) if isinstance(result, Version)]
        assert len(winners) == 1
        assert bound.read("prize") == body(winners[0])
        assert bound.store.head("prize").version == results[winners[0]]

    def test_compare_and_swap_counts_exactly(self, fresh: Fresh) -> None:
        bound = fresh()
        bound.store.put("counter", b"0", mode=CreateOnly())

        def add_ten(_: int) -> None:
            store = bound.again()
            done = 0
            while done < 10:
                seen = store.get("counter")
                try:
                    store.put("counter", b"%d" % (int(seen.data) + 1), mode=IfMatch(seen.meta.version))
                except Conflict:
                    continue
                done += 1

        _together(8, add_ten)
        assert bound.read("counter") == b"80"

    def test_no_reader_sees_a_torn_object(self, fresh: Fresh) -> None:
        bound = fresh()
        size = 400_000
        bound.store.put("o", b"a" * size)
        stop = threading.Event()

        def write() -> None:
            store = bound.again()
            for number in range(12):
                store.put("o", bytes([97 + number]) * size)
            stop.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not stop.is_set() and not writing.done():
                found = bound.store.get("o")
                assert len(found.data) == found.meta.size == size
                assert len(set(found.data)) == 1
            writing.result()

    # what is lacking, and where it must not work

    def test_lacks_are_declared_and_refuse_with_their_reason(self, fresh: Fresh) -> None:
        store = fresh().store
        store.put("there", b"x")
        assert set(store.lacks) <= set(CAPABILITIES)
        attempts: dict[str, Callable[[], object]] = {
            "conditional-create": lambda: store.put("new", b"", mode=CreateOnly()),
            "compare-and-swap": lambda: store.put("there", b"", mode=IfMatch(store.head("there").version)),
            "presign": lambda: store.presign("there"),
            "server-side-copy": lambda: store.copy("there", "copy"),
        }
        for capability, lack in store.lacks.items():
            with pytest.raises(Unsupported) as refusal:
                attempts[capability]()
            assert lack.reason in str(refusal.value)

    def test_presigned_urls_work_for_their_bearer(self, fresh: Fresh) -> None:
        bound = fresh()
        if "presign" in bound.store.lacks:
            return  # that it refuses is shown above
        bound.store.put("a b/ü", b"signed")
        with urllib.request.urlopen(bound.store.presign("a b/ü")) as answer:  # noqa: S310 - the store's own URL
            assert answer.read() == b"signed"
        url = bound.store.presign("up/loaded", method="PUT", expires=timedelta(minutes=5))
        # The first is demanded by Azure and ignored by S3; the second keeps urllib from saying that this is a form.
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(url, b"sent", headers, method="PUT")  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310
        assert bound.read("up/loaded") == b"sent"
        with pytest.raises(Invalid):
            bound.store.presign("a", expires=timedelta(0))

    def test_the_uri_is_normalised(self, fresh: Fresh) -> None:
        store = fresh().store
        assert str(Uri.parse(store.uri)) == store.uri
        assert not store.uri.endswith("/")

    def test_a_forked_child_is_told_instead_of_hanging(self, fresh: Fresh) -> None:
        store = fresh().store
        store.put("before", b"x")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.get("before")
            except Bug as bug:
                code = 0 if "spawn" in bug.hint else 2
            finally:
                os._exit(code)
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        assert store.get("before").data == b"x"

    # everything together

    def test_any_sequence_of_calls_behaves_like_a_dictionary(self, fresh: Fresh) -> None:
        class Machine(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.bound = fresh()
                self.model = _Model(self.bound.store)

            @rule(key=_keys, data=st.binary(max_size=40))
            def put(self, key: str, data: bytes) -> None:
                self.model.put(key, data)

            @rule(key=_keys, data=st.binary(max_size=40))
            def create(self, key: str, data: bytes) -> None:
                self.model.create(key, data)

            @rule(key=_keys, data=st.binary(max_size=40), stale=st.booleans())
            def swap(self, key: str, data: bytes, stale: bool) -> None:
                self.model.swap(key, data, stale)

            @rule(key=_keys)
            def delete(self, key: str) -> None:
                self.model.delete(key)

            @rule(source=_keys, to=_keys)
            def copy(self, source: str, to: str) -> None:
                self.model.copy(source, to)

            @rule(prefix=st.sampled_from(["", "d", "d/d", "d é"]), after=st.one_of(st.just(""), _keys))
            def list(self, prefix: str, after: str) -> None:
                self.model.list(prefix, after)

            @invariant()
            def same(self) -> None:
                self.model.check()

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[phase for phase in Phase if self.shrinks or phase not in (Phase.shrink, Phase.explain)],
            ),
        )


# Folders begin with "d" and objects with "f", so that no object is also a folder: a file system cannot hold both.
_keys = st.builds(
    lambda folders, name: "/".join((*folders, name)),
    st.lists(st.sampled_from(["d", "d é", "d%2e"]), max_size=2),
    st.sampled_from(["f", "f.1", "f/fx".replace("/", "-"), "f 2", "f\u0301", "f%20"]),
)


class _Model:
    """A dictionary beside the store, and the versions that were true once."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.objects: dict[str, bytes] = {}
        self.versions: dict[str, Version] = {}
        self.former: dict[str, Version] = {}

    def _wrote(self, key: str, data: bytes, version: Version) -> None:
        if key in self.versions and self.versions[key] != version:
            self.former[key] = self.versions[key]
        self.objects[key] = data
        self.versions[key] = version

    def put(self, key: str, data: bytes) -> None:
        self._wrote(key, data, self.store.put(key, data))

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            with pytest.raises(Conflict):
                self.store.put(key, data, mode=CreateOnly())
        else:
            self._wrote(key, data, self.store.put(key, data, mode=CreateOnly()))

    def swap(self, key: str, data: bytes, stale: bool) -> None:
        version = (self.former if stale else self.versions).get(key, Version("none"))
        if self.versions.get(key) == version:
            self._wrote(key, data, self.store.put(key, data, mode=IfMatch(version)))
        else:
            with pytest.raises(Conflict):
                self.store.put(key, data, mode=IfMatch(version))

    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.objects.pop(key, None)
        if key in self.versions:
            self.former[key] = self.versions.pop(key)

    def copy(self, source: str, target: str) -> None:
        if source not in self.objects:
            with pytest.raises(NotFound):
                self.store.copy(source, target)
        elif source != target:  # S3 refuses to copy an object onto itself unchanged
            self.store.copy(source, target)
            self._wrote(target, self.objects[source], self.store.head(target).version)

    def list(self, prefix: str, after: str) -> None:
        inside = f"{prefix}/" if prefix else ""
        expected = sorted((key for key in self.objects if key.startswith(inside) and key > after), key=str.encode)
        assert [meta.key for meta in self.store.list(prefix, start_after=after)] == expected

    def check(self) -> None:
        found = {meta.key: meta for meta in self.store.list()}
        assert found.keys() == self.objects.keys()
        for key, data in self.objects.items():
            assert found[key].version == self.versions[key]
            assert self.store.get(key).data == data


def _holds_both(store: ObjectStore) -> bool:
    """Whether a name may be an object and a folder at once: true of object storage, not of file systems."""
    store.put("probe", b"")
    try:
        store.put("probe/x", b"")
    except Invalid:
        return False
    finally:
        store.delete("probe/x")
        store.delete("probe")
    return True
