"""Databases that released versions left behind, in every state that they knew."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

RELEASED = Path(__file__).parent / "released"


def restored(version: int, path: Path) -> Path:
    """The database of that schema, as a file at ``path``."""
    connection = sqlite3.connect(path)
    connection.executescript((RELEASED / f"schema-{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


def platforms(version: int) -> dict[str, Any]:
    """What existed on the fake platforms then: ``jobs`` by resource, ``tokens`` to resource, names of ``endpoints``."""
    found: dict[str, Any] = json.loads((RELEASED / f"schema-{version}.json").read_text(encoding="utf-8"))
    return found
