"""What the loop needs of its memory. Every write returns once it is durable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.engine.ledger import Posting
from ml_toolbox.engine.rows import Occurrence, Row, Transition, Wish, Write

Written: TypeAlias = Row | BudgetExceeded | None
"""What became of one write: the row as it now is; the limit that refused it; ``None`` when the lease is somebody else's."""


class Store(Protocol):
    """Rows, leases, history and ledger in one transactional place. Safe to use from many threads and processes at once.

    Time is the store's own - the database server's where there is one - so that workers whose clocks disagree agree on
    leases and on what is due.
    """

    def now(self) -> float:
        """The time that leases and ``due_at`` are compared with, in seconds since the epoch."""

    def insert(self, row: Row, *, owner: str = "", lease_s: float = 0.0, postings: Sequence[Posting] = ()) -> Row:
        """Write a new row with the first lines of its ledger, already leased to ``owner`` when one is given.

        ``Conflict`` when the id exists; ``BudgetExceeded`` when a limit refuses; nothing is written then.
        """

    def get(self, row_id: str) -> Row:
        """The row. ``NotFound`` when absent."""

    def get_many(self, row_ids: Collection[str]) -> dict[str, Row]:
        """Those of the rows that there are, by id, as of one moment."""

    def find(
        self,
        kind: str | None,
        *,
        name: str | None = None,
        id_prefix: str | None = None,
        states: Collection[str] | None = None,
        without_phases: Collection[str] = (),
        place: str | None = None,
        before: str | None = None,
        limit: int = 1000,
    ) -> tuple[Row, ...]:
        """Rows of a kind (``None``: of any), newest first (by id, which sorts by time); ``before`` pages on after that id."""

    def claim(self, row_id: str, *, owner: str, lease_s: float, is_dead: Callable[[str], bool]) -> Row | None:
        """Take the lease with a new, larger token, due or not. ``None`` when the row is absent or held by an owner that is
        neither past its time nor, as far as ``is_dead`` can tell, gone."""

    def claim_due(
        self,
        kinds: Collection[str],
        *,
        owner: str,
        lease_s: float,
        is_dead: Callable[[str], bool],
        due_before: float,
        limit: int,
        elsewhere: Collection[str] = (),
    ) -> tuple[Row, ...]:
        """Likewise for up to ``limit`` rows that were due at ``due_before``, most overdue first, in one transaction. Rows that
        others hold, or are taking at this moment, are passed over, never waited for; so are rows of the places ``elsewhere``,
        which the caller cannot reach."""

    def write(self, writes: Sequence[Write], *, lease_s: float) -> list[Written]:
        """Write each change - row, line of history, ledger - if its row's token is still the row's own; all of them in one
        transaction, each on its own merits. History gets a line when the change has a message, or another phase or state.

        ``release`` gives the lease back, unless a wish was made that ``row`` does not show yet: then the lease is kept, and
        the caller, who sees the wish in the row returned, goes on. The row stays due as well, since that caller may die. No
        wish is ever slept through that way.
        """

    def renew(self, owner: str, *, lease_s: float) -> int:
        """Let every lease that this owner still holds run from now again. Returns how many those are."""

    def wish(self, row_id: str, wish: Wish, *, reason: str = "") -> Row:
        """Note what is wanted and make the row due. A weaker wish than the one noted changes nothing. ``NotFound``."""

    def history(self, row_id: str) -> tuple[Transition, ...]:
        """Every transition of the row, oldest first."""

    def occurrences(self, *, after: int = 0, limit: int = 1000) -> tuple[Occurrence, ...]:
        """Lines of all histories, oldest first, from the one after ``after`` on."""

    def places(self) -> tuple[str, ...]:
        """Every place that a row was ever written for: where resources of ours may exist."""

    def forget_place(self, place: str) -> bool:
        """Look there no more, until a row is written for it again. False, and nothing changes, while a row lives there."""

    def remembered(self, name: str, first: str) -> str:
        """What is kept under the name, for ever: ``first`` of whoever asked first, also of many at once."""

    def close(self) -> None:
        """Give up connections. The store may not be used afterwards."""
