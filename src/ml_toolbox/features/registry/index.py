"""The compacted index: how 100,000 commits are listed by reading 82 objects.

A segment holds the summaries of 64 (level 1) or 4,096 (level 2) consecutive commits. Commits never change, so a
segment's content is a function of its name: whoever finds one missing writes it, nobody coordinates, writing it twice
is harmless, and a segment can be deleted at any time. What can change (stages, tags, deletion) is never in a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ml_toolbox.base.errors import Denied, NotFound
from ml_toolbox.features.registry import layout
from ml_toolbox.features.registry.commits import Commits
from ml_toolbox.features.registry.reading import read_all
from ml_toolbox.features.registry.records import Summary, decode_rows, encode_summaries, summarise
from ml_toolbox.ports.objects import ObjectStore

Row = Summary | msgspec.Raw


@dataclass(frozen=True, slots=True)
class _Span:
    """Commits ``first`` to ``first + LEVEL_SPAN[level] - 1``; level 0 is one commit."""

    level: int
    first: int

    @property
    def count(self) -> int:
        return layout.LEVEL_SPAN[self.level] if self.level else 1


def cover(first: int, last: int) -> list[_Span]:
    """The fewest aligned spans that hold ``first`` to ``last`` and end at or before ``last``, in order. The first may begin
    before ``first``."""
    spans: list[_Span] = []
    number = first
    while number <= last:
        for level in (2, 1, 0):
            size = layout.LEVEL_SPAN.get(level, 1)
            start = (number - 1) // size * size + 1
            if start + size - 1 <= last:
                spans.append(_Span(level, start))
                number = start + size
                break
    return spans


class Index:
    """Summaries of a model's commits."""

    def __init__(self, store: ObjectStore, commits: Commits) -> None:
        self._store = store
        self._commits = commits

    def rows(self, name: str, first: int, last: int) -> list[Row]:
        """Summaries of ``first`` to ``last``, which must exist; segments that are missing are made on the way."""
        spans = cover(first, last)
        if not spans:
            return []
        keys = {f"{span.level}/{span.first}": span for span in spans}
        parts = read_all(lambda key: self._read(name, keys[key]), list(keys))
        rows = [row for part in parts for row in part]
        skipped = first - spans[0].first
        return rows[skipped:]

    def compact(self, name: str, last: int) -> int:
        """Write the segments that end at or before ``last`` and are missing; returns how many. Reads no commit that a
        segment covers already."""
        written = 0
        for level in (1, 2):
            size = layout.LEVEL_SPAN[level]
            for first in range(1, last - size + 2, size):
                span = _Span(level, first)
                if not self._present(name, span):
                    self._write(name, span, self._gather(name, span))
                    written += 1
        return written

    def extend(self, name: str, last: int) -> None:
        """Write the segments that end exactly at ``last``: what the commit of ``last`` made possible."""
        for level in (1, 2):
            size = layout.LEVEL_SPAN[level]
            if last % size == 0:
                span = _Span(level, last - size + 1)
                self._write(name, span, self._gather(name, span))

    def _read(self, name: str, span: _Span) -> list[Row]:
        if span.level == 0:
            return [summarise(self._commits.read(name, span.first))]
        key = layout.index_segment(name, span.level, span.first)
        try:
            data = self._store.get(key).data
        except NotFound:
            rows = self._gather(name, span)
            try:
                self._write(name, span, rows)
            except Denied:
                # These credentials may only read. The answer is complete; it was only slower to make.
                return rows
            return rows
        return list(decode_rows(data, resource=f"{self._store.uri}/{key}"))

    def _gather(self, name: str, span: _Span) -> list[Row]:
        below = layout.LEVEL_SPAN.get(span.level - 1, 1)
        parts = [_Span(span.level - 1, first) for first in range(span.first, span.first + span.count, below)]
        return [row for part in parts for row in self._read(name, part)]

    def _write(self, name: str, span: _Span, rows: list[Row]) -> None:
        self._store.put(layout.index_segment(name, span.level, span.first), encode_summaries(rows))

    def _present(self, name: str, span: _Span) -> bool:
        try:
            self._store.head(layout.index_segment(name, span.level, span.first))
        except NotFound:
            return False
        return True
