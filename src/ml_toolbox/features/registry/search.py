"""Answering a search: order, pages, and which rows match. Pure, over rows that the registry hands in."""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import digest
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry.filters import Field, Filter, parse_field
from ml_toolbox.features.registry.index import Row as IndexRow
from ml_toolbox.features.registry.records import Note, Summary, unpack
from ml_toolbox.features.registry.transitions import apply_tags
from ml_toolbox.features.registry.values import ModelVersion

MAX_LIMIT = 1000
_NOTHING = Note()


@dataclass(slots=True)
class Candidate:
    """One version as a search sees it: unpacked only when a filter, the order or the answer asks."""

    name: str
    number: int
    stage: Stage
    aliases: tuple[str, ...]
    note: Note
    deleted: bool
    row: IndexRow

    def summary(self) -> Summary:
        self.row = unpack(self.row)
        return self.row

    def value(self, group: str, key: str) -> Any:
        if not group:
            return self._plain(key)
        summary = self.summary()
        if group == "tags":
            return apply_tags(summary.tags, self.note.tags).get(key)
        values: dict[str, Any] = summary.metrics if group == "metrics" else summary.parameters
        return values.get(key)

    def _plain(self, key: str) -> Any:
        if key == "name":
            return self.name
        if key == "version":
            return self.number
        if key == "stage":
            return self.stage.value
        if key == "alias":
            return self.aliases
        if key == "description" and self.note.description is not None:
            return self.note.description or None
        value = getattr(self.summary(), key)
        return None if value == "" else value

    def version(self) -> ModelVersion:
        summary, note = self.summary(), self.note
        return ModelVersion(
            name=self.name,
            number=self.number,
            stage=self.stage,
            aliases=self.aliases,
            tags=apply_tags(summary.tags, note.tags) if note.tags else summary.tags,
            description=summary.description if note.description is None else note.description,
            created_at=summary.created_at,
            created_by=summary.created_by,
            flavour=summary.flavour,
            metrics=summary.metrics,
            parameters=summary.parameters,
            job=summary.job,
            size=summary.size,
            file_count=summary.file_count,
            digest=summary.digest,
            source=summary.source,
            deleted=self.deleted,
        )


@dataclass(frozen=True, slots=True)
class Order:
    """``"metrics.accuracy desc, name"``; ties are broken by name, then newest version first."""

    terms: tuple[tuple[Field, bool], ...]

    @classmethod
    def parse(cls, text: str) -> Order:
        terms = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, direction = part.partition(" ")
            direction = direction.strip().lower()
            if direction not in ("", "asc", "desc"):
                raise Invalid.choice("order_by", direction, ["asc", "desc"])
            field = parse_field(name, where="order_by")
            if field == Field("", "alias"):
                raise Invalid("order_by: a version can have several aliases", hint="order by name", field="order_by")
            terms.append((field, direction == "desc"))
        return cls(tuple(terms))

    def key(self, candidate: Candidate) -> list[Any]:
        """A list that sorts in this order and survives JSON. Absent values come last in either direction."""
        parts: list[Any] = []
        for field, descending in self.terms:
            parts.append(_part(candidate.value(field.group, field.key), descending))
        return [*parts, candidate.name, -candidate.number]


def _part(value: Any, descending: bool) -> list[Any]:
    # Kinds are kept apart, so that a parameter that is a number here and a text there still has one order.
    if value is None or isinstance(value, list | dict):
        return [9]
    if isinstance(value, bool | int | float):
        return [1, -value if descending else value]
    if not descending:
        return [2, value]
    # Complemented code points sort backwards; the end marker sorts a longer text before its own prefix.
    return [2, [0x10FFFF - ord(char) for char in value] + [0x110000]]


def page(
    candidates: Iterable[Candidate], *, filter_: Filter, order: Order, limit: int, after: Sequence[Any] | None
) -> tuple[list[Candidate], list[Any] | None]:
    """The first ``limit`` matches after a key, in order, and the key to go on from (``None`` at the end).

    A page continues after a key and not at an offset: versions registered meanwhile neither repeat nor hide others.
    """
    found = heapq.nsmallest(limit + 1, _keyed(candidates, filter_, order, after), key=lambda pair: pair[0])
    shown = found[:limit]
    more = len(found) > limit
    return [candidate for _, candidate in shown], shown[-1][0] if more else None


def _keyed(
    candidates: Iterable[Candidate], filter_: Filter, order: Order, after: Sequence[Any] | None
) -> Iterator[tuple[list[Any], Candidate]]:
    floor = None if after is None else list(after)
    for candidate in candidates:
        if filter_.matches(candidate):
            key = order.key(candidate)
            if floor is None or key > floor:
                yield key, candidate


def check_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid(
            f"limit: {limit} is not between 1 and {MAX_LIMIT}", hint="page through with page_token", field="limit"
        )
    return limit


def make_token(key: list[Any] | None, *question: Any) -> str:
    """``question``: what was asked, so that a token is not continued with another question."""
    if key is None:
        return ""
    return base64.urlsafe_b64encode(msgspec.json.encode([digest(list(question)), key])).decode()


def read_token(token: str, *question: Any) -> list[Any] | None:
    if not token:
        return None
    try:
        asked, key = msgspec.json.decode(base64.urlsafe_b64decode(token.encode()), type=tuple[str, list[Any]])
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise Invalid(
            "page_token: is not one of ours", hint="use the token of the page before", field="page_token"
        ) from error
    if asked != digest(list(question)):
        raise Invalid(
            "page_token: belongs to another filter or order", hint="repeat the search as it was", field="page_token"
        )
    return key
