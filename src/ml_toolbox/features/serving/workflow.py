"""Endpoints for the durable loop: the pure life of :mod:`life`, and the calls to the backend that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_toolbox.base.errors import Bug, Throttled, ToolboxError
from ml_toolbox.domain.endpoints import EndpointStatus
from ml_toolbox.engine.absence import STALE_LIST_S
from ml_toolbox.engine.charges import cost_of
from ml_toolbox.engine.ledger import Posting, month_of
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.workflow import Decision, Effect, Event
from ml_toolbox.features.serving import life
from ml_toolbox.features.serving.records import KIND, backend_of, data_of, window_of
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import TAG_INSTALL, TAG_OWNER, Owner

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
        return self._backends(row.place or backend_of(row)).observe(row.name)

    def observe_many(self, rows: Sequence[Row]) -> Sequence[EndpointStatus | ToolboxError]:
        seen: list[EndpointStatus | ToolboxError] = []
        throttled: dict[str, Throttled] = {}
        for row in rows:
            # Who is told to come back later does not ask for the next one now.
            value = throttled.get(backend_of(row)) or self._seen(row)
            if isinstance(value, Throttled):
                throttled[backend_of(row)] = value
            seen.append(value)
        return seen

    def perform(self, row: Row, effect: Effect) -> Any:
        backend = self._backends(row.place or backend_of(row))
        if effect.name == "apply":
            wanted = data_of(row).wanted
            backend.apply(backend.build(wanted, Owner(install=self._install, row=row.id, attempt=1)))
            return effect.arguments["edition"]
        if effect.name == "delete":
            return backend.delete(row.name)
        raise Bug(f"an endpoint has no effect {effect.name!r}")

    def held(self, row: Row) -> int:
        return data_of(row).charge.held

    # -- strays: see engine.collection --------------------------------------------------------------------------------

    def resources(self, place: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        return self._backends(place).list_by_tag({TAG_INSTALL: self._install})

    def owner_of(self, tags: Mapping[str, str]) -> tuple[str, int]:
        return tags.get(TAG_OWNER, ""), 1

    def owns(self, row: Row, resource: str, attempt: int, now: float) -> bool:
        if row.name != resource:
            return False
        return row.phase != life.Phase.DELETED or now - row.updated_at < window_of(row) + STALE_LIST_S

    def stray(self, row: Row, resource: str, attempt: int, now: float) -> Posting:
        data = data_of(row)
        spent = cost_of(data.charge.hourly, now - max(data.delete_sent_at, row.ended_at or 0.0))
        return Posting(
            attempt=data.charges, kind="collect", spent=spent, month=month_of(now), reason=f"stray {resource} {row.id}"
        )

    def remove(self, place: str, resource: str) -> None:
        self._backends(place).delete(resource)

    def _seen(self, row: Row) -> EndpointStatus | ToolboxError:
        try:
            return self.observe(row)
        except ToolboxError as error:
            return error
