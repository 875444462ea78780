"""Endpoints for the durable loop: the pure life of :mod:`life`, and the calls to the backend that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ml_toolbox.base.errors import Bug, ToolboxError
from ml_toolbox.domain.endpoints import EndpointStatus
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.workflow import Decision, Effect, Event
from ml_toolbox.features.serving import life
from ml_toolbox.features.serving.records import KIND, backend_of, data_of
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import Owner

Backends = Callable[[str], EndpointBackend]


class EndpointWorkflow:
    """One kind of row for the engine."""

    kind = KIND
    effects = life.EFFECTS

    def __init__(self, backends: Backends, install: str) -> None:
        self._backends = backends
        self._install = install

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        return life.decide(row, event, now)

    def observe(self, row: Row) -> EndpointStatus:
        return self._backends(backend_of(row)).observe(row.name)

    def observe_many(self, rows: Sequence[Row]) -> Sequence[EndpointStatus | ToolboxError]:
        return [self._seen(row) for row in rows]

    def perform(self, row: Row, effect: Effect) -> Any:
        backend = self._backends(backend_of(row))
        if effect.name == "apply":
            wanted = data_of(row).wanted
            backend.apply(backend.build(wanted, Owner(install=self._install, row=row.id, attempt=1)))
            return effect.arguments["edition"]
        if effect.name == "delete":
            return backend.delete(row.name)
        raise Bug(f"an endpoint has no effect {effect.name!r}")

    def _seen(self, row: Row) -> EndpointStatus | ToolboxError:
        try:
            return self.observe(row)
        except ToolboxError as error:
            return error
