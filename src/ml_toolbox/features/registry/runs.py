"""Sets of version numbers as runs: ``"1-4,7"``. A head keeps which versions are archived or deleted in a few bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runs:
    """An immutable set of positive integers, kept as sorted, disjoint, non-touching closed intervals."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Runs:
        """The inverse of ``str``. Raises ``ValueError`` on anything ``str`` would not write."""
        if not text:
            return cls()
        spans: list[tuple[int, int]] = []
        floor = -1
        for part in text.split(","):
            first, dash, last = part.partition("-")
            span = (int(first), int(last if dash else first))
            if span[0] <= floor + 1 or span[1] < span[0] + bool(dash):
                raise ValueError(f"not a set of runs: {text!r}")
            spans.append(span)
            floor = span[1]
        return cls(tuple(spans))

    def __str__(self) -> str:
        return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.spans, (number, number))
        return (at < len(self.spans) and self.spans[at][0] == number) or (at > 0 and self.spans[at - 1][1] >= number)

    def __iter__(self) -> Iterator[int]:
        for first, last in self.spans:
            yield from range(first, last + 1)

    def descending(self) -> Iterator[int]:
        """The numbers, highest first; lazy, so that the highest costs nothing more."""
        for first, last in reversed(self.spans):
            yield from range(last, first - 1, -1)

    def adding(self, number: int) -> Runs:
        if number in self:
            return self
        at = bisect_right(self.spans, (number, number))
        first, last, low, high = number, number, at, at
        if at > 0 and self.spans[at - 1][1] == number - 1:
            first, low = self.spans[at - 1][0], at - 1
        if at < len(self.spans) and self.spans[at][0] == number + 1:
            last, high = self.spans[at][1], at + 1
        return Runs((*self.spans[:low], (first, last), *self.spans[high:]))

    def removing(self, number: int) -> Runs:
        if number not in self:
            return self
        at = bisect_right(self.spans, (number, MAX)) - 1
        first, last = self.spans[at]
        left = ((first, number - 1),) if first < number else ()
        right = ((number + 1, last),) if number < last else ()
        return Runs((*self.spans[:at], *left, *right, *self.spans[at + 1 :]))


MAX = 1 << 62
"""Above every version number, to bisect behind a span that begins at the number itself."""
