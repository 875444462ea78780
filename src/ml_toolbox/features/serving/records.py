"""What the loop remembers of an endpoint, and what callers are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ml_toolbox.base import errors
from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointStatus
from ml_toolbox.engine.rows import Row

KIND = "endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as a row keeps it, so that the command that caused it can raise it, in whichever process it ran."""

    code: str
    message: str
    hint: str = ""
    field: str = ""

    @classmethod
    def of(cls, error: ToolboxError) -> Problem:
        return cls(code=error.code, message=error.message, hint=error.hint, field=error.field)

    def error(self, resource: str) -> ToolboxError:
        """The error again, of the class it had."""
        kinds = {
            kind.code: kind
            for kind in vars(errors).values()
            if isinstance(kind, type) and issubclass(kind, ToolboxError)
        }
        return kinds.get(self.code, ToolboxError)(self.message, hint=self.hint, field=self.field, resource=resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointData:
    """The row's ``data``. Fields are only ever added, with defaults, so that older rows stay readable."""

    wanted: EndpointSpec
    """The newest wish."""
    applied: EndpointSpec | None = None
    """The last wish the backend has taken; what is returned to when it refuses a newer one."""
    edition: int = 1
    """Grows with every wish."""
    tries: int = 0
    """Failed tries of the present step in a row."""
    problem: Problem | None = None
    """Why the present step has not succeeded, or the last wish was refused."""
    refused: int = 0
    """Edition of the wish that was refused last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRecord:
    """An endpoint as users see it."""

    id: str
    name: str
    backend: str
    spec: EndpointSpec
    status: EndpointStatus
    created_at: float
    updated_at: float
    message: str = ""


def backend_of(row: Row) -> str:
    return str(row.spec["backend"])


def data_of(row: Row) -> EndpointData:
    return msgspec.convert(row.data, EndpointData)


def plain(data: EndpointData) -> dict[str, Any]:
    """As JSON values, as a store keeps them."""
    values: dict[str, Any] = msgspec.to_builtins(data)
    return values
