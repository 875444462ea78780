"""A whole outside provider: jobs and model servers as processes of this machine, secrets and metrics in memory.

Jobs and endpoints are folders below ``$MLTOOLBOX_HOME/providers/toy``, so every command sees those of the others.
What any provider of this kind would write comes with the toolbox: what a spec asks for (``ports``), what to put into a
folder (``runtime.folder``, ``runtime.served``), a process to work in it (``runtime.detached``), and the reading of it
(``runtime.hosting``).
"""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Unsupported
from ml_toolbox.base.ids import check_name, digest
from ml_toolbox.base.locks import exclusive
from ml_toolbox.domain.endpoints import EndpointSpec
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports import endpoints, jobs
from ml_toolbox.ports.endpoints import EndpointRequest
from ml_toolbox.ports.jobs import Idempotency, JobRequest, Owner
from ml_toolbox.ports.lacks import Lacking, Lacks, declared_reason
from ml_toolbox.ports.metrics import MetricPoint
from ml_toolbox.ports.provider import BackendInfo, Check, ProviderContext
from ml_toolbox.ports.secrets import Secret, SecretVersion
from ml_toolbox.runtime import detached, folder, served
from ml_toolbox.runtime.hosting import EndpointFolders, JobFolders
from ml_toolbox.runtime.job import read_json, write_json

JOB_LACKS: Lacking = {
    "spot": Lacks("never", "a process is not sold by the hour"),
    "accelerators": Lacks("not-done", "the toy hands out no GPUs"),
    "multi-node": Lacks("never", "one process has one machine"),
    "images": Lacks("not-done", "the toy runs processes, not containers"),
    "requirements": Lacks("not-done", "the toy runs everything in its own environment"),
}
ENDPOINT_LACKS: Lacking = {
    "replicas": Lacks("not-done", "the toy runs one server for each endpoint"),
    "scale-to-zero": Lacks("not-done", "a toy endpoint runs until it is deleted"),
    "accelerators": Lacks("not-done", "the toy serves on the CPU"),
    "fixed-port": Lacks("not-done", "the toy takes any free port"),
    "memory-limit": Lacks("not-done", "the toy does not watch its servers' memory"),
}
NOTHING: Lacking = {}


class ToyJobs(JobFolders):
    name, lacks, idempotency = "toy", JOB_LACKS, Idempotency(kind="token", visibility_window_s=0.0)

    def refuses(self, spec: JobSpec) -> str | None:
        return declared_reason(self.lacks, jobs.needs(spec))

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        return () if self.refuses(spec) else (Offer(backend=self.name, instance_type="process"),)

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        if reason := self.refuses(spec):
            raise Unsupported(f"the toy cannot run {spec.name}: {reason}", provider=self.name)
        return JobRequest.of(spec, owner, {"source": spec.source, "runtime": folder.order(spec, owner)._asdict()})

    def submit(self, request: JobRequest, token: str) -> str:
        job_id = digest(token)[:16]
        layout = self.layout(job_id)
        wish = {"name": request.name, "body": dict(request.body), "tags": dict(request.tags)}
        with exclusive(self.lock(job_id)):
            if (kept := read_json(layout.job)) is None:
                shutil.copytree(request.body["source"], layout.code, dirs_exist_ok=True)
                runtime = {**request.body["runtime"], "interpreter": sys.executable, "mark": layout.root}
                write_json(layout.job, {**wish, "runtime": runtime}, durable=True)
            elif {key: kept[key] for key in wish} != wish:
                raise Conflict(f"the token of {request.name} was used for another request", resource=job_id)
            if detached.started(layout.root) is None:
                detached.start(layout.root, ["train", "--root", layout.root], output=f"{layout.root}/supervisor.log")
        return job_id

    def delete(self, job_id: str) -> None:
        with exclusive(self.lock(job_id)):
            detached.remove(self.layout(job_id).root)


class ToyEndpoints(EndpointFolders):
    name, lacks, idempotency = "toy", ENDPOINT_LACKS, Idempotency(kind="name", visibility_window_s=0.0)

    def refuses(self, spec: EndpointSpec) -> str | None:
        return declared_reason(self.lacks, endpoints.needs(spec)) or served.refuses(spec)

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return () if self.refuses(spec) else (Offer(backend=self.name, instance_type="process"),)

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        if reason := self.refuses(spec):
            raise Unsupported(f"the toy cannot serve {spec.name}: {reason}", provider=self.name)
        return EndpointRequest.of(spec, owner, served.order(spec))

    def apply(self, request: EndpointRequest) -> None:
        layout = self.layout(request.name)
        with exclusive(self.lock(request.name)):
            served.wish(layout, request)
            if not served.is_served(layout, detached.started(layout.root)):
                detached.start(layout.root, layout.arguments, output=layout.log, marked=True)

    def delete(self, endpoint: str) -> None:
        with exclusive(self.lock(endpoint)):
            detached.remove(self.layout(endpoint).root, grace_s=30.0)


class ToySecrets:
    lacks = NOTHING

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[SecretVersion, Secret]]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, *, version: int | None = None) -> Secret:
        kept = self._kept.get(check_name(name), [])
        number = len(kept) if version is None else version
        if not 0 < number <= len(kept):
            raise NotFound(f"there is no version {number} of the secret {name!r}", hint="put it first", resource=name)
        return kept[number - 1][1]

    def put(self, name: str, value: Secret) -> SecretVersion:
        if not isinstance(value, Secret):
            raise Invalid("value: a Secret is needed", hint="wrap the text: Secret(text)", field="value")
        with self._lock:
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
    backends = (BackendInfo(name="toy", title="Processes", jobs=JOB_LACKS, endpoints=ENDPOINT_LACKS, host_bound=True),)

    def __init__(self) -> None:
        self._secrets, self._metrics = ToySecrets(), ToyMetrics()

    def job_backend(self, backend: str, context: ProviderContext) -> ToyJobs:
        return ToyJobs(context.home / "providers" / "toy" / "jobs")

    def endpoint_backend(self, backend: str, context: ProviderContext) -> ToyEndpoints:
        return ToyEndpoints(context.home / "providers" / "toy" / "endpoints")

    def secret_store(self, context: ProviderContext) -> ToySecrets:
        return self._secrets

    def metric_sink(self, context: ProviderContext) -> ToyMetrics:
        return self._metrics

    def check(self, context: ProviderContext) -> tuple[Check, ...]:
        return (Check(name="memory", ok=True, message="secrets and metrics end with this process"),)


PROVIDER = ToyProvider()
