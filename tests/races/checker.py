"""Whether a ledger is one that limits allow: replayed line by line, by other arithmetic than the product's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ml_toolbox.engine.ledger import Limit, Line

Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Somebody changed a limit: certainly after line ``after`` and before any line behind ``until``."""

    key: Key
    most: int | None
    after: int
    until: int


def violations(
    lines: Sequence[Line], scopes: Mapping[str, Sequence[str]], changes: Sequence[Changed], limits: Sequence[Limit]
) -> list[str]:
    """What is wrong: a reservation that went past every limit that can have been in force when it was made, or a balance that
    is not the sum of its lines. ``changes`` of one limit are in the order in which they were made."""
    found: list[str] = []
    by_key: dict[Key, list[Changed]] = defaultdict(list)
    for changed in changes:
        by_key[changed.key].append(changed)
    taken: dict[tuple[Key, str], int] = defaultdict(int)
    for line in lines:
        for key in by_key:
            if key[0] not in scopes[line.work_id]:
                continue
            month = line.posting.month if key[2] else ""
            grown = _amount(line, key[1])
            taken[key, month] += grown
            if line.posting.kind != "reserve" or grown <= 0:
                continue
            most = _most(by_key[key], line.seq)
            if most is not None and taken[key, month] > most:
                found.append(f"line {line.seq} of {line.work_id}: {key} is at {taken[key, month]}, {most} allowed")
    for limit in limits:
        key = (limit.scope, limit.meter, limit.period)
        total = sum(
            _amount(line, limit.meter)
            for line in lines
            if limit.scope in scopes[line.work_id] and (not limit.period or line.posting.month == limit.month)
        )
        if limit.held + limit.spent != total:
            found.append(f"{key} says {limit.held} + {limit.spent}; its lines add up to {total}")
    return found


def _amount(line: Line, meter: str) -> int:
    posting = line.posting
    return {"cost": posting.held + posting.spent, "cost-per-hour": posting.hourly, "running": posting.running}[meter]


def _most(changes: Sequence[Changed], seq: int) -> int | None:
    """The highest limit that can have been in force at that line; ``None`` for no limit."""
    highest = -1
    for number, changed in enumerate(changes):
        followed = changes[number + 1] if number + 1 < len(changes) else None
        began_before = changed.after < seq
        still_there = followed is None or seq <= followed.until
        if began_before and still_there:
            if changed.most is None:
                return None
            highest = max(highest, changed.most)
    return None if highest < 0 else highest
