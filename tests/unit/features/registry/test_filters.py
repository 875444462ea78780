"""The search language: what matches, and how errors point at their place."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.clock import from_iso
from ml_toolbox.base.errors import Invalid
from ml_toolbox.features.registry.filters import parse_filter


class FixedRow:
    """One version: churn:7 in Production."""

    VALUES: ClassVar[dict[tuple[str, str], Any]] = {
        ("", "name"): "churn",
        ("", "version"): 7,
        ("", "stage"): "Production",
        ("", "alias"): ("champion", "eu"),
        ("", "flavour"): "sklearn",
        ("", "created_at"): from_iso("2026-03-01T12:00:00Z"),
        ("metrics", "accuracy"): 0.93,
        ("metrics", "val/loss"): 0.1,
        ("parameters", "depth"): 12,
        ("parameters", "bootstrap"): True,
        ("parameters", "kind"): "gini",
        ("tags", "team"): "x",
        ("tags", "note"): "it's 100% done",
    }

    def value(self, group: str, key: str) -> Any:
        return self.VALUES.get((group, key))


def matches(text: str) -> bool:
    return parse_filter(text).matches(FixedRow())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "metrics.accuracy > 0.9 and tags.team = 'x' and stage = 'Production' and name like 'churn%'",
        "stage = 'production'",
        "version >= 7 and version<8",
        "metrics.`val/loss` <= 1e-1",
        "metrics.val/loss = 0.1",
        "tags.note = 'it''s 100% done'",
        'tags.note like "%100_ done"',
        "name ilike 'CH%n'",
        "name not like 'fraud%'",
        "alias = 'eu' and alias = 'champion'",
        "alias in ('x', 'eu')",
        "parameters.depth in (3, 12)",
        "params.depth = 12",
        "parameters.bootstrap = true",
        "parameters.bootstrap != false",
        "parameters.kind = 'gini'",
        "name = 'fraud' or (stage in ('Staging', 'Production') and not version = 3)",
        "NOT name = 'fraud' AND version = 7",
        "created_at > '2026-03-01' and created_at < '2026-03-01T12:00:01Z'",
        "created_at = '2026-03-01T14:00:00+02:00'",
        "metrics.f1 is null and metrics.accuracy is not null",
        "description is null",
        "not metrics.f1 > 0.5",
        "name = 'a' or version = 7 and stage = 'Production'",
    ],
)
def test_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "metrics.accuracy > 0.95",
        "metrics.f1 != 3",
        "metrics.f1 > 0",
        "tags.missing != 'x'",
        "parameters.depth = '12'",
        "parameters.kind > 3",
        "parameters.bootstrap = 1",
        "name like 'chur'",
        "name like 'chu_'",
        "name like '%x%'",
        "name not like 'churn'",
        "alias = 'none'",
        "name not in ('churn', 'x')",
        "(name = 'a' or version = 7) and stage = 'Staging'",
        "tags.missing not in ('x')",
        "tags.missing like '%'",
    ],
)
def test_does_not_match(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("metrics.accuracy >", 19, "expected a number"),
        ("accuracy > 0.9", 1, "no field 'accuracy'"),
        ("flavor = 'sklearn'", 1, "flavor"),
        ("name = churn", 8, "expected a quoted string"),
        ("name = 'churn' stage = 'x'", 16, "not expected here"),
        ("(name = 'churn'", 16, "expected ')'"),
        ("metrics.accuracy like '1%'", 18, "compares text"),
        ("stage = 'Prod'", 9, "no stage"),
        ("created_at > 'yesterday'", 14, "not a time"),
        ("version = 'x'", 11, "expected a number"),
        ("name in 'x'", 9, "expected '('"),
        ("name ~ 'x'", 6, "begins nothing"),
        ("name.first = 'x'", 1, "has no parts"),
        ("name is 3", 9, "expected 'null'"),
        ("name", 5, "expected a comparison"),
        ("name = 'x' and", 15, "expected a field"),
        ("tags.team = 3", 13, "expected a quoted string"),
        ("name = 'open", 8, "begins nothing"),
        ("version = 1.2.3", 11, ""),
    ],
)
def test_errors_name_the_place(text: str, at: int, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_filter(text)
    assert f"at character {at}," in caught.value.message
    assert words in caught.value.message
    assert caught.value.field == "filter"
    assert caught.value.hint


def test_depth_and_length_are_bounded() -> None:
    for text in ("(" * 60 + "name = 'x'" + ")" * 60, "not " * 60 + "name = 'x'", "name = '" + "x" * 10_000 + "'"):
        with pytest.raises(Invalid):
            parse_filter(text)


def test_a_hostile_pattern_is_matched_in_reasonable_time() -> None:
    question = parse_filter("tags.team like '" + "%a" * 200 + "%b'")

    class Row:
        def value(self, group: str, key: str) -> Any:
            return "a" * 5000

    # A backtracking matcher would not come back before the test's own time limit.
    assert not question.matches(Row())


@given(st.text("ab%_.\n", max_size=8), st.text("ab.\n", max_size=8))
def test_like_agrees_with_a_glob(pattern: str, value: str) -> None:
    class Row:
        def value(self, group: str, key: str) -> Any:
            return value

    glob = re.compile(fnmatch.translate(pattern.replace("%", "*").replace("_", "?")))
    assert parse_filter(f"tags.x like '{pattern}'").matches(Row()) == bool(glob.fullmatch(value))


def test_name_conditions_spare_reading_other_models() -> None:
    question = parse_filter("name like 'churn%' and metrics.accuracy > 0.9 and (name = 'churn-eu' or version = 3)")
    assert question.model_names("churn-us")
    assert not question.model_names("fraud")
    assert parse_filter("name = 'a' or version = 3").model_names("fraud")
    assert parse_filter("not name = 'fraud'").model_names("fraud")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_filter(text).matches(FixedRow())
    except Invalid as error:
        assert error.field == "filter"  # noqa: PT017 - only some texts are refused
