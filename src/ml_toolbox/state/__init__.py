"""The control plane's memory: SQLite embedded, one SQLAlchemy schema. Implements the engine's store.

:mod:`schema` holds the tables and their migrations, :mod:`ddl` the same tables as text, :mod:`statements` the SQL that is
asked of them, :mod:`sqlite` the embedded store with its :mod:`connections`. Nothing here knows what the rows mean.
SQLAlchemy is loaded with :mod:`schema` only, which is needed to migrate an older database.
"""
