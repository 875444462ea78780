"""Metrics that a script logs with MLflow, read from the files of its file store. MLflow itself is not needed for that.

Azure ML scripts report by MLflow alone, so a job gets a tracking folder of its own unless a tracking server is configured.
The layout read here is ``<root>/<experiment>/<run>/metrics/<name>``, one line ``timestamp value step`` per point.
"""

from __future__ import annotations

import math
import os

TRACKING_FOLDER = "mlruns"


def variables(folder: str) -> dict[str, str]:
    """What makes MLflow write there. Release 3 wants to be told that files are meant."""
    return {"MLFLOW_TRACKING_URI": f"file:{folder}", "MLFLOW_ALLOW_FILE_STORE": "true"}


def latest(folder: str) -> dict[str, float]:
    """The newest finite value of every metric; empty when nothing was logged."""
    found: dict[str, tuple[float, float]] = {}
    for place, _, names in os.walk(folder):
        if f"{os.sep}metrics" not in place.removeprefix(folder):
            continue
        root = place.rpartition(f"{os.sep}metrics")[2].strip(os.sep)
        for name in names:
            point = _last_point(os.path.join(place, name))
            key = os.path.join(root, name)
            if point is not None and point >= found.get(key, (-math.inf, 0.0)):
                found[key] = point
    return {name: value for name, (_, value) in found.items()}


def _last_point(path: str) -> tuple[float, float] | None:
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for line in reversed(lines):
        words = line.split()
        try:
            at, value = float(words[0]), float(words[1])
        except (ValueError, IndexError):  # being written just now
            continue
        return (at, value) if math.isfinite(value) else None
    return None
