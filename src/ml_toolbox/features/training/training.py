"""The feature that commands, servers and Python users call: submit, look, follow, stop, delete."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import (
    BudgetExceeded,
    Invalid,
    JobFailed,
    NotFound,
    NotYet,
    ToolboxError,
    Unsupported,
)
from ml_toolbox.base.ids import new_ulid
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.places import OnePlaceEach, Places
from ml_toolbox.engine.rows import Row, Transition
from ml_toolbox.engine.runner import Runner
from ml_toolbox.engine.store import Store
from ml_toolbox.features.training import snapshot
from ml_toolbox.features.training.attempts import opened, worst
from ml_toolbox.features.training.life import Phase
from ml_toolbox.features.training.prepare import ResolveInput, no_script, prepare
from ml_toolbox.features.training.records import (
    KIND,
    JobData,
    JobOrder,
    JobRecord,
    data_of,
    order_of,
    payers,
    plain,
    record_of,
)
from ml_toolbox.features.training.workflow import Backends, JobWorkflow, Register
from ml_toolbox.ports.jobs import JobObservation, LogChunk, LogLine, Preempts


class Training:
    """Jobs on any backend.

    Every method that looks also drives: what a killed command left half-done is finished by the next command that looks.

    Args:
        store: where rows live.
        backends: the job backend of a name; raises ``NotFound`` for an unknown one.
        home: ``$MLTOOLBOX_HOME``; frozen sources go to ``code`` below it.
        install: id of this installation, for names and owner tags.
        actor: who submits; whose budget pays.
        register: makes a finished job's model a registry version and returns ``NAME:VERSION``; idempotent by the job's id.
        resolve_input: turns ``data:NAME[:VERSION]`` into files.
    """

    def __init__(
        self,
        store: Store,
        backends: Backends,
        *,
        home: Path,
        install: str,
        actor: str = "",
        places: Places | None = None,
        pacer: Pacer | None = None,
        register: Register | None = None,
        resolve_input: ResolveInput | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._backends = backends
        self._home = home
        self._code = home / "code"
        self._install = install
        self._actor = actor
        self._register = register
        self._resolve_input = resolve_input
        self._clock = clock or SystemClock()
        self.workflow = JobWorkflow(backends, register, install)
        """How the loop drives jobs."""
        self._places = places or OnePlaceEach()
        self._runner = Runner(store, [self.workflow], places=self._places, pacer=pacer)

    def submit(self, spec: JobSpec, on: str = "local") -> Job:
        """Freeze the sources, write the intent, start the job; returns once the backend has it.

        From the moment the intent is written the job is started exactly once, whatever happens to this process. Raises
        ``Invalid``, ``Unsupported`` or ``BudgetExceeded`` before anything is written; a refusal by the backend after that is
        the job's failure. A limit on what exists at one time lets the job wait in line.
        """
        ready = prepare(spec, self._resolve_input)
        backend = self._backends(on)
        if reason := backend.refuses(ready):
            raise Unsupported(f"{on} cannot run {ready.name}: {reason}", provider=on)
        if ready.register and self._register is None:
            raise Invalid("there is no registry to register the model in", field="register")
        frozen = snapshot.take(Path(ready.source), self._code, without=self._home)
        if ready.script and not (frozen.folder / ready.script).is_file():
            raise no_script(ready)
        job = replace(ready, source=str(frozen.folder))
        row_id = new_ulid(self._store.now())
        request = self.workflow.request(row_id, job, frozen.sha256, backend, 1)
        most = worst(job, backend, request)
        order = JobOrder(
            job=job,
            backend=on,
            code_sha256=frozen.sha256,
            source=ready.source,
            idempotency=backend.idempotency,
            hourly=most.hourly.micros,
            overhead_s=most.overhead_s,
        )
        self._insert(row_id, order)
        return Job(self, row_id)

    def _insert(self, row_id: str, order: JobOrder) -> None:
        scopes = payers(order.job, order.backend, self._actor)
        place = self._places.of(order.backend)
        begin(self._runner, self._store.now(), self._install, row_id, order, scopes, place=place)

    def get(self, name_or_id: str) -> JobRecord:
        """The job of this id, beginning of an id (8 characters or more), or name (the newest). ``NotFound`` otherwise."""
        return self._look(self._row(name_or_id))

    def written(self, name_or_id: str) -> JobRecord:
        """Likewise as it is written down: the backend is not looked at, and nothing is driven."""
        return record_of(self._row(name_or_id))

    def job(self, name_or_id: str) -> Job:
        """A handle on the job."""
        return Job(self, self._row(name_or_id).id)

    def list(
        self, *, states: Collection[JobState] | None = None, limit: int = 100, before: str | None = None
    ) -> tuple[JobRecord, ...]:
        """Jobs, newest first; ``before`` (an id) pages on. Drives what is due first."""
        self.tick()
        rows = self._store.find(
            KIND,
            states=None if states is None else [str(state) for state in states],
            without_phases=(Phase.DELETED, Phase.DELETING),
            before=before,
            limit=limit,
        )
        return tuple(self._look(row) for row in rows)

    def history(self, name_or_id: str) -> tuple[Transition, ...]:
        """Every step the job went through."""
        return self._store.history(self._row(name_or_id).id)

    def logs(self, name_or_id: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The job's lines, over all its attempts. ``follow``: goes on until the job has ended."""
        row = self._row(name_or_id)
        number, cursor, looks = 0, "", _Looks(self._clock)
        while True:
            chunk = self._chunk(row, number, cursor)
            yield from chunk.lines
            cursor = chunk.cursor
            if chunk.lines and not chunk.ended:
                looks.again()
                continue
            if chunk.ended and row.ended_at is None:
                row = self._runner.drive(row.id)  # records the end; may have begun another attempt
            if number + 1 < len(data_of(row).attempts):
                number, cursor = number + 1, ""
            elif chunk.ended or row.ended_at is not None or not follow:
                return
            elif looks.pause():
                row = self._drive_when_due(self._store.get(row.id))

    def stop(self, name_or_id: str) -> JobRecord:
        """Ask the job to end; returns once the backend has been told. Already ended: nothing happens."""
        row = self._row(name_or_id)
        if row.ended_at is None:
            self._store.wish(row.id, "stop")
            row = self._runner.drive(row.id)
        return self._look(row)

    def preempt(self, name_or_id: str, *, notice_s: float) -> JobRecord:
        """Take the running attempt's capacity away as a cloud would, to rehearse it; returns once the backend has been told.

        The program gets the notice, is killed ``notice_s`` later, and the loop goes on as ``retry.preempted`` says. Already
        ended: nothing happens. ``Unsupported`` where the backend cannot, ``NotYet`` when it has not created the job yet.
        """
        row = self._row(name_or_id)
        backend = self._backends(row.place or order_of(row).backend)
        if not isinstance(backend, Preempts):
            raise Unsupported(
                f"{backend.name} cannot take capacity away on request",
                hint="rehearse preemption with the same spec on a backend that can, e.g. local",
                provider=backend.name,
            )
        if row.ended_at is None:
            if not data_of(row).attempt.resource:
                row = self._runner.drive(row.id)
            resource = data_of(row).attempt.resource
            if not resource:
                raise NotYet(f"job {row.name} is not created yet", hint="try again in a moment", resource=row.id)
            backend.preempt(resource, notice_s=notice_s)
        return self._look(row)

    def delete(self, name_or_id: str) -> None:
        """Remove the job, its logs and outputs, killing it first when it runs. ``NotYet``: under way, and never given up."""
        row = self._row(name_or_id)
        self._store.wish(row.id, "delete")
        row = self._runner.drive(row.id)
        if row.phase != Phase.DELETED:
            problem = data_of(row).problem
            raise NotYet(f"job {row.name} is being deleted{f': {problem}' if problem else ''}", resource=row.id)
        self._prune_code()

    def wait(self, name_or_id: str, *, timeout_s: float | None = None) -> JobRecord:
        """Wait until the job has ended, its model registered. ``NotYet`` after ``timeout_s``; ``NotFound`` when somebody
        deletes it meanwhile: a job that was deleted while it ran has no end of its own to wait for."""
        row = self._row(name_or_id)
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        looks = _Looks(self._clock)
        while True:
            record = self._look(row)
            if record.ended_at is not None and record.state.is_final:
                return record
            if row.phase == Phase.DELETED:
                raise NotFound(f"job {row.name} was deleted before it ended", resource=row.id)
            if deadline is not None and self._clock.monotonic() >= deadline:
                raise NotYet(f"job {row.name} is still {record.state}", resource=row.id)
            looks.pause()
            row = self._store.get(row.id)

    def tick(self) -> int:
        """Drive every job that is due: finish what a killed command left, notice what ended or died. How many were."""
        return self._runner.tick()

    def _row(self, name_or_id: str) -> Row:
        try:
            row = self._store.get(name_or_id)
            if row.kind == KIND and row.phase != Phase.DELETED:
                return row
        except NotFound:
            pass
        hidden = (Phase.DELETED,)
        found = self._store.find(KIND, name=name_or_id, without_phases=hidden, limit=1)
        if not found and len(name_or_id) >= 8:
            found = self._store.find(KIND, id_prefix=name_or_id.lower(), without_phases=hidden, limit=2)
            if len(found) > 1:
                raise Invalid(f"{name_or_id} begins the ids of several jobs", hint="give more of the id", field="job")
        if not found:
            raise NotFound(
                f"there is no job {name_or_id!r}", hint="mltoolbox jobs list shows them", resource=name_or_id
            )
        return found[0]

    def _look(self, row: Row) -> JobRecord:
        """The row with what its backend shows now; writes only when that is a step of the job's life."""
        if row.phase != Phase.ACTIVE:
            return record_of(self._drive_when_due(row))
        try:
            seen = self._observe(row)
        except ToolboxError:
            # The loop meets the same error, and keeps it in the row with the time of its next try.
            return record_of(self._runner.drive(row.id) if self._is_due(row) else row)
        if seen.state.is_final or (row.wish and self._is_due(row)):
            return record_of(self._runner.drive(row.id))
        return record_of(row, seen)

    def _observe(self, row: Row) -> JobObservation:
        return self.workflow.observe(row)

    def _drive_when_due(self, row: Row) -> Row:
        return self._runner.drive(row.id) if self._is_due(row) and row.phase != Phase.ACTIVE else row

    def _is_due(self, row: Row) -> bool:
        return row.due_at is not None and row.due_at <= self._store.now()

    def _chunk(self, row: Row, attempt: int, cursor: str) -> LogChunk:
        attempts = data_of(row).attempts
        resource = attempts[attempt].resource if attempt < len(attempts) else ""
        if not resource:  # not created yet
            return LogChunk((), cursor, ended=False)
        try:
            return self._backends(row.place or order_of(row).backend).logs(resource, cursor)
        except NotFound:
            return LogChunk((), cursor, ended=row.ended_at is not None)

    def _prune_code(self) -> None:
        rows = self._store.find(KIND, without_phases=(Phase.DELETED,), limit=100_000)
        snapshot.prune(self._code, frozenset(order_of(row).code_sha256 for row in rows))


def begin(
    runner: Runner,
    now: float,
    install: str,
    row_id: str,
    order: JobOrder,
    scopes: tuple[str, ...],
    *,
    place: str = "",
) -> Row:
    """Write the intent, with its first attempt's money if there is room for it now, else in line for it."""
    job, spec = order.job, plain(order)
    waiting = Row(
        id=row_id,
        kind=KIND,
        name=job.name,
        phase=Phase.WAITING,
        state=JobState.QUEUED,
        place=place or order.backend,
        scopes=scopes,
        spec=spec,
        data=plain(JobData(attempts=())),
        due_at=now,
        created_at=now,
        updated_at=now,
    )
    data, posting = opened(install, row_id, spec, order, JobData(attempts=()), now)
    try:
        return runner.insert(replace(waiting, phase=Phase.SUBMITTING, data=plain(data)), [posting])
    except BudgetExceeded as error:
        if not error.waits:
            raise
        return runner.insert(waiting)


class _Looks:
    """How often to look while waiting: often at first and while lines come, then less and less often."""

    _QUICK_S, _SLOW_S = 0.005, 0.2
    _QUICK_FOR_S = 1.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.again()

    def again(self) -> None:
        """Something was seen: more may follow soon."""
        self._pause_s = self._QUICK_S
        self._since = self._clock.monotonic()

    def pause(self) -> bool:
        """Wait a moment. True once enough time has passed without news to look at the row itself again, too."""
        self._clock.sleep(self._pause_s)
        if self._clock.monotonic() - self._since < self._QUICK_FOR_S:
            return False
        self._pause_s = min(self._pause_s * 2, self._SLOW_S)
        return True


class Job:
    """A handle on one job: looks whenever it is asked."""

    def __init__(self, training: Training, job_id: str) -> None:
        self._training = training
        self.id = job_id

    def __repr__(self) -> str:
        record = self.record
        return f"<Job {record.name} {self.id} {record.state}>"

    @property
    def record(self) -> JobRecord:
        """Everything known now."""
        return self._training.get(self.id)

    @property
    def submitted(self) -> JobRecord:
        """What is written down, without looking at the backend."""
        return self._training.written(self.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.record.metrics)

    @property
    def model(self) -> str | None:
        """``NAME:VERSION`` of the registered model, once there is one."""
        return self.record.model

    def wait(self, timeout_s: float | None = None) -> JobRecord:
        """Wait for the end. Raises ``JobFailed`` with the failure's digest when it failed, ``NotYet`` after the timeout."""
        record = self._training.wait(self.id, timeout_s=timeout_s)
        if record.state is JobState.FAILED:
            cause = str(record.failure) if record.failure else "it gave no reason"
            hint = record.failure.next_step if record.failure else ""
            raise JobFailed(f"job {record.name} failed: {cause}", hint=hint, resource=self.id)
        return record

    def logs(self, *, follow: bool = False) -> Iterator[LogLine]:
        return self._training.logs(self.id, follow=follow)

    def stop(self) -> JobRecord:
        return self._training.stop(self.id)

    def preempt(self, *, notice_s: float) -> JobRecord:
        return self._training.preempt(self.id, notice_s=notice_s)

    def delete(self) -> None:
        self._training.delete(self.id)
