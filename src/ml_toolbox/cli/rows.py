"""Rows for ``predict``, from a file or standard input."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, NotFound


def read_rows(source: str) -> list[Any]:
    """Rows from a CSV, JSON or JSON-lines file, or ``-`` for standard input (JSON, JSON lines or CSV by its first sign).

    CSV with a header gives a mapping per row; without (all cells of the first line are numbers), a list per row.
    """
    if source == "-":
        text, ending = sys.stdin.read(), ""
    else:
        path = Path(source)
        if not path.is_file():
            raise NotFound(f"there is no file {source}", resource=source)
        try:
            text, ending = path.read_text(encoding="utf-8-sig"), path.suffix
        except UnicodeDecodeError as error:
            raise Invalid(
                f"{source} is not UTF-8 text", hint="give CSV, JSON or JSON lines", field="--input"
            ) from error
    named = "standard input" if source == "-" else source
    rows = _parse(text, ending, named)
    if not rows:
        raise Invalid(f"{named} holds no rows", field="--input")
    return rows


def _parse(text: str, ending: str, source: str) -> list[Any]:
    stripped = text.lstrip()
    try:
        if ending == ".jsonl" or (stripped.startswith("{") and ending != ".json"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if ending == ".json" or stripped.startswith("["):
            value = json.loads(text)
            return value if isinstance(value, list) else [value]
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Invalid(f"{source} is not JSON: {error.msg} at {place}", field="--input") from error
    return _csv_rows(text)


def _csv_rows(text: str) -> list[Any]:
    lines = [line for line in csv.reader(text.splitlines()) if line]
    if not lines:
        return []
    if all(_is_number(cell) for cell in lines[0]):
        return [[_cell(cell) for cell in line] for line in lines]
    header = lines[0]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise Invalid(f"line {number} has {len(line)} cells, the header {len(header)}", field="--input")
    return [dict(zip(header, map(_cell, line), strict=True)) for line in lines[1:]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(text: str) -> float | int | str | None:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
