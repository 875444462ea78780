"""How an engine is judged against the original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far two answers to the same rows lie apart."""

    largest: float
    """Largest absolute difference; infinite when shapes, labels or NaNs differ."""
    scaled: float
    """Largest difference relative to max(1, magnitude of the original's number)."""
    reason: str = ""
    """What differs, when it is more than a number."""

    @property
    def agrees(self) -> bool:
        """Within 1e-6: absolutely for numbers up to 1 (probabilities), relatively above.

        float32 has 24 bits: an engine whose answer to a price of 250,000 is the nearest float32 is as right as one can
        be and still 0.008 away.
        """
        return self.scaled <= TOLERANCE


def compare(expected: Mapping[str, NDArray[np.generic]], actual: Mapping[str, NDArray[np.generic]]) -> Difference:
    """The difference of all outputs that the original gives. Labels (strings, integers, booleans) must be equal."""
    largest = scaled = 0.0
    for name, wanted in expected.items():
        if name not in actual:
            return _unequal(f"output {name!r} is missing")
        given = actual[name]
        if wanted.shape != given.shape:
            return _unequal(f"output {name!r} has shape {given.shape} instead of {wanted.shape}")
        if wanted.dtype.kind != "f":
            different = int(np.sum(np.asarray(wanted != given)))
            if different:
                return _unequal(f"output {name!r}: {different} of {wanted.size} values differ")
            continue
        one, two = wanted.astype(np.float64), given.astype(np.float64)
        same = (one == two) | (np.isnan(one) & np.isnan(two))  # equal infinities would subtract to NaN
        if not np.array_equal(np.isfinite(one), np.isfinite(two)) or not same[~np.isfinite(one)].all():
            return _unequal(f"output {name!r}: NaN or infinity in other places")
        gaps = np.abs(one[~same] - two[~same])
        if gaps.size:
            largest = max(largest, float(gaps.max()))
            scaled = max(scaled, float((gaps / np.maximum(1.0, np.abs(one[~same]))).max()))
    return Difference(largest=largest, scaled=scaled)


def _unequal(reason: str) -> Difference:
    return Difference(largest=math.inf, scaled=math.inf, reason=reason)
