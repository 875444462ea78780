"""Options that several commands share, and the parsing of ``KEY=VALUE`` arguments."""

from __future__ import annotations

import json
from typing import Any

import click

from ml_toolbox.base.errors import Invalid

backend_option = click.option("--on", "backend", default="local", show_default=True, help="Backend to run on.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def key_values(pairs: tuple[str, ...], *, option: str) -> dict[str, str]:
    """``("a=1", "b=x=y")`` -> ``{"a": "1", "b": "x=y"}``; ``Invalid`` names the option and the pair."""
    result: dict[str, str] = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep or not key:
            raise Invalid(f"{option}: {pair!r} is not NAME=VALUE", field=option)
        if key in result:
            raise Invalid(f"{option}: {key!r} is given twice", field=option)
        result[key] = value
    return result


def typed_values(pairs: tuple[str, ...], *, option: str) -> dict[str, Any]:
    """Like :func:`key_values`, with JSON values kept as their type: ``n=200`` is an integer, ``name=abc`` text."""
    return {key: _typed(value) for key, value in key_values(pairs, option=option).items()}


def _typed(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text
    # 00123 and 1_000 never parse as JSON; a number too large for a float would silently become infinity.
    return text if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost. Without a terminal nobody can answer, so ``--yes`` is required."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise Invalid(f"{question} - nobody is there to answer", hint="add --yes", field="--yes")
    click.confirm(question, abort=True)
