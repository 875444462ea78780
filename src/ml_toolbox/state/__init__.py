"""The control plane's memory: SQLite embedded, one SQLAlchemy schema. Implements the engine's store.

:mod:`schema` holds the tables and their migrations, :mod:`sqlite` the embedded store. Nothing here knows what the rows
mean. Importing this package is cheap; SQLAlchemy (0.1 s) is loaded with :mod:`sqlite`.
"""
