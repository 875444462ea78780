"""What :class:`~ml_toolbox.state.sql_store.SqlStore` needs of a database: transactions, the time, and words for its SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Values: TypeAlias = Mapping[str, Any]
"""Parameters by name; lists and tuples for ``IN :names``."""

Posting: TypeAlias = Literal["none", "shared", "alone"]
"""Whether a transaction writes to the ledger beside others that do (``shared``), or must see every line that any of them
writes before it goes on (``alone``), or has nothing to do with it."""


class Duplicate(Exception):
    """A key exists already; nothing of the transaction was written. The store says of what."""


class Session(Protocol):
    """One transaction."""

    @property
    def now(self) -> float:
        """The store's time when the transaction began; for one that posts, when its turn at the ledger came."""

    def rows(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        """Execute after everything put off so far, and fetch."""

    def count(self, statement: str, values: Values) -> int:
        """Execute likewise, and count the rows changed."""

    def later(self, statement: str, *many: Values) -> None:
        """Execute for each set of values, in order, before the transaction ends; perhaps in one message with others."""


class Database(Protocol):
    """Both methods raise errors of the one tree, besides what ``body`` raises, and :class:`Duplicate`."""

    def now(self) -> float: ...

    def read(self, statement: str, values: Values) -> Sequence[Mapping[str, Any]]:
        """One statement alone."""

    def read_unbroken(self, statement: str, values: Values, *, table: str) -> Sequence[Mapping[str, Any]]:
        """Likewise for a statement ordered by ``table``'s ``seq`` from ``:after`` on, such that no line can appear later
        between those returned: who goes on after the last one misses none."""

    def write(self, body: Callable[[Session], T], *, posting: Posting = "none") -> T:
        """Run ``body`` in one transaction and return once that is durable. ``body`` may be run again, after a rollback.
        Anything that it raises rolls back."""

    def close(self) -> None: ...
