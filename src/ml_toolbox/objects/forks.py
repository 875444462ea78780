"""Refuse to work in a forked child instead of hanging there.

obstore runs its requests on threads that a fork does not copy: a child that inherits a used store waits for ever, with the
same store and with a new one (obstore's maintainers: "not fork safe"). The local store would survive, but keeps the same
rule, so that a program which works on files does not begin to hang when it moves to a bucket.
"""

from __future__ import annotations

import os

from ml_toolbox.base.errors import Bug

_generation = 0


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


class ForkGuard:
    """Remembers in which process it was first passed; cheap enough for every call (one comparison of integers)."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: int | None = None

    def check(self, uri: str) -> None:
        """Raises :class:`Bug` in a process forked after the first call."""
        if self._first is None:
            self._first = _generation
        elif self._first != _generation:
            raise Bug(
                f"the object store {uri} was used before this process was forked, and cannot be used after",
                hint="start workers with multiprocessing.get_context('spawn') or 'forkserver', or fork before the first use",
                resource=uri,
            )


CLIENT_LIBRARY = ForkGuard()
"""The one guard of everything that runs on obstore's threads: they belong to the process, not to a store."""
