"""The toolbox's own jobs and endpoints, as the simulator drives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.engine.rows import Row
from ml_toolbox.features.training import records as jobs_records
from ml_toolbox.features.training.records import JobOrder, JobRecord
from ml_toolbox.features.training.training import begin
from ml_toolbox.features.training.workflow import JobWorkflow
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import JobBackend
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

        return [JobWorkflow(jobs, register, install)]

    def submit(self, around: Surroundings, row_id: str, spec: JobSpec, place: str, scopes: tuple[str, ...]) -> None:
        backend = around.jobs(place)
        price = backend.offers(spec)[0].price_hourly
        order = JobOrder(
            job=spec,
            backend=place,
            idempotency=backend.idempotency,
            hourly=price.micros,
            overhead_s=60.0,
        )
        begin(around.runner, around.store.now(), around.install, row_id, order, scopes)

    def deploy(self, around: Surroundings, name: str, place: str, version: int) -> None:
        return

    def view(self, row: Row) -> RowView:
        data, order = jobs_records.data_of(row), jobs_records.order_of(row)
        return RowView(
            row=row,
            is_deleted=row.phase == "deleted",
            held=tuple(Held(attempt=one.number, resource=one.resource) for one in data.attempts),
            model=data.model,
            wants_model=order.job.register is not None,
            user_error_retries=order.job.retry.user_error,
        )
