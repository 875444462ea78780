"""Who holds a lease: one process on one boot of one host, so that its death can be seen without waiting for the lease."""

from __future__ import annotations

from ml_toolbox.base.ids import nonce
from ml_toolbox.base.processes import ProcessIdentity, identity


def this_owner() -> str:
    """A fresh owner id for this process: its identity and a nonce, since one process may hold several runners."""
    return f"{identity()}#{nonce()[:8]}"


def is_dead(owner: str) -> bool:
    """Whether the owner is certainly gone: it was on this host, and its process (or the whole boot) is no more.

    An owner elsewhere, or one that cannot be judged, is not called dead: its lease has to run out. A wrong answer would
    cost nothing but work done twice: the fencing token keeps a paused holder from writing.
    """
    try:
        return ProcessIdentity.parse(owner.partition("#")[0]).is_gone
    except ValueError:
        return False
