"""The conformance suite of the port ``SecretStore``. Bind it with one fixture::

    class TestMySecrets(SecretStoreTests):
        @pytest.fixture
        def fresh(self, tmp_path: Path) -> Callable[[], Bound]:
            def bound() -> Bound:
                ...  # an empty place nobody else uses
                return Bound(store=..., again=lambda: ...)
            return bound

What a store declares lacking must refuse with that reason; what it does not declare must work. Requires pytest and
Hypothesis.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ml_toolbox.base.errors import Invalid, NotFound, ToolboxError, Unsupported
from ml_toolbox.ports.secrets import CAPABILITIES, Secret, SecretStore, SecretVersion

CLEAR = "s3cr3t-hunter2-ünïcode\n\ttail "
"""The text whose appearance anywhere but in ``reveal()`` is a leak."""

ILLEGAL_NAMES = ("", "..", "a/../b", "/a", "a\x00b", "-a", "a b\n", "x" * 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One empty place."""

    store: SecretStore
    again: Callable[[], SecretStore]
    """Opens the same place once more, as another process would."""


Fresh = Callable[[], Bound]


def check_capability(store: SecretStore, capability: str, use: Callable[[], Any]) -> bool:
    """Whether the store has the capability. Declared lacking: ``use`` must refuse with the declared reason."""
    if capability not in store.lacks:
        return True
    with pytest.raises(Unsupported) as caught:
        use()
    assert store.lacks[capability].reason in str(caught.value), f"{capability} is refused without its declared reason"
    return False


class SecretStoreTests:
    """Every promise of the port, once."""

    writers: ClassVar[int] = 16
    examples: ClassVar[int] = 20
    """Runs of the state machine."""

    @pytest.fixture
    def fresh(self) -> Fresh:
        raise NotImplementedError("bind the suite: return a function that gives an empty place")

    @pytest.fixture
    def writable(self, fresh: Fresh) -> Bound:
        """A place to write to, for the tests that are about more than writing."""
        bound = fresh()
        if not check_capability(bound.store, "write", lambda: bound.store.put("a", Secret(CLEAR))):
            pytest.skip(f"declared lacking: {bound.store.lacks['write'].reason}")
        return bound

    def test_the_store_has_the_ports_shape(self, fresh: Fresh) -> None:
        store = fresh().store
        assert isinstance(store, SecretStore)
        assert set(store.lacks) <= set(CAPABILITIES)

    def test_what_is_put_is_read_by_every_client(self, writable: Bound) -> None:
        written = writable.store.put("database", Secret(CLEAR))
        assert (written.name, written.version) == ("database", 1)
        assert written.created_at > 0
        assert writable.store.get("database").reveal() == CLEAR
        assert writable.again().get("database").reveal() == CLEAR

    @pytest.mark.parametrize(
        "text", ["", "x", " padded\t\n", "line\r\nbreak", "\x00nul", "日本語 \U0001f600", "long" * 10_000]
    )
    def test_any_text_comes_back_exactly(self, writable: Bound, text: str) -> None:
        writable.store.put("a", Secret(text))
        assert writable.again().get("a").reveal() == text

    def test_names_that_differ_in_case_are_different_secrets(self, writable: Bound) -> None:
        writable.store.put("key", Secret("lower"))
        with pytest.raises(NotFound):
            writable.store.get("KEY")

    def test_the_newest_version_is_given_unless_told(self, writable: Bound) -> None:
        store = writable.store
        numbers = [store.put("a", Secret(text)).version for text in ("one", "two", "three")]
        assert numbers == [1, 2, 3]
        assert store.get("a").reveal() == "three"
        if check_capability(store, "versions", lambda: store.get("a", version=1)):
            assert [store.get("a", version=n).reveal() for n in numbers] == ["one", "two", "three"]

    def test_absence_is_not_found(self, writable: Bound) -> None:
        store = writable.store
        with pytest.raises(NotFound, match="nothing"):
            store.get("nothing")
        store.put("there", Secret(CLEAR))
        if "versions" not in store.lacks:
            for version in (0, 2, -1, 10**12):
                with pytest.raises(NotFound, match="there"):
                    store.get("there", version=version)

    @pytest.mark.parametrize("name", ILLEGAL_NAMES)
    def test_an_illegal_name_is_refused_and_touches_nothing(self, writable: Bound, name: str) -> None:
        store = writable.store
        for action in (
            lambda: store.get(name),
            lambda: store.put(name, Secret(CLEAR)),
            lambda: store.delete(name),
        ):
            with pytest.raises(Invalid):
                action()
        if "list" not in store.lacks:
            assert store.list() == ()

    def test_delete_takes_all_versions_and_is_silent_twice(self, writable: Bound) -> None:
        store = writable.store
        for text in ("one", "two", "three"):
            store.put("a", Secret(text))
        store.put("b", Secret("other"))
        for _ in range(2):
            store.delete("a")
        store.delete("never-there")
        with pytest.raises(NotFound):
            writable.again().get("a")
        if "versions" not in store.lacks:
            with pytest.raises(NotFound):
                store.get("a", version=1)
        assert store.get("b").reveal() == "other"

    def test_a_secret_deleted_and_put_again_never_shows_its_former_value(self, writable: Bound) -> None:
        store = writable.store
        store.put("a", Secret("former"))
        store.delete("a")
        assert store.put("a", Secret("new")).version >= 1
        assert store.get("a").reveal() == "new"

    def test_the_list_shows_the_newest_version_of_each_by_name(self, writable: Bound) -> None:
        store = writable.store
        if not check_capability(store, "list", store.list):
            return
        assert store.list() == ()
        for name in ("b", "a", "b"):
            store.put(name, Secret(CLEAR))
        listed = store.list()
        assert [(entry.name, entry.version) for entry in listed] == [("a", 1), ("b", 2)]
        assert all(isinstance(entry, SecretVersion) and entry.created_at > 0 for entry in listed)

    def test_the_value_is_nowhere_but_in_reveal(self, writable: Bound, caplog: pytest.LogCaptureFixture) -> None:
        store = writable.store
        caplog.set_level(logging.DEBUG)
        written = store.put("a", Secret(CLEAR))
        shown = [repr(store), str(store), repr(written), repr(store.get("a"))]
        if "list" not in store.lacks:
            shown.append(repr(store.list()))
        shown.extend(
            _complaint(action)
            for action in (
                lambda: store.put("not/../legal", Secret(CLEAR)),
                lambda: store.get("a", version=999),
                lambda: store.get("absent"),
                lambda: store.put("a", CLEAR),  # type: ignore[arg-type]
                lambda: store.put("a", Secret(CLEAR + "\ud800")),
            )
        )
        shown.append(caplog.text)
        for text in shown:
            assert CLEAR not in text, "the clear text leaked"
            assert "hunter2" not in text, "a part of the clear text leaked"

    def test_what_is_no_secret_is_refused(self, writable: Bound) -> None:
        with pytest.raises(Invalid):
            writable.store.put("a", CLEAR)  # type: ignore[arg-type]

    def test_many_writers_lose_nothing_and_share_no_number(self, writable: Bound) -> None:
        gate = threading.Barrier(self.writers)

        def write(number: int) -> tuple[int, int]:
            store = writable.again()
            gate.wait()
            return store.put("a", Secret(f"value-{number}")).version, number

        with ThreadPoolExecutor(self.writers) as pool:
            versions = dict(pool.map(write, range(self.writers)))
        assert sorted(versions) == list(range(1, self.writers + 1)), "a number was lost, skipped or given twice"
        store = writable.store
        assert store.get("a").reveal() == f"value-{versions[self.writers]}"
        if "versions" not in store.lacks:
            for version, number in versions.items():
                assert store.get("a", version=version).reveal() == f"value-{number}"

    def test_it_behaves_like_a_dictionary_of_lists(self, fresh: Fresh) -> None:
        if "write" in fresh().store.lacks:
            pytest.skip("declared lacking: write")

        class Machine(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.bound = fresh()
                self.model: dict[str, list[str]] = {}

            @rule(name=st.sampled_from("ab"), text=st.text(st.characters(codec="utf-8"), max_size=20))
            def put(self, name: str, text: str) -> None:
                self.model.setdefault(name, []).append(text)
                assert self.bound.store.put(name, Secret(text)).version == len(self.model[name])

            @rule(name=st.sampled_from("ab"))
            def delete(self, name: str) -> None:
                self.bound.store.delete(name)
                self.model.pop(name, None)

            @rule()
            def reopen(self) -> None:
                self.bound = Bound(store=self.bound.again(), again=self.bound.again)

            @invariant()
            def agrees(self) -> None:
                store = self.bound.store
                for name in "ab":
                    texts = self.model.get(name)
                    if texts is None:
                        with pytest.raises(NotFound):
                            store.get(name)
                        continue
                    assert store.get(name).reveal() == texts[-1]
                    if "versions" not in store.lacks:
                        assert [store.get(name, version=n + 1).reveal() for n in range(len(texts))] == texts

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=15,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def _complaint(action: Callable[[], object]) -> str:
    """Everything an error shows, its chain included."""
    try:
        action()
    except (ToolboxError, TypeError) as error:
        shown = [*traceback.format_exception(error), repr(error), str(vars(error))]
        cause: BaseException | None = error
        while cause is not None:
            # A UnicodeEncodeError carries the whole text as its object.
            shown.append(f"{vars(cause)} {cause.args} {getattr(cause, 'object', '')!r}")
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        return "\n".join(line for line in shown if "CLEAR" not in line)
    return ""
