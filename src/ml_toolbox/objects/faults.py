"""obstore's exceptions in the toolbox's terms: one table, by class, never by message text."""

from __future__ import annotations

from typing import Final

from ml_toolbox.base.errors import Bug, Conflict, Denied, Invalid, NotFound, ToolboxError, Unavailable, Unsupported

TABLE: Final[dict[str, type[ToolboxError]]] = {
    "NotFoundError": NotFound,
    "FileNotFoundError": NotFound,
    "AlreadyExistsError": Conflict,
    "PreconditionError": Conflict,
    "NotModifiedError": Conflict,
    "PermissionDeniedError": Denied,
    "UnauthenticatedError": Denied,
    "InvalidPathError": Invalid,
    "UnknownConfigurationKeyError": Invalid,
    "NotSupportedError": Unsupported,
    "NotImplementedError": Unsupported,
    "ValueError": Invalid,
    "JoinError": Bug,
    # "A fallback when no variant matches": 5xx after the last retry, time-outs, resets, and malformed answers.
    "GenericError": Unavailable,
    "BaseError": Unavailable,
}
"""Name of an exception class -> ours. A test fails when obstore gains a class that is not here."""

_HINTS: Final[dict[type[ToolboxError], str]] = {
    Denied: "check the credentials of this store and their permissions (mltoolbox doctor shows which are used)",
    Unavailable: "try again; if it stays so, check the endpoint and the network",
    Bug: "please report this with the text above",
}


def translate(error: Exception, key: str, uri: str) -> ToolboxError:
    """Our error for what obstore raised; an exception of no known class is a :class:`Bug` and says so."""
    for kind in type(error).__mro__:
        if (ours := TABLE.get(kind.__name__)) is not None:
            break
    else:
        ours = Bug
    reason = str(error).partition("\n")[0]
    return ours(
        f"{key or 'the store'} in {uri}: {reason}",
        hint=_HINTS.get(ours, ""),
        field="key" if ours is Invalid else "",
        resource=f"{uri}/{key}" if key else uri,
    )
