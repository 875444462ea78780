"""A workflow small enough to see through: makes one resource in a pretended platform, waits for it, deletes on wish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_toolbox.base.errors import NotFound, ToolboxError, Unavailable
from ml_toolbox.engine.rows import Change, Row
from ml_toolbox.engine.workflow import (
    OBSERVE,
    Claimed,
    Decision,
    Done,
    Effect,
    Event,
    Failed,
    Inserted,
    Observed,
    backoff_s,
)


class Platform:
    """Resources by token, with faults on demand: before the effect, or after it (the answer is lost)."""

    def __init__(self) -> None:
        self.resources: dict[str, str] = {}
        self.made = 0
        self.faults: list[str] = []

    def create(self, token: str) -> str:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise Unavailable("no answer, nothing done")
        if token not in self.resources:
            self.made += 1
            self.resources[token] = f"r{self.made}"
        if fault == "after":
            raise Unavailable("done, but the answer was lost")
        if fault == "defect":
            raise ZeroDivisionError("a defect in an adapter")
        return self.resources[token]


class MakeOne:
    """``new`` -> ``made`` (observed until ready) -> ``over``; ``delete`` removes the resource again."""

    kind = "one"
    effects = ("create", "delete")

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.batches: list[int] = []

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        data = dict(row.data)
        match row.phase, event:
            case _, Failed(error=error):
                return self._failed(row, error, now)
            case "new", Inserted() | Claimed():
                return _to("new", data, now, effect=Effect("create", {"token": row.id}))
            case "new", Done(result=resource):
                return _to("made", {**data, "resource": resource}, now, effect=OBSERVE)
            case "made", Inserted() | Claimed():
                effect = Effect("delete") if row.wish == "delete" else OBSERVE
                return _to("made", data, now, effect=effect)
            case "made", Observed(value=True):
                return Decision(change=Change(phase="over", state="over", data=data, ended=True))
            case "made", Observed():
                return _to("made", data, now + 1)
            case _, Done():
                return Decision(change=Change(phase="gone", state="gone", data=data, ended=True))
        if row.wish == "delete" and row.phase == "over":
            return _to("over", data, now, effect=Effect("delete"))
        return Decision(change=Change(phase=row.phase, state=row.state, data=data))

    def observe(self, row: Row) -> bool:
        if row.data["resource"] not in self.platform.resources.values():
            raise NotFound("it is not there")
        return not row.name.startswith("slow")

    def observe_many(self, rows: Sequence[Row]) -> list[bool | ToolboxError]:
        self.batches.append(len(rows))
        return [self._seen(row) for row in rows]

    def _seen(self, row: Row) -> bool | ToolboxError:
        try:
            return self.observe(row)
        except ToolboxError as error:
            return error

    def perform(self, row: Row, effect: Effect) -> Any:
        if effect.name == "create":
            return self.platform.create(effect.arguments["token"])
        self.platform.resources.pop(row.id, None)
        return None

    def _failed(self, row: Row, error: ToolboxError, now: float) -> Decision:
        data = {**row.data, "tries": row.data.get("tries", 0) + 1, "problem": error.message}
        if not error.retryable:
            return Decision(change=Change(phase="broken", state="broken", data=data, ended=True, message=error.message))
        return _to(row.phase, data, now + backoff_s(row.data.get("tries", 0), row.id))


def _to(phase: str, data: dict[str, Any], due_at: float, *, effect: Effect | None = None) -> Decision:
    return Decision(change=Change(phase=phase, state=phase, data=data, due_at=due_at), effect=effect)


def new_row(name: str, now: float, row_id: str) -> Row:
    return Row(id=row_id, kind="one", name=name, phase="new", state="new", due_at=now, created_at=now, updated_at=now)
