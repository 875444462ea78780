from __future__ import annotations

import inspect

import pytest

from ml_toolbox.base import errors
from ml_toolbox.base.errors import Invalid, MissingExtra, Throttled, ToolboxError


def all_kinds() -> list[type[ToolboxError]]:
    return [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, ToolboxError)]


def test_every_error_has_its_own_code() -> None:
    codes = [kind.code for kind in all_kinds()]
    assert len(set(codes)) == len(codes)


def test_the_tree_in_the_module_docstring_names_every_error() -> None:
    assert errors.__doc__
    missing = [kind.__name__ for kind in all_kinds() if kind.__name__ not in errors.__doc__]
    assert missing == []


def test_only_passing_faults_are_retryable() -> None:
    assert {kind.__name__ for kind in all_kinds() if kind.retryable} == {"Throttled", "Unavailable"}


def test_an_unknown_choice_suggests_the_nearest_name() -> None:
    error = Invalid.choice("backend", "locl", ["local", "kubernetes"])
    assert "did you mean local?" in str(error)
    assert error.field == "backend"
    assert error.exit_code == 2


def test_an_unknown_choice_far_from_all_lists_them() -> None:
    assert "known values: kubernetes, local" in str(Invalid.choice("backend", "xyzzy", ["local", "kubernetes"]))


def test_problem_document_holds_what_a_client_needs_and_nothing_empty() -> None:
    problem = Invalid("rows: expected 30 columns, got 29", field="rows", hint="send all features").to_problem()
    assert problem == {
        "type": "urn:ml-toolbox:error:invalid",
        "title": "Invalid",
        "status": 400,
        "detail": "rows: expected 30 columns, got 29",
        "hint": "send all features",
        "field": "rows",
    }


def test_a_missing_extra_names_the_exact_install_command() -> None:
    assert "pip install 'ml-toolbox[sklearn]'" in str(MissingExtra.named("skops", "sklearn", "loading this model"))


@pytest.mark.parametrize("wait", [None, 2.5])
def test_throttled_carries_the_servers_wish(wait: float | None) -> None:
    assert Throttled("slow down", retry_after_s=wait).retry_after_s == wait
