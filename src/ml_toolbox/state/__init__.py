"""The control plane's memory: SQLite embedded, one SQLAlchemy schema. Implements the engine's store.

:mod:`schema` holds the tables and their migrations, :mod:`sqlite` the embedded store. Nothing here knows what the rows
mean. SQLAlchemy (0.1 s to import) is loaded only to make a database or to bring an older one forward.
"""
