"""The secret suite itself: an honest store passes, and every lie is caught by the test that is about it."""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.ports.lacks import Lacks, refuse
from ml_toolbox.ports.secrets import Secret, SecretStore, SecretVersion
from ml_toolbox.testing.secrets import Bound, Fresh, SecretStoreTests

Place = dict[str, list[str]]


class Honest:
    """Everything the port promises, in a dictionary."""

    lacks: Mapping[str, Lacks] = {}

    def __init__(self, place: Place, lock: threading.Lock) -> None:
        self._place, self._lock = place, lock

    def get(self, name: str, *, version: int | None = None) -> Secret:
        texts = self._place.get(check_name(name), [])
        number = len(texts) if version is None else version
        if not 1 <= number <= len(texts):
            raise NotFound(f"no version {version} of {name!r}")
        return Secret(texts[number - 1])

    def put(self, name: str, value: Secret) -> SecretVersion:
        check_name(name)
        text = self._checked(value)
        with self._lock:
            self._place.setdefault(name, []).append(text)
            return SecretVersion(name, len(self._place[name]), 1.0)

    def _checked(self, value: Secret) -> str:
        if not isinstance(value, Secret):
            raise Invalid("value: a Secret is needed", field="value")
        try:
            value.reveal().encode()
        except UnicodeEncodeError:
            raise Invalid("value: not valid Unicode", field="value") from None
        return value.reveal()

    def delete(self, name: str) -> None:
        self._place.pop(check_name(name), None)

    def list(self) -> tuple[SecretVersion, ...]:
        return tuple(SecretVersion(name, len(texts), 1.0) for name, texts in sorted(self._place.items()))


class Limited(Honest):
    """Lacks two things and says so in every way."""

    lacks: Mapping[str, Lacks] = {
        "versions": Lacks("never", "it keeps one value per name"),
        "list": Lacks("not-done", "it cannot enumerate"),
    }

    def get(self, name: str, *, version: int | None = None) -> Secret:
        if version is not None:
            refuse(self.lacks, "versions", who="limited")
        return super().get(name)

    def list(self) -> tuple[SecretVersion, ...]:
        refuse(self.lacks, "list", who="limited")


class ReadOnly(Honest):
    lacks: Mapping[str, Lacks] = {"write": Lacks("never", "an administrator writes it")}

    def put(self, name: str, value: Secret) -> SecretVersion:
        refuse(self.lacks, "write", who="read-only")


def bind(kind: type[Honest]) -> Fresh:
    def fresh() -> Bound:
        place: Place = {}
        lock = threading.Lock()
        return Bound(store=kind(place, lock), again=lambda: kind(place, lock))

    return fresh


class TestHonest(SecretStoreTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(Honest)


class TestLimited(SecretStoreTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(Limited)


class TestReadOnly(SecretStoreTests):
    @pytest.fixture
    def fresh(self) -> Fresh:
        return bind(ReadOnly)


class LeaksInRepr(Honest):
    def __repr__(self) -> str:
        return f"Store({self._place})"


class LeaksInErrors(Honest):
    def get(self, name: str, *, version: int | None = None) -> Secret:
        try:
            return super().get(name, version=version)
        except NotFound as error:
            raise NotFound(f"{error}; known: {self._place}") from error


class LeaksInTheChain(Honest):
    def _checked(self, value: Secret) -> str:
        try:
            getattr(value, "reveal", str)().encode()
        except UnicodeEncodeError as error:
            raise Invalid("value: not valid Unicode", field="value") from error
        return super()._checked(value)


class LeaksInLogs(Honest):
    def put(self, name: str, value: Secret) -> SecretVersion:
        # %r: a lone surrogate in a captured log cannot be sent from a test worker to its controller.
        logging.getLogger("store").debug("put %s=%r", name, getattr(value, "reveal", str)())
        return super().put(name, value)


class ForgetsVersions(Honest):
    def get(self, name: str, *, version: int | None = None) -> Secret:
        super().get(name, version=version)
        return super().get(name)


class ForgetsEverything(Honest):
    def __init__(self, place: Place, lock: threading.Lock) -> None:
        super().__init__({}, lock)


class Racy(Honest):
    def put(self, name: str, value: Secret) -> SecretVersion:
        text, texts = self._checked(value), [*self._place.get(check_name(name), [])]
        time.sleep(0.005)
        self._place[name] = [*texts, text]
        return SecretVersion(name, len(texts) + 1, 1.0)


class CountsFromZero(Honest):
    def put(self, name: str, value: Secret) -> SecretVersion:
        return SecretVersion(name, super().put(name, value).version - 1, 1.0)


class Strips(Honest):
    def _checked(self, value: Secret) -> str:
        return super()._checked(value).strip()


class FoldsCase(Honest):
    def get(self, name: str, *, version: int | None = None) -> Secret:
        return super().get(name.lower(), version=version)


class ComplainsOfAbsence(Honest):
    def delete(self, name: str) -> None:
        if check_name(name) not in self._place:
            raise NotFound(f"no {name!r}")
        super().delete(name)


class DeletesOnlyTheNewest(Honest):
    def delete(self, name: str) -> None:
        if texts := self._place.get(check_name(name)):
            texts.pop()


class ListsInAnyOrder(Honest):
    def list(self) -> tuple[SecretVersion, ...]:
        return super().list()[::-1]


class AnyName(Honest):
    def put(self, name: str, value: Secret) -> SecretVersion:
        self._place.setdefault(name, []).append(self._checked(value))
        return SecretVersion(name, len(self._place[name]), 1.0)


class TakesPlainText(Honest):
    def _checked(self, value: Secret) -> str:
        return super()._checked(value if isinstance(value, Secret) else Secret(value))


class QuietlyListsWhatItLacks(Limited):
    def list(self) -> tuple[SecretVersion, ...]:
        return Honest.list(self)


class QuietlyKeepsVersionsItLacks(Limited):
    def get(self, name: str, *, version: int | None = None) -> Secret:
        return Honest.get(self, name, version=version)


class RefusesWithoutItsReason(Limited):
    def list(self) -> tuple[SecretVersion, ...]:
        refuse({"list": Lacks("never", "no")}, "list", who="limited")


class InventsACapability(Honest):
    lacks: Mapping[str, Lacks] = {"telepathy": Lacks("never", "no")}


LIARS: list[tuple[type[Honest], str]] = [
    (LeaksInRepr, "test_the_value_is_nowhere_but_in_reveal"),
    (LeaksInErrors, "test_the_value_is_nowhere_but_in_reveal"),
    (LeaksInTheChain, "test_the_value_is_nowhere_but_in_reveal"),
    (LeaksInLogs, "test_the_value_is_nowhere_but_in_reveal"),
    (ForgetsVersions, "test_the_newest_version_is_given_unless_told"),
    (ForgetsEverything, "test_what_is_put_is_read_by_every_client"),
    (Racy, "test_many_writers_lose_nothing_and_share_no_number"),
    (CountsFromZero, "test_it_behaves_like_a_dictionary_of_lists"),
    (Strips, "test_any_text_comes_back_exactly"),
    (FoldsCase, "test_names_that_differ_in_case_are_different_secrets"),
    (ComplainsOfAbsence, "test_delete_takes_all_versions_and_is_silent_twice"),
    (DeletesOnlyTheNewest, "test_delete_takes_all_versions_and_is_silent_twice"),
    (DeletesOnlyTheNewest, "test_it_behaves_like_a_dictionary_of_lists"),
    (ListsInAnyOrder, "test_the_list_shows_the_newest_version_of_each_by_name"),
    (AnyName, "test_an_illegal_name_is_refused_and_touches_nothing"),
    (TakesPlainText, "test_what_is_no_secret_is_refused"),
    (QuietlyListsWhatItLacks, "test_the_list_shows_the_newest_version_of_each_by_name"),
    (QuietlyKeepsVersionsItLacks, "test_the_newest_version_is_given_unless_told"),
    (RefusesWithoutItsReason, "test_the_list_shows_the_newest_version_of_each_by_name"),
    (InventsACapability, "test_the_store_has_the_ports_shape"),
]


def calls_of(test: Callable[..., None], **fixtures: Any) -> Iterator[dict[str, Any]]:
    """The arguments of every case of a test, as pytest would make them."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    names = [mark.args[0] for mark in marks]
    wanted = {name: value for name, value in fixtures.items() if name in inspect.signature(test).parameters}
    for values in itertools.product(*(mark.args[1] for mark in marks)):
        yield {**wanted, **dict(zip(names, values, strict=True))}


@pytest.mark.parametrize(("liar", "test"), LIARS, ids=lambda value: getattr(value, "__name__", value))
def test_a_lie_is_caught(liar: type[Honest], test: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, Invalid, NotFound)):
        run_all_cases(getattr(SecretStoreTests(), test), liar, caplog)


def run_all_cases(test: Callable[..., None], kind: type[Honest], caplog: pytest.LogCaptureFixture) -> None:
    for arguments in calls_of(test, fresh=bind(kind), writable=None, caplog=caplog):
        test(**{**arguments, **({"writable": bind(kind)()} if "writable" in arguments else {})})


def test_the_fakes_are_stores_in_shape() -> None:
    assert all(isinstance(liar({}, threading.Lock()), SecretStore) for liar, _ in LIARS)
