"""What the loop remembers of an endpoint, and what callers are shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from ml_toolbox.base import errors
from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointStatus
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.absence import Absence
from ml_toolbox.engine.charges import Charge
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
    since: float = 0.0
    """When the present step was first found to be in trouble; 0: it is not."""
    alarmed: bool = False
    applied_at: float = 0.0
    applied_hourly: int = 0
    """Price of what was applied last, in micro-dollars an hour."""
    absence: Absence = field(default_factory=Absence)
    delete_sent_at: float = 0.0
    """When the deletion that is not confirmed yet was accepted; 0: none is."""
    charge: Charge = field(default_factory=Charge)
    """The present reservation."""
    charges: int = 0
    """How many reservations there were."""
    charged_from: float = 0.0
    """When the present one began."""
    spent: int = 0
    """Micro-dollars of the reservations before."""
    unpaid: bool = False
    """A budget has refused the next reservation."""
    retry_pay_at: float = 0.0


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
    held: Money = field(default_factory=Money)
    """Reserved, and not spent yet."""
    spent: Money = field(default_factory=Money)


def backend_of(row: Row) -> str:
    return str(row.spec["backend"])


def window_of(row: Row) -> float:
    """The backend's visibility window, as it was declared when the endpoint was made, in seconds."""
    return float(row.spec.get("visibility_window_s", 0.0))


def data_of(row: Row) -> EndpointData:
    return msgspec.convert(row.data, EndpointData)


def plain(data: EndpointData) -> dict[str, Any]:
    """As JSON values, as a store keeps them."""
    values: dict[str, Any] = msgspec.to_builtins(data)
    return values
