"""A whole outside provider: jobs as child processes, secrets and metrics, all kept in the memory of this process.

It serves no models: an honest endpoint backend is another hundred lines (see ``ml_toolbox.providers.local.endpoints``).
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.base.processes import kill_until_gone
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.jobs import Idempotency, JobObservation, JobRequest, LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking, Lacks, refuse
from ml_toolbox.ports.metrics import MetricPoint
from ml_toolbox.ports.provider import BackendInfo, Check, ProviderContext
from ml_toolbox.ports.secrets import Secret, SecretVersion
from ml_toolbox.runtime import folder
from ml_toolbox.runtime.ending import record_lost
from ml_toolbox.runtime.job import Layout, RuntimeJob, write_json

LACKS: Lacking = {
    "spot": Lacks("never", "memory is not sold by the hour"),
    "accelerators": Lacks("not-done", "the toy hands out no GPUs"),
    "multi-node": Lacks("never", "one process has one machine"),
    "images": Lacks("not-done", "the toy runs processes, not containers"),
    "requirements": Lacks("not-done", "the toy runs everything in its own environment"),
    "detach": Lacks("never", "no other process knows its jobs"),
}
NOTHING: Lacking = {}
RUNTIME = (sys.executable, "-P", "-m", "ml_toolbox.runtime")
LOCK = threading.RLock()


class ToyJobs:
    name, lacks, idempotency = "toy", LACKS, Idempotency(kind="token", visibility_window_s=0.0)

    def __init__(self, jobs: dict[str, tuple[JobRequest, Layout, subprocess.Popen[bytes]]], root: str) -> None:
        self._jobs, self._root = jobs, root

    def _lacking(self, spec: JobSpec) -> str | None:
        wanted, where = spec.resources, spec.environment
        asked = (wanted.spot, wanted.accelerators, wanted.nodes > 1, where.image, where.requirements)
        return next((name for name, value in zip(LACKS, asked, strict=False) if value), None)

    def refuses(self, spec: JobSpec) -> str | None:
        return self.lacks[name].reason if (name := self._lacking(spec)) else None

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return () if self.refuses(spec) else (Offer(backend=self.name, instance_type="child-process"),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        if name := self._lacking(spec):
            refuse(self.lacks, name, who=self.name)
        tags = {**spec.tags, **owner.tags(f"start+{spec.limits.max_duration_s:g}s")}
        body = {"source": spec.source, **folder.order(spec, owner)._asdict()}
        name = f"mlt-{owner.install}-{owner.row}-a{owner.attempt}"
        return JobRequest(name=name, body=body, tags=tags, max_run_s=spec.limits.max_duration_s)

    def submit(self, request: JobRequest, token: str) -> str:
        job_id = hashlib.sha256(token.encode()).hexdigest()[:16]
        with LOCK:
            if job_id not in self._jobs:
                body, layout = dict(request.body), Layout(f"{self._root}/{job_id}")
                shutil.copytree(body.pop("source"), layout.code)
                order = RuntimeJob(**body)._replace(interpreter=sys.executable, mark=job_id)
                write_json(layout.job, {"runtime": order._asdict()})
                process = subprocess.Popen([*RUNTIME, "train", "--root", layout.root], start_new_session=True)
                self._jobs[job_id] = request, layout, process
            if self._jobs[job_id][0] != request:
                raise Conflict(f"the token of {request.name} was used for another request", resource=job_id)
        return job_id

    def _layout(self, job_id: str) -> Layout:
        if job_id not in self._jobs:
            raise NotFound(f"the toy knows no job {job_id}", resource=job_id, provider=self.name)
        _, layout, process = self._jobs[job_id]
        if process.poll() is not None:
            record_lost(layout, "killed")  # nothing happens when it left a final status itself
        return layout

    def observe(self, job_id: str) -> JobObservation:
        return folder.observation(self._layout(job_id))

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return folder.log_chunk(self._layout(job_id), cursor)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        if job_id in self._jobs and not os.path.exists(path := self._jobs[job_id][1].stop):
            write_json(path, {"grace_s": grace_s})

    def delete(self, job_id: str) -> None:
        with LOCK:
            if job_id in self._jobs:
                _, layout, process = self._jobs.pop(job_id)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kill_until_gone(job_id)
                shutil.rmtree(layout.root)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return iter([(key, r.tags) for key, (r, *_) in list(self._jobs.items()) if tags.items() <= r.tags.items()])


class ToySecrets:
    lacks = NOTHING

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[SecretVersion, Secret]]] = {}

    def get(self, name: str, *, version: int | None = None) -> Secret:
        kept = self._kept.get(check_name(name), [])
        number = len(kept) if version is None else version
        if not 0 < number <= len(kept):
            raise NotFound(f"there is no version {number} of the secret {name!r}", hint="put it first", resource=name)
        return kept[number - 1][1]

    def put(self, name: str, value: Secret) -> SecretVersion:
        if not isinstance(value, Secret):
            raise Invalid("value: a Secret is needed", hint="wrap the text: Secret(text)", field="value")
        with LOCK:
            kept = self._kept.setdefault(check_name(name), [])
            kept.append((SecretVersion(name, len(kept) + 1, time.time()), value))
            return kept[-1][0]

    def delete(self, name: str) -> None:
        self._kept.pop(check_name(name), None)

    def list(self) -> tuple[SecretVersion, ...]:
        return tuple(kept[-1][0] for _, kept in sorted(self._kept.items()))


class ToyMetrics:
    lacks = NOTHING

    def __init__(self) -> None:
        self._points: list[MetricPoint] = []

    def record(self, points: Iterable[MetricPoint]) -> None:
        new = list(points)
        for point in new:
            if not math.isfinite(point.value):
                raise Invalid(f"value: {point.name} is {point.value}, not a finite number", field="value")
        self._points.extend(new)

    def query(
        self, name: str, *, dimensions: Mapping[str, str] | None = None, since: float = 0.0, until: float | None = None
    ) -> tuple[MetricPoint, ...]:
        wanted, end = dict(dimensions or {}).items(), math.inf if until is None else until
        found = (p for p in self._points if p.name == name and since <= p.at < end and wanted <= p.dimensions.items())
        return tuple(sorted(found, key=lambda point: point.at))


class ToyProvider:
    name, title = "toy", "Toy (an example)"
    backends = (BackendInfo(name="toy", title="Child processes", jobs=LACKS),)

    def __init__(self) -> None:
        self._jobs: Any = {}
        atexit.register(self._end_jobs)
        self._secrets, self._metrics = ToySecrets(), ToyMetrics()

    def job_backend(self, backend: str, context: ProviderContext) -> ToyJobs:
        return ToyJobs(self._jobs, str(context.home / "providers" / "toy" / f"jobs-{os.getpid()}"))

    def _end_jobs(self) -> None:
        for job_id in list(self._jobs):
            ToyJobs(self._jobs, "").delete(job_id)

    def endpoint_backend(self, backend: str, context: ProviderContext) -> NoReturn:
        raise NotFound(f"{backend} serves no models", hint="use the backend local", resource=backend)

    def secret_store(self, context: ProviderContext) -> ToySecrets:
        return self._secrets

    def metric_sink(self, context: ProviderContext) -> ToyMetrics:
        return self._metrics

    def check(self, context: ProviderContext) -> tuple[Check, ...]:
        return (Check(name="memory", ok=True, message="everything ends with this process"),)


PROVIDER = ToyProvider()
