from __future__ import annotations

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.models import ModelRef, Stage


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("churn", ModelRef("churn")),
        ("churn:3", ModelRef("churn", version=3)),
        ("churn:v3", ModelRef("churn", version=3)),
        ("churn@champion", ModelRef("churn", alias="champion")),
        ("churn@Production", ModelRef("churn", alias="Production")),
    ],
)
def test_references(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["", ":3", "churn:0", "churn:-1", "churn:three", "churn@", "a/b", "churn:3@x", "../x:1"]
)
def test_what_is_not_a_reference(text: str) -> None:
    with pytest.raises(Invalid):
        ModelRef.parse(text)


def test_stages_are_found_whatever_the_case() -> None:
    assert Stage.parse("production") is Stage.PRODUCTION
    with pytest.raises(Invalid, match="did you mean Staging"):
        Stage.parse("stagging")
