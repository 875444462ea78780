"""The control plane's memory: SQLite embedded, one SQLAlchemy schema. Implements the engine's store."""
