"""What is known of a running script's progress: its own reports, and numbers found in its prints."""

from __future__ import annotations

import json
import math
import re
from typing import Any


class Progress:
    """The latest epoch, share of the work done, and value of every metric. Fed with reports and printed lines."""

    def __init__(self, definitions: dict[str, str]) -> None:
        self._patterns = [(name, re.compile(pattern)) for name, pattern in definitions.items()]
        self.epoch: int | None = None
        self.share: float | None = None
        self.metrics: dict[str, float] = {}
        self.changed = False

    def report(self, line: str) -> None:
        """Take in one line of the progress file. A line that is not a report is passed over: the script may write there."""
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not isinstance(values, dict):
            return
        self._advance(values)
        for name, value in (values.get("metrics") or {}).items():
            self._measure(name, value)
        self.changed = True

    def printed(self, line: str) -> dict[str, float]:
        """Search a printed line for the defined metrics; returns those found in it.

        A metric named ``epoch`` or ``step`` whose expression has a second group takes that as the total, which gives the
        share of the work done: ``epoch ([0-9]+)/([0-9]+)``.
        """
        found = {}
        for name, pattern in self._patterns:
            match = pattern.search(line)
            if match is None:
                continue
            try:
                value = float(match.group(1))
            except (ValueError, TypeError):
                continue
            if self._measure(name, value):
                found[name] = value
                self._advance_printed(name, match)
        self.changed = self.changed or bool(found)
        return found

    def _advance_printed(self, name: str, match: re.Match[str]) -> None:
        if name not in ("epoch", "step") or match.re.groups < 2:
            return
        try:
            self._advance({name: float(match.group(1)), f"{name}s": float(match.group(2))})
        except (ValueError, TypeError):
            return  # the second group is not a number in this line: no total is known

    def measure(self, metrics: dict[str, float]) -> None:
        """Take in values known from elsewhere."""
        before = dict(self.metrics)
        for name, value in metrics.items():
            self._measure(name, value)
        self.changed = self.changed or before != self.metrics

    def _measure(self, name: str, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        self.metrics[name] = float(value)
        if name == "epoch":
            self.epoch = int(value)
        return True

    def _advance(self, values: dict[str, Any]) -> None:
        for unit, total in (("epoch", "epochs"), ("step", "steps")):
            done, of = values.get(unit), values.get(total)
            if unit == "epoch" and isinstance(done, int | float):
                self.epoch = int(done)
            if isinstance(done, int | float) and isinstance(of, int | float) and of > 0:
                self.share = min(1.0, max(0.0, done / of))
                return
