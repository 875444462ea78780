"""Which variant answers the next request: exact shares, no randomness.

Tijdeman's solution of the chairman assignment problem (R. Tijdeman, "The chairman assignment problem", Discrete
Mathematics 32, 1980): among the variants far enough behind their share, the one whose turn falls due first. At every
moment each of n variants has answered its share of all requests within 1 - 1/(2n-2) request, for any weights, where
the usual greedy round robin only promises that over whole periods. Integers, so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SCALE: Final = 10**7
"""A weight is kept to the 1e-7 of a percent."""


class Splitter:
    """Deals requests out to names by weight. Not thread-safe: belongs to one event loop."""

    __slots__ = ("_behind", "_names", "_only", "_shares", "_slack", "_total", "weights")

    def __init__(self, weights: Mapping[str, float]) -> None:
        """``weights``: any scale; a variant of weight 0 gets no traffic. All zero: :meth:`next` answers ``None``."""
        self.weights = dict(weights)
        shares = {name: round(weight * _SCALE) for name, weight in weights.items()}
        self._names = [name for name, share in shares.items() if share > 0]
        self._shares = [shares[name] for name in self._names]
        self._total = sum(self._shares)
        self._behind = [0] * len(self._names)
        """Times the total: by how much of a request each variant is behind (+) or ahead of (-) its share."""
        self._slack = 2 * len(self._names) - 2
        self._only = self._names[0] if len(self._names) == 1 else None

    def next(self) -> str | None:
        """The name whose turn it is."""
        if self._only is not None or not self._names:
            return self._only
        total, slack, behind = self._total, self._slack, self._behind
        chosen, earliest = -1, 0.0
        for i, share in enumerate(self._shares):
            before = behind[i]
            behind[i] = now = before + share
            if now * slack >= total:
                due = (total * (slack - 1) - before * slack) / share
                if chosen < 0 or due < earliest:
                    chosen, earliest = i, due
        behind[chosen] -= total
        return self._names[chosen]
