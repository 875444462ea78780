"""The life of an endpoint as the durable loop drives it. ``decide`` is pure; ``perform`` calls the backend.

applying ──▶ active          (a new wish: applying again)
    │ refused and nothing served before        any ──▶ deleting ──▶ deleted
    └──▶ deleting

A wish is written before the backend hears of it, and applying is idempotent: after a crash anywhere the next look applies
the newest wish again. Deleting never gives up: what may cost money is not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, assert_never

from ml_toolbox.base.errors import Bug, ToolboxError
from ml_toolbox.domain.endpoints import EndpointState
from ml_toolbox.engine.rows import Change, Row
from ml_toolbox.engine.workflow import Claimed, Decision, Done, Effect, Event, Failed, Inserted, Observed, backoff_s
from ml_toolbox.features.serving.records import KIND, EndpointData, Problem, backend_of, data_of, plain
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import Owner

Backends = Callable[[str], EndpointBackend]


class Phase(StrEnum):
    """What the loop does next. Rows of every release are read by every later one: words are added, never changed."""

    APPLYING = "applying"
    ACTIVE = "active"
    DELETING = "deleting"
    DELETED = "deleted"


DELETE = Effect("delete")


class EndpointWorkflow:
    """One kind of row for the engine."""

    kind = KIND

    def __init__(self, backends: Backends, install: str) -> None:
        self._backends = backends
        self._install = install

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        data = data_of(row)
        match row.phase:
            case Phase.APPLYING:
                return _applying(row, data, event, now)
            case Phase.ACTIVE:
                return _delete(row, data) if row.wish == "delete" else _rest(row, data)
            case Phase.DELETING:
                return _deleting(row, data, event, now)
            case Phase.DELETED:
                return _rest(row, data)
        raise Bug(f"endpoint {row.name} is in the unknown phase {row.phase!r}")

    def observe(self, row: Row) -> Any:
        return self._backends(backend_of(row)).observe(row.name)

    def perform(self, row: Row, effect: Effect) -> Any:
        backend = self._backends(backend_of(row))
        if effect.name == "apply":
            wanted = data_of(row).wanted
            backend.apply(backend.build(wanted, Owner(install=self._install, row=row.id, attempt=1)))
            return effect.arguments["edition"]
        if effect.name == "delete":
            return backend.delete(row.name)
        raise Bug(f"an endpoint has no effect {effect.name!r}")


def _applying(row: Row, data: EndpointData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed():
            if row.wish == "delete":
                return _delete(row, data)
            return _change(row, data, Phase.APPLYING, row.state, effect=Effect("apply", {"edition": data.edition}))
        case Done():
            applied = replace(data, applied=data.wanted, tries=0, problem=None)
            change = _change(row, applied, Phase.ACTIVE, EndpointState.READY, message=f"applied wish {data.edition}")
            return _delete(row, applied) if row.wish == "delete" else change
        case Failed(error=error):
            if error.retryable or row.wish == "delete":
                return _later(row, data, error, now, Phase.APPLYING)
            return _refused(row, data, error)
        case Observed():
            raise Bug("an endpoint being applied is not observed")
    assert_never(event)


def _refused(row: Row, data: EndpointData, error: ToolboxError) -> Decision:
    refused = replace(data, tries=0, problem=Problem.of(error), refused=data.edition)
    if data.applied is None:
        return _delete(row, refused, state=EndpointState.FAILED)  # what a half-done create may have left goes, too
    back = replace(refused, wanted=data.applied)
    return _change(row, back, Phase.ACTIVE, EndpointState.READY, message=f"refused: {error.message}")


def _deleting(row: Row, data: EndpointData, event: Event, now: float) -> Decision:
    match event:
        case Inserted() | Claimed() | Observed():
            return _delete(row, data)
        case Done():
            state = EndpointState.FAILED if data.refused == data.edition else EndpointState.DELETED
            gone = Change(phase=Phase.DELETED, state=state, data=plain(data), ended=True, message="deleted")
            return Decision(change=gone)
        case Failed(error=error):
            return _later(row, data, error, now, Phase.DELETING)
    assert_never(event)


def _delete(row: Row, data: EndpointData, state: EndpointState = EndpointState.DELETING) -> Decision:
    return _change(row, data, Phase.DELETING, state, effect=DELETE)


def _later(row: Row, data: EndpointData, error: ToolboxError, now: float, phase: Phase) -> Decision:
    waiting = replace(data, tries=data.tries + 1, problem=Problem.of(error))
    pause_s = getattr(error, "retry_after_s", None) or backoff_s(data.tries)
    return _change(row, waiting, phase, row.state, message=error.message, due_at=now + pause_s)


def _rest(row: Row, data: EndpointData) -> Decision:
    ended = row.phase == Phase.DELETED
    return Decision(change=Change(phase=row.phase, state=row.state, data=plain(data), ended=ended))


def _change(
    row: Row,
    data: EndpointData,
    phase: Phase,
    state: str,
    *,
    message: str = "",
    effect: Effect | None = None,
    due_at: float | None = None,
) -> Decision:
    # While something is under way the row is due: whoever looks after a crash takes it up at once.
    due = due_at if due_at is not None else row.updated_at if effect is not None else None
    return Decision(
        change=Change(phase=phase, state=state, data=plain(data), due_at=due, message=message), effect=effect
    )
