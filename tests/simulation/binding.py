"""The toolbox's own jobs and endpoints, as the simulator drives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ml_toolbox.base.errors import Bug
from ml_toolbox.domain.endpoints import EndpointSpec
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.domain.offers import Plan
from ml_toolbox.engine.rows import Row
from ml_toolbox.features.serving import records as endpoint_records
from ml_toolbox.features.serving.serving import Serving
from ml_toolbox.features.serving.wishes import ResolvedModel
from ml_toolbox.features.serving.workflow import EndpointWorkflow
from ml_toolbox.features.training import records as job_records
from ml_toolbox.features.training.life import SUBMIT_WITHIN_S
from ml_toolbox.features.training.records import JobOrder, JobRecord
from ml_toolbox.features.training.training import begin
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import JobBackend
from ml_toolbox.testing.simulator.platforms import OVERHEAD_S
from ml_toolbox.testing.simulator.product import Driven, Held, Registry, RowView, Surroundings


class Toolbox:
    """Binds the features to the simulator."""

    def workflows(
        self,
        jobs: Callable[[str], JobBackend],
        endpoints: Callable[[str], EndpointBackend],
        registry: Registry,
        install: str,
    ) -> Sequence[Driven]:
        def register(record: JobRecord) -> str:
            return registry.register(record.id, record.spec.register or "")

        return [JobWorkflow(jobs, register, install), EndpointWorkflow(endpoints, install)]

    def submit(self, around: Surroundings, row_id: str, spec: JobSpec, place: str, scopes: tuple[str, ...]) -> None:
        backend = around.jobs(place)
        order = JobOrder(
            job=spec,
            backend=place,
            idempotency=backend.idempotency,
            hourly=backend.offers(spec)[0].price_hourly.micros,
            overhead_s=OVERHEAD_S,
        )
        begin(around.runner, around.store.now(), around.install, row_id, order, scopes)

    def deploy(self, around: Surroundings, name: str, place: str, version: int) -> None:
        def resolve(model: str) -> ResolvedModel:
            return ResolvedModel(package=f"memory://{model}", model=model)

        serving = Serving(
            around.store,
            around.endpoints,
            resolve=resolve,
            planner=_unplanned,
            install=around.install,
            clock=around.clock,
            runner=around.runner,
        )
        serving.deploy(f"model:{version}", endpoint=name, on=place, weight=50.0 if version == 2 else None)

    def view(self, row: Row) -> RowView:
        if row.kind == endpoint_records.KIND:
            return RowView(row=row, is_deleted=row.phase == "deleted", held=())
        data, order = job_records.data_of(row), job_records.order_of(row)
        return RowView(
            row=row,
            is_deleted=row.phase == "deleted",
            held=tuple(
                Held(attempt=one.number, resource=one.resource, asked_at=one.submitted_at) for one in data.attempts
            ),
            model=data.model,
            wants_model=order.job.register is not None,
            excused=data.failure is not None
            and data.failure.kind == "environment"
            and (row.ended_at or 0.0) - data.attempt.submitted_at > SUBMIT_WITHIN_S,
            user_error_retries=order.job.retry.user_error,
        )


def _unplanned(spec: EndpointSpec, on: str) -> Plan:
    raise Bug("nothing is planned in the simulator")
