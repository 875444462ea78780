"""What goes wrong on the way of a request, as RFC 9457 problem documents."""

from __future__ import annotations

import json
from typing import Any, Final

from ml_toolbox.base.errors import ToolboxError

PROBLEM_JSON: Final = b"application/problem+json"

_TITLES: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
REASONS: Final = {200: "OK", **_TITLES}


class Refused(Exception):
    """A request that is not answered with a prediction: status, sentence, and the part of the input that is wrong.

    Values of the request are not repeated, only names of fields: an error may end up in somebody else's log.
    """

    def __init__(
        self, status: int, detail: str, *, field: str = "", hint: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.allow: str = ""
        """Methods the route has, for 405."""

    @classmethod
    def of(cls, error: ToolboxError) -> Refused:
        return cls(error.http_status, error.message, field=error.field, hint=error.hint)

    def body(self, *, v2: bool = False) -> bytes:
        """The document; with ``error`` beside it where the Open Inference Protocol's clients look."""
        problem: dict[str, Any] = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
        }
        if self.field:
            problem["field"] = self.field
        if self.hint:
            problem["hint"] = self.hint
        if v2:
            problem["error"] = self.detail
        return json.dumps(problem).encode()


def shown(name: object, limit: int = 100) -> str:
    """A field name from a request, cut to a length that cannot flood a log."""
    text = str(name)
    return text if len(text) <= limit else text[:limit] + "…"
