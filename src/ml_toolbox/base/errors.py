"""The one error tree, grouped by what the caller does next.

ToolboxError
├── Invalid          fix the input; names the field            (exit code 2, HTTP 400)
├── NotFound         the named thing does not exist            (404)
├── Conflict         somebody else changed it first; re-read   (409)
├── Denied           credentials or permissions                (403)
├── Untrusted        would run foreign code; needs trust       (403)
├── Unsupported      the platform cannot do it, ever or yet    (422)
│   └── MissingExtra an optional package is not installed
├── NoCapacity       try another place                         (503)
├── Throttled        wait ``retry_after_s``, then again        (429)
├── Unavailable      a passing fault: try again                (503)
├── NotYet           still under way: look again later         (409)
├── BudgetExceeded   raise the budget or ask for less          (402)
├── JobFailed        the user's own program failed             (500)
└── Bug              ours; please report                       (500)

Classification of a foreign error is by its code, never by its message text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class ToolboxError(Exception):
    """Root of all errors that the toolbox raises on purpose.

    Attributes:
        message: what failed, on which thing, in one sentence.
        hint: what to do next (a command, the known values), or "".
        field: dotted path of the offending input, or "".
        provider: name of the provider that answered, or "".
        resource: name or URI of the thing concerned, or "".
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, hint: str = "", field: str = "", provider: str = "", resource: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.provider = provider
        self.resource = resource

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message

    def to_problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document (the REST body and the CLI's ``--json`` error)."""
        problem: dict[str, Any] = {
            "type": f"urn:ml-toolbox:error:{self.code}",
            "title": type(self).__name__,
            "status": self.http_status,
            "detail": self.message,
        }
        for name in ("hint", "field", "provider", "resource"):
            if value := getattr(self, name):
                problem[name] = value
        return problem


class Invalid(ToolboxError):
    """The input is wrong. ``field`` says which part of it."""

    code = "invalid"
    exit_code = 2
    http_status = 400

    @classmethod
    def choice(cls, field: str, value: object, known: Iterable[str]) -> Invalid:
        """An input that is none of the known values; suggests the nearest ones."""
        names = sorted(known)
        near = get_close_matches(str(value), names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known values: {', '.join(names) or 'none'}"
        return cls(f"{field}: {value!r} is not known", hint=hint, field=field)


class NotFound(ToolboxError):
    """The named thing does not exist (or is not visible to these credentials)."""

    code = "not-found"
    http_status = 404


class Conflict(ToolboxError):
    """The thing exists already, or somebody else changed it first: nothing was written."""

    code = "conflict"
    http_status = 409


class Denied(ToolboxError):
    """Credentials are missing, wrong or expired, or a permission is missing."""

    code = "denied"
    http_status = 403


class Untrusted(ToolboxError):
    """Loading this would execute code that the user has not trusted."""

    code = "untrusted"
    http_status = 403


class Unsupported(ToolboxError):
    """The platform or format cannot do this; the message quotes the declared reason."""

    code = "unsupported"
    http_status = 422


class MissingExtra(Unsupported):
    """An optional package is needed and not installed."""

    code = "missing-extra"

    @classmethod
    def named(cls, package: str, extra: str, purpose: str) -> MissingExtra:
        return cls(f"{purpose} needs the package {package!r}", hint=f"pip install 'ml-toolbox[{extra}]'")


class NoCapacity(ToolboxError):
    """The place has no room for this now; another region, size or backend may."""

    code = "no-capacity"
    http_status = 503


class Throttled(ToolboxError):
    """Too many requests; ``retry_after_s`` is the platform's own wish, when it gave one."""

    code = "throttled"
    retryable = True
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.retry_after_s = retry_after_s


class Unavailable(ToolboxError):
    """A passing fault: time-out, reset connection, 5xx. The outcome of a write is unknown."""

    code = "unavailable"
    retryable = True
    http_status = 503


class NotYet(ToolboxError):
    """Still under way: nothing failed, look again later."""

    code = "not-yet"
    http_status = 409


class BudgetExceeded(ToolboxError):
    """Would go past a limit on money or numbers; the message shows the arithmetic.

    ``waits``: the limit is on what exists at one time, so the end of something else makes room.
    """

    code = "budget-exceeded"
    http_status = 402

    def __init__(self, message: str, *, waits: bool = False, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.waits = waits


class JobFailed(ToolboxError):
    """The user's program ended with an error; the message is its one-line failure digest."""

    code = "job-failed"


class Bug(ToolboxError):
    """An internal promise was broken. Never the user's fault."""

    code = "bug"
