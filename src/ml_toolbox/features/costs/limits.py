"""What a user may say about a limit. Pure; every refusal names the field."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import check_name
from ml_toolbox.engine.ledger import Meter, Period

SCOPES = ("user", "project", "profile", "backend")
_LONGEST = 128  # of what a scope names; the store keeps 160 characters for both together
_LARGEST = Decimal(1_000_000_000)  # dollars, or things: sums of such amounts stay far inside 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One limit as asked for."""

    scope: str
    meter: Meter
    period: Period
    most: int
    """Micro-dollars (an hour), or a number of things."""


def wanted_limits(
    scope: str,
    *,
    cost: str | float | None = None,
    month: bool = False,
    cost_per_hour: str | float | None = None,
    running: str | int | None = None,
) -> tuple[Wanted, ...]:
    """The limits that these options ask for. Raises ``Invalid`` naming the field for anything that is no limit."""
    checked_scope(scope)
    if month and cost is None:
        raise Invalid("month: only a limit on cost can be monthly", hint="add --cost AMOUNT", field="month")
    wanted = []
    if cost is not None:
        period: Period = "month" if month else ""
        wanted.append(Wanted(scope=scope, meter="cost", period=period, most=_dollars(cost, "cost")))
    if cost_per_hour is not None:
        most = _dollars(cost_per_hour, "cost-per-hour")
        wanted.append(Wanted(scope=scope, meter="cost-per-hour", period="", most=most))
    if running is not None:
        wanted.append(Wanted(scope=scope, meter="running", period="", most=_count(running, "running")))
    if not wanted:
        raise Invalid("budget: no limit is given", hint="give --cost, --cost-per-hour or --running", field="cost")
    return tuple(wanted)


def checked_scope(scope: str) -> str:
    """``all``, or ``user:NAME``, ``project:NAME``, ``profile:NAME``, ``backend:NAME``. ``Invalid`` otherwise."""
    if scope == "all":
        return scope
    kind, separator, name = scope.partition(":")
    if not separator or kind not in SCOPES:
        known = ", ".join(f"{one}:NAME" for one in SCOPES)
        raise Invalid(f"scope: {scope!r} is nobody's budget", hint=f"write all, {known}", field="scope")
    if kind == "user":  # whatever a system calls its users
        if not name or len(name) > _LONGEST or not name.isprintable() or name != name.strip():
            raise Invalid(f"scope: {name!r} is no user's name", field="scope")
    elif kind == "backend":  # with its region, where it has several
        check_name(name.partition("@")[0], field="scope")
    else:
        check_name(name, field="scope")
    return scope


def _dollars(value: str | float, field: str) -> int:
    """Micro-dollars, rounded down: a limit may never be wider than it was said."""
    amount = _number(value, field, "an amount in US dollars")
    micros = int((amount * 1_000_000).to_integral_value(ROUND_FLOOR))
    if micros < 1:
        raise Invalid(f"{field} must be more than 0, not {value}", hint=_LIFT, field=field)
    return micros


def _count(value: str | int, field: str) -> int:
    number = _number(value, field, "a whole number")
    if number != number.to_integral_value():
        raise Invalid(f"{field} must be a whole number, not {value}", field=field)
    if number < 1:
        raise Invalid(f"{field} must be at least 1, not {value}", hint=_LIFT, field=field)
    return int(number)


_LIFT = "a limit is lifted with: mltoolbox budgets remove"


def _number(value: str | float, field: str, what: str) -> Decimal:
    text = str(value).strip().removeprefix("$")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise Invalid(f"{field}: {value!r} is not {what}", field=field) from None
    if isinstance(value, bool) or not number.is_finite():
        raise Invalid(f"{field}: {value!r} is not {what}", field=field)
    if number > _LARGEST:
        raise Invalid(f"{field}: {value} is more than any budget can be", field=field)
    return number
