"""Jobs for the durable loop: the pure life of :mod:`life`, and the calls to the backend that it asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ml_toolbox.base.errors import Bug, Conflict, NotFound, Throttled, ToolboxError
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.engine.absence import STALE_LIST_S
from ml_toolbox.engine.charges import cost_of
from ml_toolbox.engine.ledger import Posting, month_of
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.workflow import Decision, Effect, Event
from ml_toolbox.features.training.life import EFFECTS, JobLife, Phase
from ml_toolbox.features.training.records import KIND, JobRecord, data_of, order_of, record_of
from ml_toolbox.ports.jobs import (
    TAG_ATTEMPT,
    TAG_INSTALL,
    TAG_OWNER,
    JobBackend,
    JobObservation,
    JobRequest,
    ObserveMany,
    Owner,
)

Backends = Callable[[str], JobBackend]
Register = Callable[[JobRecord], str]


class JobWorkflow:
    """One kind of row for the engine.

    Args:
        register: makes the finished job's model a version in a registry and returns ``NAME:VERSION``. Called again after a
            crash: must return the version it made before (the record's ``id`` tells).
    """

    kind = KIND
    effects = EFFECTS

    def __init__(self, backends: Backends, register: Register | None, install: str) -> None:
        self._backends = backends
        self._register = register
        self._install = install
        self._life = JobLife(install)

    def decide(self, row: Row, event: Event, now: float) -> Decision:
        return self._life.decide(row, event, now)

    def observe(self, row: Row) -> JobObservation:
        return self._backend(row).observe(_looked_at(row))

    def observe_many(self, rows: Sequence[Row]) -> Sequence[JobObservation | ToolboxError]:
        groups: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            groups[row.place or order_of(row).backend].append(number)
        seen: list[JobObservation | ToolboxError] = [Bug("not looked at")] * len(rows)
        for numbers in groups.values():
            for number, value in zip(numbers, self._seen([rows[number] for number in numbers]), strict=True):
                seen[number] = value
        return seen

    def perform(self, row: Row, effect: Effect) -> Any:
        backend = self._backend(row)
        data, order = data_of(row), order_of(row)
        match effect.name:
            case "submit":
                return self._submit(row, backend)
            case "look-up":
                return sorted(_find(backend, self._owned(row.id, data.attempt.number)))
            case "stop":
                return backend.stop(data.attempt.resource, grace_s=order.job.limits.stop_grace_s)
            case "register":
                if self._register is None:
                    raise Bug("no registry was given to register the model in")
                return self._register(record_of(row))
            case "delete":
                return backend.delete(effect.arguments["resource"])
        raise Bug(f"a job has no effect {effect.name!r}")

    def request(self, row_id: str, job: JobSpec, code_sha256: str, backend: JobBackend, attempt: int) -> JobRequest:
        """The request of one attempt: the same arguments always give the same request."""
        tagged = replace(job, tags={**job.tags, "mlt:code": code_sha256})
        return backend.build(tagged, Owner(install=self._install, row=row_id, attempt=attempt))

    def held(self, row: Row) -> int:
        return data_of(row).held

    # -- strays: see engine.collection --------------------------------------------------------------------------------

    def resources(self, place: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        return self._backends(place).list_by_tag({TAG_INSTALL: self._install})

    def owner_of(self, tags: Mapping[str, str]) -> tuple[str, int]:
        attempt = tags.get(TAG_ATTEMPT, "")
        return tags.get(TAG_OWNER, ""), int(attempt) if attempt.isdigit() else 0

    def owns(self, row: Row, resource: str, attempt: int, now: float) -> bool:
        data, order = data_of(row), order_of(row)
        mine = next((one for one in data.attempts if one.number == attempt), None)
        if mine is None:
            return False
        if mine.resource == resource:
            gone_s = order.idempotency.visibility_window_s + STALE_LIST_S
            return row.phase != Phase.DELETED or now - row.updated_at < gone_s
        creating = row.phase in (Phase.SUBMITTING, Phase.UNKNOWN) and mine.number == data.attempt.number
        return creating and not mine.resource

    def stray(self, row: Row, resource: str, attempt: int, now: float) -> Posting:
        data, order = data_of(row), order_of(row)
        mine = next((one for one in data.attempts if one.number == attempt), data.attempt)
        longest_s = mine.limit_s + order.overhead_s
        spent = cost_of(order.hourly, min(max(0.0, now - mine.submitted_at), longest_s))
        if mine.resource == resource:
            # Its own, which outlived its deletion: the attempt has paid, in full where its end was seen.
            ended = mine is not data.attempt or (data.observation is not None and data.observation.state.is_final)
            spent = 0 if ended else max(0, spent - mine.charge.spent)
        month = mine.charge.month or month_of(now)
        return Posting(attempt=attempt, kind="collect", spent=spent, month=month, reason=f"stray {resource}")

    def remove(self, place: str, resource: str) -> None:
        self._backends(place).delete(resource)

    def _backend(self, row: Row) -> JobBackend:
        return self._backends(row.place or order_of(row).backend)

    def _seen(self, rows: Sequence[Row]) -> Iterator[JobObservation | ToolboxError]:
        try:
            backend = self._backend(rows[0])
            if isinstance(backend, ObserveMany) and len(rows) > 1:
                ids = [_looked_at(row) for row in rows]
                found = backend.observe_many(ids)
                unknown = NotFound("the backend does not know the job")
                yield from (found.get(one, unknown) for one in ids)
                return
        except ToolboxError as error:
            yield from [error] * len(rows)
            return
        throttled: Throttled | None = None
        for row in rows:
            if throttled is not None:  # who is told to come back later does not ask for the next one now
                yield throttled
                continue
            try:
                yield backend.observe(_looked_at(row))
            except Throttled as error:
                throttled = error
                yield error
            except ToolboxError as error:
                yield error

    def _submit(self, row: Row, backend: JobBackend) -> str:
        order, attempt = order_of(row), data_of(row).attempt
        job = order.job
        if attempt.limit_s:
            job = replace(job, limits=replace(job.limits, max_duration_s=attempt.limit_s))
        request = self.request(row.id, job, order.code_sha256, backend, attempt.number)
        try:
            return backend.submit(request, attempt.token)
        except Conflict:
            # Another release built the body a little differently, or the name is all that it goes by: ours all the same.
            found = _find(backend, self._owned(row.id, attempt.number))
            if not found:
                raise
            return min(found)

    def _owned(self, row_id: str, attempt: int) -> dict[str, str]:
        return {TAG_INSTALL: self._install, TAG_OWNER: row_id, TAG_ATTEMPT: str(attempt)}


def _find(backend: JobBackend, tags: dict[str, str]) -> list[str]:
    """The resources that carry these owner tags."""
    return [resource for resource, _ in backend.list_by_tag(tags)]


def _looked_at(row: Row) -> str:
    """The resource that an observation is about: the present attempt's, or the one being deleted."""
    data = data_of(row)
    if row.phase == Phase.DELETING and data.deleted < len(data.attempts):
        return data.attempts[data.deleted].resource
    return data.attempt.resource
