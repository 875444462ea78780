"""What to stop when a budget was lowered below what is already taken. The only way a limit can be passed: reservations are
refused before, and lowering it is the order to stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.rows import Row


class Holder(NamedTuple):
    """A row that holds money."""

    row: Row
    held: int
    """Micro-dollars that its end would set free, at most."""


def to_stop(limits: Iterable[Limit], holders: Sequence[Holder]) -> dict[str, str]:
    """Ids of the rows to stop, and why: the newest first, until what is left fits. Those told to stop already count."""
    reasons: dict[str, str] = {}
    newest = sorted(holders, key=lambda holder: holder.row.id, reverse=True)
    for limit in limits:
        over = limit.taken - limit.most
        if limit.meter != "cost" or over <= 0:
            continue
        mine = [holder for holder in newest if limit.scope in holder.row.scopes and holder.held > 0]
        mine.sort(key=lambda holder: not holder.row.wish)
        for holder in mine:
            if over <= 0:
                break
            over -= holder.held
            if not holder.row.wish:
                reasons.setdefault(
                    holder.row.id,
                    f"budget {limit.name}: {limit.show(limit.taken)} taken of {limit.show(limit.most)}",
                )
    return reasons
