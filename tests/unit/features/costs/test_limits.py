"""What users may type as a limit, and what names the field when they may not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.base.errors import Invalid
from ml_toolbox.features.costs import wanted_limits


def test_several_limits_of_one_scope_at_once() -> None:
    wanted = wanted_limits("project:churn", cost="100", month=True, cost_per_hour="0.5", running="4")
    assert [(one.meter, one.period, one.most) for one in wanted] == [
        ("cost", "month", 100_000_000),
        ("cost-per-hour", "", 500_000),
        ("running", "", 4),
    ]
    assert {one.scope for one in wanted} == {"project:churn"}


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        ({"cost": "0"}, "cost"),
        ({"cost": "-3"}, "cost"),
        ({"cost": "0.0000001"}, "cost"),
        ({"cost": "nan"}, "cost"),
        ({"cost": "1e400"}, "cost"),
        ({"cost": "inf"}, "cost"),
        ({"cost": "ten"}, "cost"),
        ({"cost": ""}, "cost"),
        ({"cost": True}, "cost"),
        ({"cost": "99999999999999"}, "cost"),
        ({"cost_per_hour": "-1"}, "cost-per-hour"),
        ({"running": "0"}, "running"),
        ({"running": "1.5"}, "running"),
        ({"running": "many"}, "running"),
        ({"running": "2", "month": True}, "month"),
        ({}, "cost"),
    ],
)
def test_what_is_no_limit_is_refused_by_name(given_: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        wanted_limits("all", **given_)
    assert caught.value.field == field
    assert field in caught.value.message or not given_


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "everybody",
        "project",
        "project:",
        "project:a b",
        "team:x",
        "user:",
        "user: ann",
        "user:a\nb",
        "backend:!",
        "all:x",
    ],
)
def test_what_is_nobodys_budget_is_refused(scope: str) -> None:
    with pytest.raises(Invalid) as caught:
        wanted_limits(scope, cost="1")
    assert caught.value.field == "scope"


@pytest.mark.parametrize(
    "scope", ["all", "user:ann@example.org", "user:José", "project:churn", "profile:gpu", "backend:x@eu-1"]
)
def test_whose_budgets_there_are(scope: str) -> None:
    assert wanted_limits(scope, cost="1")[0].scope == scope


@given(st.decimals(min_value=0, max_value=10_000, places=9))
def test_a_limit_is_never_wider_than_it_was_said(amount: Any) -> None:
    try:
        (wanted,) = wanted_limits("all", cost=str(amount))
    except Invalid:
        assert amount * 1_000_000 < 1
    else:
        assert amount * 1_000_000 - 1 < wanted.most <= amount * 1_000_000
