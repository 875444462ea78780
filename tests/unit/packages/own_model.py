"""A user's own model classes, in a file of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

SCALE = 3.0


class Threshold:
    """Plain state: a number, an array and a dictionary."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.weights = np.array([1.0, 2.0])
        self.notes = {"made": ["by", "hand"], "none": None}

    def predict(self, rows: Any) -> Any:
        return (np.asarray(rows) @ self.weights * SCALE > self.limit).astype(np.int64)


class Odd(Threshold):
    """State that only a pickle can hold."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)
        self.seen = {1, 2, 3}
