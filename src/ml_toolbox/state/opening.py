"""A store from what settings name: a file, or a PostgreSQL server's URL."""

from __future__ import annotations

from pathlib import Path

from ml_toolbox.base.clock import Clock
from ml_toolbox.base.errors import Invalid
from ml_toolbox.state.sql_store import SqlStore


def open_store(place: str | Path, clock: Clock | None = None) -> SqlStore:
    """The store at a path (SQLite) or a ``postgresql://`` URL; its tables are made or brought forward.

    Only the file's store asks the clock: PostgreSQL goes by its server's. Raises :class:`Invalid` for any other kind of URL,
    and what opening raises: ``Unavailable``, ``Denied``, ``Unsupported`` (a newer release's tables), ``MissingExtra``.
    """
    text = str(place)
    if isinstance(place, str) and text.startswith(("postgresql://", "postgres://")):
        from ml_toolbox.state.postgres import PostgresStore

        return PostgresStore(text)
    if isinstance(place, str) and "://" in text:
        scheme = text.partition("://")[0]  # no more of it is shown: a password may follow
        raise Invalid(
            f"state: no store for {scheme}:// URLs",
            hint="a path, or postgresql://USER@HOST/DATABASE",
            field="state",
        )
    from ml_toolbox.state.sqlite import SqliteStore

    return SqliteStore(Path(place), clock=clock)
