"""What the loop needs of its memory. Every write returns once it is durable."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from ml_toolbox.engine.rows import Change, Row, Transition, Wish


class Store(Protocol):
    """Rows, leases and history in one transactional place. Safe to use from many threads and many processes at once."""

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0) -> Row:
        """Write a new row, already leased to ``owner`` when one is given. ``Conflict`` when the id exists."""

    def get(self, row_id: str) -> Row:
        """The row. ``NotFound`` when absent."""

    def find(
        self,
        kind: str,
        *,
        name: str | None = None,
        id_prefix: str | None = None,
        states: Collection[str] | None = None,
        without_phases: Collection[str] = (),
        before: str | None = None,
        limit: int = 1000,
    ) -> tuple[Row, ...]:
        """Rows of a kind, newest first (by id, which sorts by time); ``before`` pages on after that id."""

    def due(self, kinds: Collection[str], now: float) -> tuple[str, ...]:
        """Ids of rows that are due at ``now``, most overdue first, whoever holds their lease."""

    def claim(
        self, row_id: str, *, owner: str, now: float, lease_s: float, is_dead: Callable[[str], bool]
    ) -> Row | None:
        """Take the lease with a new, larger token. ``None`` when the row is absent or held by an owner that is neither past
        its time nor, as far as ``is_dead`` can tell, gone."""

    def apply(self, row: Row, change: Change | None, *, now: float, lease_s: float, release: bool) -> Row | None:
        """Write the change - with a line of history when it has a message or another phase or state - if ``row``'s token is
        still the row's own; otherwise write nothing and return ``None``. ``change`` ``None``: only the lease changes.

        ``release`` gives the lease back, unless a wish was made that ``row`` does not show yet: then the lease is kept, and
        the caller, who sees the wish in the row returned, goes on. No wish is ever slept through that way.
        """

    def wish(self, row_id: str, wish: Wish, *, now: float) -> Row:
        """Note what the user wants and make the row due. A weaker wish than the one noted changes nothing. ``NotFound``."""

    def history(self, row_id: str) -> tuple[Transition, ...]:
        """Every transition of the row, oldest first."""

    def close(self) -> None:
        """Give up connections. The store may not be used afterwards."""
