"""The ledger added up: by job or endpoint, user, project, backend or month. The sums are the ledger's, to the micro-dollar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.ledger import Books, Line
from ml_toolbox.features.costs.budgets import pages

Group = Literal["job", "user", "project", "profile", "backend", "month"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """One group's sums."""

    key: str
    """The row's id, or what the lines are grouped by; "" for lines that belong to none."""
    name: str = ""
    kind: str = ""
    reserved: Money = field(default_factory=Money)
    """Worst cases asked for over time."""
    held: Money = field(default_factory=Money)
    """Of that, still held for what exists."""
    spent: Money = field(default_factory=Money)
    collected: Money = field(default_factory=Money)
    """Of what was spent, by resources that no row owned any more."""

    def with_line(self, line: Line) -> CostLine:
        said = line.posting
        return replace(
            self,
            reserved=self.reserved + Money(said.held if said.kind == "reserve" else 0),
            held=self.held + Money(said.held),
            spent=self.spent + Money(said.spent),
            collected=self.collected + Money(said.spent if said.kind == "collect" else 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """All groups, the dearest first, and their sum."""

    by: Group
    since: str
    """First month that counts, or ""."""
    lines: tuple[CostLine, ...]
    total: CostLine


class Costs:
    """Reads the ledger."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def report(self, by: Group = "job", *, since: str = "") -> CostReport:
        """Costs by group. ``since``: only attempts begun in this month (``2026-11``, UTC) or later. ``Invalid`` otherwise."""
        if by not in GROUPS:
            raise Invalid.choice("by", by, GROUPS)
        begins = month_begin(since) if since else 0.0
        report = CostReport(by=by, since=since, lines=(), total=CostLine(key="total"))
        for page, scopes in pages(self._books, since=begins):
            # An attempt's lines all carry the month that it began in, so that none is counted in part.
            report = added(report, (line for line in page if line.posting.month >= since), scopes)
        return report


def added(report: CostReport, lines: Iterable[Line], scopes: Mapping[str, tuple[str, ...]]) -> CostReport:
    """The report with these lines of the ledger, too."""
    groups = {line.key: line for line in report.lines}
    total = report.total
    for line in lines:
        key = key_of(report.by, line, scopes.get(line.work_id, ()))
        group = groups.get(key)
        if group is None:
            named = report.by == "job"
            group = CostLine(key=key, name=line.name if named else "", kind=line.kind_of_work if named else "")
        groups[key] = group.with_line(line)
        total = total.with_line(line)
    ordered = sorted(groups.values(), key=lambda group: (-group.spent.micros - group.held.micros, group.key))
    if report.by == "month":
        ordered.sort(key=lambda group: group.key)
    return replace(report, lines=tuple(ordered), total=total)


def key_of(by: Group, line: Line, scopes: tuple[str, ...]) -> str:
    """The group that a line of the ledger belongs to."""
    if by == "job":
        return line.work_id
    if by == "month":
        return line.posting.month
    if by == "backend":
        return line.place
    return next((scope.partition(":")[2] for scope in scopes if scope.startswith(f"{by}:")), "")


def month_begin(month: str) -> float:
    """The first moment of ``2026-11`` (UTC). ``Invalid`` for anything but a month."""
    if re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", month) is None or month.startswith("0000"):
        raise Invalid(f"since: {month!r} is not a month", hint="write YYYY-MM, e.g. 2026-11", field="since")
    return datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC).timestamp()
