"""Listing, the compacted index, search, comparison, lineage."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Denied, Invalid, NotFound
from ml_toolbox.features.registry import Registry
from ml_toolbox.features.registry.index import cover
from ml_toolbox.ports.objects import ObjectStore
from tests.unit.features.registry.support import FaultyStore

Packages = Callable[..., Path]


@pytest.fixture
def many(registry: Registry, packages: Packages) -> Registry:
    """150 versions: two index segments and a tail."""
    for number in range(1, 151):
        registry.register("churn", packages({}, metrics={"accuracy": number / 1000}, parameters={"n": number}))
    registry.close()
    return registry


@given(st.integers(1, 20_000), st.integers(0, 20_000))
def test_spans_cover_exactly_and_are_few(first: int, length: int) -> None:
    last = first + length
    spans = cover(first, last)
    numbers = [number for span in spans for number in (span.first, span.first + span.count - 1)]
    assert numbers == sorted(numbers)
    assert spans[0].first <= first
    assert numbers[-1] == last
    for left, right in itertools.pairwise(spans):
        assert left.first + left.count == right.first
    assert len(spans) <= (last - spans[0].first + 1) // 4096 + 3 * 64


def test_versions_come_newest_first_and_are_built_when_looked_at(many: Registry) -> None:
    versions = many.versions("churn")
    assert len(versions) == 150
    assert [version.number for version in versions[:2]] == [150, 149]
    assert versions[-1] == many.get("churn:1")
    assert [version.number for version in many.versions("churn", newest_first=False, limit=2)] == [1, 2]
    assert versions[0].metrics == {"accuracy": 0.15}
    assert len(many.versions("churn", limit=0)) == 0
    assert len(versions.to_json()) == 150


def test_versions_of_a_stage(many: Registry) -> None:
    many.promote("churn:70", "Staging")
    many.promote("churn:7", "Staging")
    many.delete("churn:70")
    assert list(many.versions("churn", stage="Staging").numbers) == [7]
    assert list(many.versions("churn", stage="Staging", include_deleted=True).numbers) == [70, 7]
    assert len(many.versions("churn", stage="registered")) == 148
    with pytest.raises(NotFound):
        many.versions("fraud")


def test_listing_reads_segments_instead_of_versions(many: Registry, store: ObjectStore) -> None:
    spy = FaultyStore(store)
    assert len(Registry(spy, actor="bob").versions("churn")) == 150
    reads = [key for method, key in spy.calls if method == "get"]
    assert sum("/index/" in key for key in reads) == 2
    assert sum("/versions/" in key for key in reads) == 150 % 64
    assert not any(method.startswith("list") for method, _ in spy.calls)


def test_a_missing_segment_is_made_again_by_the_next_reader(many: Registry, store: ObjectStore) -> None:
    expected = many.versions("churn").to_json()
    written = {meta.key: store.get(meta.key).data for meta in store.list("models/churn/index")}
    assert len(written) == 2
    for key in written:
        store.delete(key)
    assert Registry(store, actor="bob").versions("churn").to_json() == expected
    assert {meta.key: store.get(meta.key).data for meta in store.list("models/churn/index")} == written


def test_readers_without_permission_to_write_get_the_whole_list(many: Registry, store: ObjectStore) -> None:
    expected = many.versions("churn").to_json()
    for meta in list(store.list("models/churn/index")):
        store.delete(meta.key)

    def read_only(method: str, key: str, proceed: Callable[[], object]) -> object:
        if method.startswith("put"):
            raise Denied("read-only credentials")
        return proceed()

    assert Registry(FaultyStore(store, read_only), actor="bob").versions("churn").to_json() == expected


def test_compact_writes_what_is_missing(many: Registry, store: ObjectStore) -> None:
    assert many.compact("churn") == 0
    store.delete("models/churn/index/1/0000000065")
    assert many.compact("churn") == 1
    assert many.compact("churn") == 0


def test_a_cold_registry_finds_the_latest_by_few_probes(many: Registry, store: ObjectStore) -> None:
    spy = FaultyStore(store)
    assert Registry(spy, actor="bob").get("churn").number == 150
    assert len(spy.calls) <= 2 + 2 * 7


def test_a_damaged_segment_is_named(many: Registry, store: ObjectStore) -> None:
    store.put("models/churn/index/1/0000000001", b"junk")
    with pytest.raises(Invalid, match="index/1/0000000001"):
        many.versions("churn")


def test_search_filters_orders_and_pages(many: Registry, packages: Packages) -> None:
    many.register("fraud", packages({}, metrics={"accuracy": 0.5}), tags={"team": "x"})
    many.promote("churn:149", "Production")
    many.set_tags("churn:3", {"team": "x"})
    found = many.search("metrics.accuracy > 0.1 and stage = 'Production' and name like 'churn%'")
    assert [item.ref for item in found.items] == ["churn:149"]
    assert [item.ref for item in many.search("tags.team = 'x'").items] == ["churn:3", "fraud:1"]

    collected, token, pages = [], "", 0
    while True:
        page = many.search("parameters.n > 100", order_by="metrics.accuracy desc", limit=20, page_token=token)
        collected += [item.number for item in page.items]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert collected == list(range(150, 100, -1))
    assert pages == 3


def test_a_page_goes_on_after_what_was_seen(many: Registry, packages: Packages) -> None:
    first = many.search(order_by="version", limit=100)
    many.register("churn", packages({}))
    many.delete("churn:1")
    rest = many.search(order_by="version", limit=100, page_token=first.next_page_token)
    assert [item.number for item in rest.items] == list(range(101, 152))


def test_search_refuses_foreign_tokens_and_bad_orders(many: Registry) -> None:
    token = many.search("version > 3", limit=1).next_page_token
    for arguments in (
        {"filter": "version > 4", "page_token": token},
        {"page_token": "xyz"},
        {"order_by": "accuracy"},
        {"order_by": "version upwards"},
        {"order_by": "alias"},
        {"limit": 0},
        {"limit": 1001},
    ):
        with pytest.raises(Invalid):
            many.search(**arguments)


def test_order_puts_absent_values_last_and_sorts_text_both_ways(registry: Registry, packages: Packages) -> None:
    for kind in ("b", "ab", "", "a", "\U0001f600"):
        registry.register("m", packages({}, parameters={"kind": kind} if kind else {"x": 1}))

    def kinds(order: str) -> list[str | None]:
        return [item.parameters.get("kind") for item in registry.search(order_by=order).items]

    assert kinds("parameters.kind") == ["a", "ab", "b", "\U0001f600", None]
    assert kinds("parameters.kind desc") == ["\U0001f600", "b", "ab", "a", None]


def test_deleted_versions_are_searched_only_on_demand(many: Registry) -> None:
    many.delete("churn:5")
    assert many.search("version = 5").items == ()
    assert [item.deleted for item in many.search("version = 5", include_deleted=True).items] == [True]


def test_comparison_shows_what_differs(registry: Registry, packages: Packages) -> None:
    registry.register(
        "m", packages({"w": b"1", "same": b"s"}, metrics={"auc": 0.8, "f1": 0.1}, parameters={"depth": 3, "lr": 0.1})
    )
    registry.register(
        "m",
        packages(
            {"w": b"22", "same": b"s", "new": b"n"},
            metrics={"auc": 0.9},
            parameters={"depth": 5, "lr": 0.1},
            inputs=("age", "income"),
            requirements=("numpy==2.2", "scipy"),
        ),
        tags={"team": "x"},
        alias="champion",
    )
    result = registry.compare("m", 1, "champion")
    assert result == registry.compare("m", "1", "@champion")
    assert result.metrics == {"auc": (0.8, 0.9), "f1": (0.1, None)}
    assert result.parameters == {"depth": (3, 5)}
    assert result.tags == {"team": (None, "x")}
    assert result.requirements == {"numpy": ("==2.1", "==2.2"), "scipy": (None, "")}
    assert set(result.files) == {"w", "new"}
    assert set(result.signature) == {"inputs (order)", "inputs.income"}
    assert not result.same_model
    assert result.size[1] > result.size[0]
    assert msgspec.json.encode(result.to_json())
    assert registry.compare("m", 1, 1).same_model


def test_lineage_names_origin_and_identical_versions(registry: Registry, packages: Packages) -> None:
    registry.register("m", packages({"w": b"1"}))
    registry.register("m", packages({"w": b"2"}))
    registry.register("m", packages({"w": b"1"}, job="job-2"))
    report = registry.lineage("m:1")
    assert (report.job, report.data) == ("job-1", {"training": "file:///data.csv@sha256:12"})
    assert report.identical_versions == (3,)
    assert report.environment == {"python": "3.11.9"}
    assert msgspec.json.encode(report.to_json())
