"""Errors, clock, retry, ids and URIs: what every other layer stands on. Standard library only, no I/O at import."""
