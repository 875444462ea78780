"""The control plane's memory: SQLite embedded, PostgreSQL for many workers. Implements the engine's store and books.

:mod:`sql_store` and :mod:`batches` are the one logic, :mod:`statements` the SQL that it asks, :mod:`database` what it needs of
a database; :mod:`sqlite` and :mod:`postgres` are the two databases, with pooled :mod:`connections`. :mod:`schema` holds the
tables, :mod:`ddl` the same as text, :mod:`migrations` the steps that bring an older database forward. Nothing here knows what
the rows mean. :func:`open_store` picks the database.
"""

from __future__ import annotations

from ml_toolbox.state.opening import open_store

__all__ = ["open_store"]
