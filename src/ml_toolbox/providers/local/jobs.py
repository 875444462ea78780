"""Jobs as supervised processes on this machine. The job's folder is its whole truth: no daemon, no database here."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_toolbox.base import processes
from ml_toolbox.base.errors import Conflict, Invalid, NotFound, NotYet, Unsupported
from ml_toolbox.base.ids import digest, nonce
from ml_toolbox.base.processes import ProcessIdentity
from ml_toolbox.domain.jobs import Accelerators, JobSpec
from ml_toolbox.domain.offers import Offer
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.ports.jobs import TAG_OWNER, Idempotency, JobObservation, JobRequest, LogChunk, Owner, needs
from ml_toolbox.ports.lacks import Lacking, declared_reason
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local import environments, supervisors
from ml_toolbox.providers.local.lacks import JOBS as LACKS
from ml_toolbox.providers.local.machine import Machine, this_machine
from ml_toolbox.providers.local.price import price_per_hour
from ml_toolbox.runtime import dialects, folder
from ml_toolbox.runtime.ending import FINAL_STATES, record_lost
from ml_toolbox.runtime.job import Layout, Places, RuntimeJob, create_json, read_json, write_json

_START_S = 30.0
"""A job folder without a supervisor after this time was left by a process that died between making and starting it."""
_DELETE_S = 5.0
_GUARDIAN_S = 1.0


class LocalJobBackend:
    """See the port for what each method promises.

    Args:
        context: ``settings["max_concurrent_jobs"]`` says how many run at once (default: one per core); more wait in line.
            ``settings["price_per_hour"]`` is what a job's hour costs (default: nothing).
        machine: what to plan with; default: what this machine has.
    """

    name = "local"
    lacks: Lacking = LACKS
    idempotency = Idempotency(kind="token", visibility_window_s=0.0)

    def __init__(self, context: ProviderContext, *, machine: Machine | None = None) -> None:
        self._home = context.home / "providers" / "local"
        self._machine = machine or this_machine()
        limit = context.settings.get("max_concurrent_jobs", self._machine.cpus)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise Invalid(
                f"max_concurrent_jobs must be a whole number from 1, not {limit!r}", field="max_concurrent_jobs"
            )
        self._limit = limit
        self._price = price_per_hour(context.settings)

    def refuses(self, spec: JobSpec) -> str | None:
        wanted, machine = spec.resources, self._machine
        if reason := declared_reason(LACKS, needs(spec)):
            return reason
        if wanted.cpus is not None and wanted.cpus > machine.cpus:
            return f"it asks for {wanted.cpus:g} cores; this machine has {machine.cpus}"
        if wanted.memory_gib is not None and wanted.memory_gib > machine.memory_gib:
            return f"it asks for {wanted.memory_gib:g} GiB of memory; this machine has {machine.memory_gib:g}"
        if wanted.accelerators:
            return _refuses_gpus(Accelerators.parse(wanted.accelerators), machine.gpus)
        return None

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        if self.refuses(spec):
            return ()
        gpus = Accelerators.parse(spec.resources.accelerators)
        return (
            Offer(
                backend=self.name,
                instance_type="this-machine",
                vcpus=self._machine.cpus,
                memory_gib=self._machine.memory_gib,
                accelerator=gpus.kind,
                accelerator_count=gpus.count,
                price_hourly=self._price,
            ),
        )

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        reason = self.refuses(spec)
        if reason:
            raise Unsupported(f"the local backend cannot run {spec.name}: {reason}", provider=self.name)
        _check(spec)
        body = {
            "source": spec.source,
            "script": spec.script,
            "command": list(spec.command) if spec.command else None,
            "arguments": list(spec.arguments),
            "inputs": dict(spec.inputs),
            "hyperparameters": dict(spec.hyperparameters),
            "resources": asdict(spec.resources),
            "requirements": list(spec.environment.requirements),
            "python": spec.environment.python,
            "variables": dict(spec.environment.variables),
            "max_duration_s": spec.limits.max_duration_s,
            "stop_grace_s": spec.limits.stop_grace_s,
            "metrics": dict(spec.metrics),
            "checkpoints": spec.checkpoints,
            "display_name": spec.name,
        }
        return JobRequest.of(spec, owner, body)

    def submit(self, request: JobRequest, token: str) -> str:
        if not processes.supported():
            raise Unsupported(
                "local jobs need Linux (/proc)", hint="use a container or another backend", provider=self.name
            )
        supervisors.reap()
        job_id = hashlib.sha256(token.encode()).hexdigest()[:24]
        root = self._root(job_id)
        described = digest({"name": request.name, "body": request.body, "tags": request.tags})
        if not root.exists():
            self._publish(root, job_id, request, described)
        record = self._record(job_id)
        if record["digest"] != described:
            raise Conflict(
                f"the token of job {record['name']} was used before for another request",
                resource=job_id,
                provider=self.name,
            )
        crash_point("local:published:before:start")
        if not (root / "supervisor.json").exists():
            self._start(root)
        crash_point("local:started:before:answer")
        return job_id

    def observe(self, job_id: str) -> JobObservation:
        supervisors.reap()
        record = self._record(job_id)
        layout = Layout(str(self._root(job_id)))
        self._settle(layout, record)
        return folder.observation(layout)

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        record = self._record(job_id)
        layout = Layout(str(self._root(job_id)))
        self._settle(layout, record)
        return folder.log_chunk(layout, cursor)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        layout = Layout(str(self._root(job_id)))
        _wish(layout.stop, {"grace_s": grace_s, "at": time.time()})

    def preempt(self, job_id: str, *, notice_s: float) -> None:
        """See ``ports.jobs.Preempts``. A second notice changes nothing: the first one stands."""
        layout = Layout(str(self._root(job_id)))
        status = read_json(layout.status) or {}
        if status.get("state") not in FINAL_STATES:
            _wish(layout.preempt, {"notice_s": notice_s, "at": time.time()})

    def delete(self, job_id: str) -> None:
        supervisors.reap()
        root = self._root(job_id)
        if not root.exists():
            return
        record = self._record(job_id)
        owner = record["tags"].get(TAG_OWNER, "")
        self._end_processes(root, record["runtime"]["mark"])
        grave = self._home / "trash" / f"{job_id}-{nonce()[:8]}"
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            root.rename(grave)
        except FileNotFoundError:  # another process deletes it too
            return
        # A supervisor may have taken the folder between our look and the rename.
        self._end_processes(grave, record["runtime"]["mark"])
        shutil.rmtree(grave, ignore_errors=True)
        if owner and not any(True for _ in self.list_by_tag({TAG_OWNER: owner})):
            shutil.rmtree(self._checkpoints(owner), ignore_errors=True)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        folder = self._home / "jobs"
        for root in sorted(folder.iterdir()) if folder.exists() else ():
            if root.name.startswith("."):
                continue
            try:
                has = self._record(root.name)["tags"]
            except NotFound:  # deleted meanwhile
                continue
            if all(has.get(name) == value for name, value in tags.items()):
                yield root.name, has

    def _publish(self, root: Path, job_id: str, request: JobRequest, described: str) -> None:
        """Make the whole folder aside and put it in place in one step: of two submits with one token, one wins."""
        root.parent.mkdir(parents=True, exist_ok=True)
        new = root.parent / f".new-{job_id}-{nonce()[:8]}"
        layout = Layout(str(new))
        source = Path(request.body["source"])
        if not source.is_dir():
            raise Invalid(f"source: {source} is not a folder", field="source")
        os.makedirs(layout.ml)
        try:
            shutil.copytree(source, layout.code, symlinks=True)
            record = {
                "name": request.name,
                "digest": described,
                "tags": dict(request.tags),
                "created_at": time.time(),
                "runtime": self._runtime_job(job_id, request)._asdict(),
            }
            write_json(layout.job, record, durable=True)
            crash_point("local:made:before:publish")
            new.rename(root)
        except OSError:
            # The rename fails when the other submit was first: its folder stands, ours goes.
            if not root.exists():
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _runtime_job(self, job_id: str, request: JobRequest) -> RuntimeJob:
        body, tags = request.body, request.tags
        resources = body["resources"]
        interpreter = _interpreter(body["python"])
        requirements = body["requirements"]
        prepare = environments.command(self._home / "environments", interpreter, requirements) if requirements else None
        owner = tags.get(TAG_OWNER, job_id)
        gpus = self._machine.gpus
        return RuntimeJob(
            job=owner,
            name=body["display_name"],
            attempt=int(tags.get("mlt:attempt", "1")),
            script=body["script"],
            command=body["command"],
            arguments=list(body["arguments"]),
            hyperparameters=dict(body["hyperparameters"]),
            inputs=dict(body["inputs"]),
            identities={
                name.removeprefix("mlt:data:"): value for name, value in tags.items() if name.startswith("mlt:data:")
            },
            variables=dict(body["variables"]),
            interpreter=interpreter,
            prepare=prepare,
            max_duration_s=body["max_duration_s"],
            stop_grace_s=body["stop_grace_s"],
            memory_bytes=int(resources["memory_gib"] * 2**30) if resources["memory_gib"] else None,
            cpus=resources["cpus"],
            gpus=Accelerators.parse(resources["accelerators"]).count,
            metrics=dict(body["metrics"]),
            code_sha256=tags.get("mlt:code", ""),
            queue=Places(str(self._home / "queue"), self._limit),
            devices=Places(str(self._home / "devices"), len(gpus)) if gpus else None,
            checkpoints=folder.checkpoint_folder(body["checkpoints"]) or str(self._checkpoints(owner)),
            checkpoint_store=folder.checkpoint_store(body["checkpoints"]),
            # Its own for every folder: the same token on another home must not make their processes look like these.
            mark=f"{job_id}-{nonce()}",
        )

    def warm_up(self) -> None:
        """See ``ports.jobs.WarmUp``: a supervisor loads its code while the command still loads its own."""
        if processes.supported():
            supervisors.prepare(self._own_package())

    def _start(self, root: Path) -> None:
        supervisors.start(root, self._own_package())

    def _own_package(self) -> Path:
        """A folder that holds nothing but a link to this package: put on the path of any interpreter, it shows the job
        ``ml_toolbox`` and nothing else of ours."""
        package = Path(__file__).resolve().parents[2]
        folder = self._home / "path" / hashlib.sha256(str(package).encode()).hexdigest()[:12]
        link = folder / package.name
        if not link.is_symlink():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(package)
            except FileExistsError:  # made by another submit
                pass
        return folder

    def _settle(self, layout: Layout, record: Mapping[str, Any]) -> None:
        """Write the final status of a job that has nobody left to write it."""
        status: dict[str, Any] = read_json(layout.status) or {"state": "queued"}
        if status["state"] in FINAL_STATES:
            return
        known = read_json(layout.supervisor)
        if known is None:
            if time.time() - record["created_at"] > _START_S and not os.path.exists(layout.supervisor):
                record_lost(layout, "it was never started")
            return
        supervisor, guardian = (ProcessIdentity.parse(known[role]) for role in ("supervisor", "guardian"))
        if supervisor.is_gone:
            # Its guardian is ending the rest and will say how it ended; that takes milliseconds.
            deadline = time.monotonic() + _GUARDIAN_S
            while not guardian.is_gone and time.monotonic() < deadline:
                time.sleep(0.005)
            status = read_json(layout.status) or status
        if supervisor.is_gone and guardian.is_gone and status["state"] not in FINAL_STATES:
            processes.kill_until_gone(record["runtime"]["mark"])
            record_lost(layout, "killed")

    def _end_processes(self, root: Path, mark: str) -> None:
        late = NotYet("processes of the job are still ending", hint="delete it again", resource=root.name)
        known = read_json(str(root / "supervisor.json"))
        if known is not None:
            identities = [ProcessIdentity.parse(known[role]) for role in ("supervisor", "guardian")]
            # The supervisor first: its guardian then ends what is left.
            processes.kill([one.pid for one in identities[:1] if one.is_local and not one.is_gone])
            deadline = time.monotonic() + _DELETE_S
            while not all(one.is_gone for one in identities):
                if time.monotonic() > deadline:
                    raise late
                time.sleep(0.01)
                supervisors.reap()
        if not processes.kill_until_gone(mark):
            raise late

    def _record(self, job_id: str) -> dict[str, Any]:
        record = read_json(str(self._root(job_id) / "job.json"))
        if record is None:
            raise NotFound(f"the local backend knows no job {job_id}", resource=job_id, provider=self.name)
        return dict(record)

    def _root(self, job_id: str) -> Path:
        if not job_id.isalnum():
            raise NotFound(f"{job_id!r} is no id of a local job", resource=job_id, provider=self.name)
        return self._home / "jobs" / job_id

    def _checkpoints(self, owner: str) -> Path:
        return self._home / "checkpoints" / hashlib.sha256(owner.encode()).hexdigest()[:24]


def _wish(path: str, value: dict[str, float]) -> None:
    """Put the wish into the job's folder; the first of its kind stands. No folder: the job is deleted."""
    try:
        create_json(path, value)
    except FileNotFoundError:
        return


def _check(spec: JobSpec) -> None:
    if (spec.script is None) == (spec.command is None):
        raise Invalid("a job has either a script or a command", field="script")
    inputs, _ = dialects.placeholders([*spec.arguments, *(spec.command or ())])
    missing = inputs - spec.inputs.keys() - spec.hyperparameters.keys()
    if missing:
        name = min(missing)
        raise Invalid(
            f"arguments: ${{{{inputs.{name}}}}} names no input and no hyper-parameter",
            hint=f"add it with --input {name}=PATH or --hp {name}=VALUE",
            field="arguments",
        )


def _refuses_gpus(wanted: Accelerators, gpus: tuple[str, ...]) -> str | None:
    fitting = [gpu for gpu in gpus if wanted.kind.lower() in gpu.lower()]
    if len(fitting) >= wanted.count:
        return None
    has = ", ".join(sorted(set(gpus))) or "none"
    return f"it asks for {wanted.count} GPU(s) of type {wanted.kind or 'any'}; this machine has {len(fitting)} ({has})"


def _interpreter(python: str | None) -> str:
    if python is None:
        return sys.executable
    found = shutil.which(python) or shutil.which(f"python{python}")
    if found is None:
        raise Invalid(f"environment.python: no interpreter {python!r} on PATH", field="environment.python")
    return found
