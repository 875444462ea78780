"""The feature that commands, servers and Python users call: deploy, shift, scale, look, predict, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import BudgetExceeded, Conflict, NotFound, NotYet, ToolboxError
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from ml_toolbox.domain.jobs import Resources
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Plan
from ml_toolbox.engine.owners import is_dead, this_owner
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.places import OnePlaceEach, Places
from ml_toolbox.engine.rows import Change, Row, Transition, Write
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.store import Store
from ml_toolbox.features.serving.endpoint import Endpoint
from ml_toolbox.features.serving.life import Phase, paid
from ml_toolbox.features.serving.records import KIND, EndpointData, EndpointRecord, backend_of, data_of, plain
from ml_toolbox.features.serving.wishes import ResolvedModel, first_spec, said, variant_named, with_model
from ml_toolbox.features.serving.workflow import Backends, EndpointWorkflow
from ml_toolbox.ports.endpoints import Invocation
from ml_toolbox.ports.jobs import LogChunk, LogLine

_EDIT_LEASE_S = 30.0
_EDIT_WAIT_S = 15.0
"""How long a change waits for another command that is changing the same endpoint."""

Edit = Callable[[EndpointSpec], EndpointSpec]


class Serving:
    """Endpoints on any backend.

    Every method that looks also drives: what a killed command left half-done is finished by the next command that looks.

    Args:
        store: where rows live.
        backends: the endpoint backend of a name; raises ``NotFound`` for an unknown one.
        resolve: ``NAME[:VERSION|@ALIAS]``, folder or URI -> the package's files.
        actor: who deploys; whose budget pays.
        planner: an endpoint's spec and a backend's name -> what would be created, sent and paid.
        runner: drives the rows; by default one of its own.
    """

    def __init__(
        self,
        store: Store,
        backends: Backends,
        *,
        resolve: Callable[[str], ResolvedModel],
        planner: Callable[[EndpointSpec, str], Plan],
        install: str,
        actor: str = "",
        places: Places | None = None,
        pacer: Pacer | None = None,
        clock: Clock | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._store = store
        self._backends = backends
        self._resolve = resolve
        self._planner = planner
        self._actor = actor
        self._clock = clock or SystemClock()
        self.workflow = EndpointWorkflow(backends, install)
        """How the loop drives endpoints."""
        self._places = places or OnePlaceEach()
        self._runner = runner or Runner(store, [self.workflow], places=self._places, pacer=pacer)
        self._owner = this_owner() if runner is None else runner.owner

    # -- changes ------------------------------------------------------------------------------------------------------

    def deploy(
        self,
        model: str,
        endpoint: str,
        *,
        weight: float | None = None,
        replicas: int | None = None,
        on: str = "local",
        variant: str | None = None,
        resources: Resources | None = None,
        port: int | None = None,
    ) -> Endpoint:
        """Serve ``model`` at ``endpoint``, creating it or adding a variant, and return the handle at once.

        ``weight`` gives the new variant that share in percent and the others what is left, in their proportions. Without it
        the new variant takes everything and the others are removed. The same model again only changes its weight.
        """
        resolved = self._resolve(model)

        def edit(spec: EndpointSpec) -> EndpointSpec:
            return with_model(spec, resolved, weight, replicas, variant, resources=resources, port=port)

        existing = self._row(endpoint)
        row = existing or self._create(edit(first_spec(endpoint, resolved, variant)), on)
        if backend_of(row) != on:
            raise Conflict(
                f"endpoint {endpoint} is on {backend_of(row)}, not {on}",
                hint="delete it first, or choose another name",
                resource=endpoint,
            )
        if data_of(row).wanted != edit(data_of(row).wanted):
            row = self._edit(row, edit)
        elif existing is not None:
            row = self._apply_again(row, "asked for again")  # the package's folder may hold something else by now
        self._raise_refusal(row)
        return Endpoint(self, endpoint)

    def plan(
        self,
        model: str,
        endpoint: str,
        *,
        weight: float | None = None,
        replicas: int | None = None,
        on: str = "local",
        variant: str | None = None,
    ) -> Plan:
        """What ``deploy`` would do, without doing it."""
        resolved = self._resolve(model)
        row = self._row(endpoint)
        spec = first_spec(endpoint, resolved, variant) if row is None else data_of(row).wanted
        return self._planner(with_model(spec, resolved, weight, replicas, variant), on)

    def traffic(self, endpoint: str, weights: Mapping[str, float]) -> EndpointRecord:
        """Set the named variants' shares in percent; the others share what is left. Variants go by name or version."""

        def edit(spec: EndpointSpec) -> EndpointSpec:
            return spec.with_weights({variant_named(spec, name).name: weight for name, weight in weights.items()})

        return self._edited(endpoint, edit)

    def scale(self, endpoint: str, replicas: int) -> EndpointRecord:
        """Set the number of replicas."""
        return self._edited(endpoint, lambda spec: replace(spec, replicas=replicas))

    def remove_variant(self, endpoint: str, variant: str) -> EndpointRecord:
        """Take one variant away; the others take over its share."""
        return self._edited(endpoint, lambda spec: spec.without_variant(variant_named(spec, variant).name))

    def delete(self, endpoint: str, *, timeout_s: float = 60.0) -> None:
        """Stop serving and remove everything. ``NotFound`` when there is no such endpoint; ``NotYet`` when the platform
        needs longer: it is finished by later looks."""
        row = self._existing(endpoint)
        self._store.wish(row.id, "delete")
        deadline = self._clock.monotonic() + timeout_s
        while (row := self._runner.drive(row.id)).phase != Phase.DELETED:
            if self._clock.monotonic() > deadline:
                problem = data_of(row).problem
                raise NotYet(
                    f"endpoint {endpoint} is still being deleted: {problem.message if problem else 'no message'}",
                    hint="look again later; it goes on by itself",
                    resource=endpoint,
                )
            self._clock.sleep(0.05)

    # -- looks --------------------------------------------------------------------------------------------------------

    def endpoint(self, name: str) -> Endpoint:
        """The handle. ``NotFound`` when there is no such endpoint."""
        self._existing(name)
        return Endpoint(self, name)

    def list(self) -> tuple[EndpointRecord, ...]:
        """All endpoints, by name."""
        self.tick()
        rows = self._store.find(KIND, without_phases=(Phase.DELETED,), limit=100_000)
        return tuple(self._record(row) for row in sorted(rows, key=lambda row: row.name))

    def show(self, endpoint: str) -> EndpointRecord:
        """One endpoint as seen now. Looking also repairs: a wish half-applied is applied, a vanished endpoint made again."""
        row = self._existing(endpoint)
        if row.phase != Phase.ACTIVE and (row.due_at or 0.0) <= self._store.now():
            row = self._runner.drive(row.id)
        return self._record(row)

    def history(self, endpoint: str) -> tuple[Transition, ...]:
        """Every change of the endpoint, oldest first."""
        return self._store.history(self._existing(endpoint).id)

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        """Server log lines after the cursor."""
        row = self._existing(endpoint)
        return self._backends(row.place or backend_of(row)).logs(endpoint, cursor)

    def follow(self, endpoint: str, *, poll_s: float = 0.3) -> Iterator[LogLine]:
        """Log lines as they come, until the endpoint is deleted."""
        cursor = ""
        while True:
            try:
                chunk = self.logs(endpoint, cursor)
            except NotFound:
                return
            yield from chunk.lines
            if chunk.ended:
                return
            cursor = chunk.cursor
            if not chunk.lines:
                self._clock.sleep(poll_s)

    def predict(self, endpoint: str, rows: Any, *, variant: str = "", timeout_s: float = 30.0) -> Any:
        """See :meth:`Endpoint.predict`."""
        with self.endpoint(endpoint) as handle:
            return handle.predict(rows, variant=variant, timeout_s=timeout_s)

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        """One raw request through the backend."""
        backend = self._backends(backend_of(self._existing(endpoint)))
        return backend.invoke(endpoint, body, content_type=content_type, variant=variant, timeout_s=timeout_s)

    def tick(self) -> int:
        """Drive every endpoint on which something is due. Returns how many were."""
        return self._runner.tick([KIND])

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, endpoint: str) -> Row | None:
        """The living row of that name. A row that is being deleted is finished first."""
        check_name(endpoint, field="endpoint")
        found = self._store.find(KIND, name=endpoint, without_phases=(Phase.DELETED,))
        for row in found:
            if row.phase == Phase.DELETING or row.wish == "delete":
                row = self._runner.drive(row.id)
            if row.phase != Phase.DELETED:
                return row
        return None

    def _existing(self, endpoint: str) -> Row:
        row = self._row(endpoint)
        if row is None:
            rows = self._store.find(KIND, without_phases=(Phase.DELETED,))
            known = ", ".join(sorted({row.name for row in rows})) or "none yet"
            raise NotFound(f"there is no endpoint {endpoint!r}", hint=f"endpoints: {known}", resource=endpoint)
        return row

    def _create(self, spec: EndpointSpec, on: str) -> Row:
        """Insert the row, or return the living one that another command was faster to insert.

        The id carries the number of rows that name has had, all of them deleted in the one look that counts them: of several
        commands that saw the same, only one can insert.
        """
        backend = self._backends(on)  # an unknown backend is refused before anything is written
        while True:
            rows = self._store.find(KIND, name=spec.name, limit=100_000)
            for row in rows:
                if row.phase != Phase.DELETED:
                    return row
            now = self._store.now()
            data, postings = paid(EndpointData(wanted=spec), self._hourly(spec, on).micros, now)
            named = (("user", self._actor), ("backend", on))
            new = Row(
                id=f"{spec.name}.{len(rows) + 1:06d}",
                kind=KIND,
                name=spec.name,
                phase=Phase.APPLYING,
                state=EndpointState.CREATING,
                place=self._places.of(on),
                scopes=("all", *(f"{scope}:{name}" for scope, name in named if name)),
                spec={"backend": on, "visibility_window_s": backend.idempotency.visibility_window_s},
                data=plain(data),
                due_at=now,
                created_at=now,
                updated_at=now,
            )
            try:
                return self._runner.insert(new, postings)
            except Conflict:
                continue  # look again: it is there now

    def _edited(self, endpoint: str, edit: Edit) -> EndpointRecord:
        row = self._edit(self._existing(endpoint), edit)
        self._raise_refusal(row)
        return self._record(row)

    def _edit(self, row: Row, edit: Edit) -> Row:
        """Change the wish under the row's lease, so that of two changes at once none is lost, then apply it."""
        held = self._claimed(row)
        try:
            data = data_of(held)
            if _is_leaving(held):
                raise Conflict(f"endpoint {row.name} is being deleted", hint="try again", resource=row.name)
            wanted = edit(data.wanted)
            hourly = self._hourly(wanted, backend_of(row)).micros
        except ToolboxError:
            self._release(held)
            raise
        if wanted == data.wanted:
            self._release(held)
            return held
        now = self._store.now()
        changed = replace(
            data, wanted=wanted, edition=data.edition + 1, tries=0, problem=None, since=0.0, alarmed=False
        )
        # A dearer wish is paid for before it is applied. A cheaper one is cheaper from now on: applying it takes moments.
        changed, postings = paid(changed, hourly, now) if hourly != data.charge.hourly else (changed, ())
        change = Change(
            phase=Phase.APPLYING,
            state=EndpointState.UPDATING,
            data=plain(changed),
            due_at=now,
            message=f"wish {changed.edition}: {said(wanted)}",
            postings=postings,
        )
        written = self._store.write([Write(row=held, change=change, cause="wish")], lease_s=_EDIT_LEASE_S)[0]
        if isinstance(written, BudgetExceeded):
            self._release(held)
            raise written
        if written is None:
            raise Conflict(f"endpoint {row.name} was changed by somebody else meanwhile", resource=row.name)
        return self._runner.drive(row.id)

    def _release(self, held: Row) -> None:
        self._store.write([Write(row=held, change=None)], lease_s=0.0)

    def _hourly(self, spec: EndpointSpec, on: str) -> Money:
        """Price of all replicas together, in the cheapest place that fits them."""
        offers = self._backends(on).offers(spec)
        return offers[0].price_hourly.times(spec.replicas) if offers else Money()

    def _claimed(self, row: Row) -> Row:
        deadline = self._clock.monotonic() + _EDIT_WAIT_S
        while True:
            held = self._store.claim(row.id, owner=self._owner, lease_s=_EDIT_LEASE_S, is_dead=is_dead)
            if held is not None:
                return held
            if self._clock.monotonic() > deadline:
                raise Conflict(
                    f"endpoint {row.name} is being changed by another command", hint="try again", resource=row.name
                )
            self._clock.sleep(0.02)

    def _raise_refusal(self, row: Row) -> None:
        data = data_of(row)
        if data.problem is not None and data.refused == data.edition:
            raise data.problem.error(row.name)

    def _record(self, row: Row) -> EndpointRecord:
        data = data_of(row)
        return EndpointRecord(
            id=row.id,
            name=row.name,
            backend=backend_of(row),
            spec=data.wanted,
            status=self._status(row, data),
            created_at=row.created_at,
            updated_at=row.updated_at,
            message=data.problem.message if data.problem else "",
            held=Money(data.charge.held),
            spent=Money(data.spent + data.charge.spent * data.charge.open),
        )

    def _status(self, row: Row, data: EndpointData) -> EndpointStatus:
        waiting = EndpointStatus(
            state=EndpointState(row.state) if row.phase != Phase.ACTIVE else EndpointState.UPDATING,
            replicas_wanted=data.wanted.replicas,
            message=data.problem.message if data.problem else "",
        )
        try:
            seen = self._backends(row.place or backend_of(row)).observe(row.name)
        except NotFound:
            if row.phase == Phase.ACTIVE:  # removed behind our back, perhaps: the wish still stands
                self._runner.drive(row.id)
            return waiting
        if row.phase == Phase.APPLYING and seen.state is EndpointState.READY:
            return replace(seen, state=EndpointState.UPDATING, message=waiting.message)
        return seen

    def _apply_again(self, row: Row, why: str) -> Row:
        """The same wish once more: changes nothing unless something else has changed underneath."""
        held = self._claimed(row)
        if _is_leaving(held):
            self._release(held)
            return self._runner.drive(row.id)
        change = Change(
            phase=Phase.APPLYING,
            state=EndpointState.UPDATING,
            data=held.data,
            due_at=self._store.now(),
            message=why,
        )
        self._store.write([Write(row=held, change=change, cause="wish")], lease_s=_EDIT_LEASE_S)
        return self._runner.drive(row.id)


def _is_leaving(row: Row) -> bool:
    """It is being deleted, or is gone: nothing brings it back. Its money is settled, or will be; a new one has its own row."""
    return row.wish == "delete" or row.phase in (Phase.DELETING, Phase.DELETED)
