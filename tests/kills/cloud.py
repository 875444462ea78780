"""A pretended cloud: one process, HTTP on the loopback, real time. ``python -m tests.kills.cloud ORDER`` prints its port.

It loses requests before and after their effect, cuts connections, throttles with ``Retry-After``, shows the past for a moment,
runs out of capacity and takes jobs away; and it keeps complete books, which nobody but the checker reads. Its choices are drawn
from a seed; which call meets which choice is up to the real threads that make them.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

NEVER = 1e18
HOURLY = 3_600_000
"""Micro-dollars: a second costs a thousandth of a dollar."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of cloud it is."""

    seed: int
    kind: str
    """Idempotency class: token, name or none."""
    fails_before: float = 0.05
    fails_after: float = 0.05
    cuts_after: float = 0.05
    no_capacity: float = 0.01
    lag_s: float = 0.3
    """Reads and listings may show what was so much earlier."""
    ready_s: float = 0.6
    rate: float = 60.0
    burst: float = 30.0
    tells_billing: bool = True


@dataclass(slots=True, eq=False)
class Job:
    """A resource. An endpoint is one without an end."""

    id: str
    name: str
    token: str
    body: dict[str, Any]
    tags: dict[str, str]
    max_run_s: float
    by: str
    created_at: float
    starts_at: float
    ends_at: float
    outcome: str
    kind: str = "job"
    gone_at: float = NEVER
    stop_at: float = NEVER

    def absent(self, at: float) -> bool:
        return not self.created_at <= at < self.gone_at

    def billed_s(self, now: float) -> float:
        return max(0.0, min(now, self.ends_at, self.gone_at) - self.starts_at)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None
    retry_after_s: float | None = None


@dataclass(slots=True)
class Cloud:
    """The books. Every method is called with the lock held."""

    order: Order
    jobs: dict[str, Job] = field(default_factory=dict)
    versions: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[float, str, str, str, str]] = field(default_factory=list)
    """Time, caller, operation, target, answer."""
    faults: dict[str, int] = field(default_factory=dict)
    hostile: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    random: Random = field(init=False)
    tokens: float = field(init=False)
    filled_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.order.seed)
        self.tokens, self.filled_at = self.order.burst, time.time()

    def fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def throttle(self) -> float:
        """Seconds to wait; 0 when the call may go on."""
        now = time.time()
        self.tokens = min(self.order.burst, self.tokens + (now - self.filled_at) * self.order.rate)
        self.filled_at = now
        if self.tokens < 1.0:
            return max(0.05, (1.0 - self.tokens) / self.order.rate)
        self.tokens -= 1.0
        return 0.0

    def create(self, asked: dict[str, Any], by: str) -> Answer:
        kind = self.order.kind
        if kind == "token" and (known := self._first(token=asked["token"])):
            if known.body != asked["body"]:
                return Answer(409, {"code": "parameter-mismatch"})
            return Answer(200, {"id": known.id})
        if kind == "name" and self._first(name=asked["name"]):
            return Answer(409, {"code": "name-taken"})
        if self.hostile and self.random.random() < self.order.no_capacity:
            self.fault("no-capacity")
            return Answer(503, {"code": "no-capacity"})
        made = self._born(asked, by)
        self.jobs[made.id] = made
        return Answer(200, {"id": made.id})

    def _first(self, **wanted: str) -> Job | None:
        (name, value), *_ = wanted.items()
        jobs = (job for job in self.jobs.values() if job.kind == "job")
        return next((job for job in jobs if getattr(job, name) == value), None)

    def _born(self, asked: dict[str, Any], by: str) -> Job:
        now, random = time.time(), self.random
        fate = asked["body"]["command"][-1]
        starts_at = now + self.order.ready_s * (0.5 + random.random())
        runs_s, outcome = 0.1 + random.random(), "succeeded"
        if fate == "fails":
            outcome = "failed:exception"
        elif fate == "preempted" and asked["tags"].get("mlt:attempt") == "1":
            outcome = "failed:preempted"
        elif fate == "long":
            runs_s = NEVER
        if runs_s >= asked["max_run_s"]:
            runs_s, outcome = asked["max_run_s"], "failed:timeout"
        return Job(
            id=f"c{len(self.jobs) + 1}",
            name=asked["name"],
            token=asked["token"],
            body=asked["body"],
            tags=asked["tags"],
            max_run_s=asked["max_run_s"],
            by=by,
            created_at=now,
            starts_at=starts_at,
            ends_at=starts_at + runs_s,
            outcome=outcome,
        )

    def moment(self, job: Job) -> float:
        """The moment that a read of the job shows: what must be visible by now is, whatever replica answers."""
        now = time.time()
        if not self.hostile or self.random.random() < 0.5:
            return now
        then = now - self.random.random() * self.order.lag_s
        return max(then, job.created_at) if now >= job.created_at + self.order.lag_s else then

    def get(self, job_id: str) -> Answer:
        job = self.jobs.get(job_id)
        if job is None or job.absent(at := self.moment(job)):
            return Answer(404, {"code": "not-found"})
        return Answer(200, self._shown(job, at))

    def get_many(self, ids: list[str]) -> Answer:
        found = {job_id: self.get(job_id) for job_id in ids}
        return Answer(200, {job_id: answer.body for job_id, answer in found.items() if answer.status == 200})

    def list(self, kind: str, tags: dict[str, str]) -> Answer:
        found = [
            {"id": job.id if kind == "job" else job.name, "tags": job.tags}
            for job in self.jobs.values()
            if job.kind == kind and tags.items() <= job.tags.items() and not job.absent(self.moment(job))
        ]
        return Answer(200, found)

    def put(self, name: str, asked: dict[str, Any], by: str) -> Answer:
        """Make the endpoint of this name, or change it."""
        found = self.endpoint(name)
        if found is not None and found.tags != asked["tags"]:
            return Answer(409, {"code": "name-taken"})
        if found is not None:
            found.body = asked["body"]
            return Answer(200)
        now = time.time()
        made = Job(
            id=f"c{len(self.jobs) + 1}",
            name=name,
            token="",
            body=asked["body"],
            tags=asked["tags"],
            max_run_s=30 * 24 * 3600.0,
            by=by,
            created_at=now,
            starts_at=now,
            ends_at=NEVER,
            outcome="",
            kind="endpoint",
        )
        self.jobs[made.id] = made
        return Answer(200)

    def endpoint(self, name: str) -> Job | None:
        """The one that has the name now."""
        now = time.time()
        named = (job for job in self.jobs.values() if job.kind == "endpoint" and job.name == name)
        return next((job for job in named if not job.absent(now)), None)

    def get_endpoint(self, name: str) -> Answer:
        found = self.endpoint(name)
        if found is None or found.absent(self.moment(found)):
            return Answer(404, {"code": "not-found"})
        return Answer(200, {"state": "ready", **found.body})

    def delete_endpoint(self, name: str) -> Answer:
        found = self.endpoint(name)
        return Answer(200) if found is None else self.delete(found.id)

    def _shown(self, job: Job, at: float) -> dict[str, Any]:
        shown: dict[str, Any] = {"state": "provisioning"}
        if at >= job.starts_at:
            shown = {"state": "stopping" if job.stop_at <= at else "running", "started_at": job.starts_at}
        if at >= job.ends_at:
            state, _, failure = job.outcome.partition(":")
            shown = {"state": state, "started_at": job.starts_at, "ended_at": job.ends_at, "failure": failure}
        if self.order.tells_billing:
            shown["billed_s"] = job.billed_s(at)
        return shown

    def stop(self, job_id: str, grace_s: float) -> Answer:
        now, job = time.time(), self.jobs.get(job_id)
        if job is not None and now < min(job.ends_at, job.gone_at, job.stop_at):
            job.stop_at = now
            ends_at = max(job.starts_at, now + self.random.random() * min(grace_s, 0.5))
            if ends_at < job.ends_at:
                job.ends_at, job.outcome = ends_at, "stopped"
        return Answer(200)

    def delete(self, job_id: str) -> Answer:
        now, job = time.time(), self.jobs.get(job_id)
        if job is not None and job.gone_at == NEVER:
            job.gone_at = now + (2.0 * self.random.random() if self.random.random() < 0.1 else 0.0)
        return Answer(200)

    def register(self, job_id: str, name: str) -> Answer:
        """A registry that knows its caller's key: the same job gives the same version."""
        made = next((version for job, version in self.versions if job == job_id), None)
        if made is None:
            made = f"{name}:{len(self.versions) + 1}"
            self.versions.append((job_id, made))
        return Answer(200, {"version": made})

    def books(self) -> dict[str, Any]:
        now = time.time()
        jobs = [
            {
                "id": job.id,
                "kind": job.kind,
                "body": job.body,
                "name": job.name,
                "tags": job.tags,
                "max_run_s": job.max_run_s,
                "created_at": job.created_at,
                "by": job.by,
                "charged_s": job.billed_s(now),
                "ended_at": job.ends_at,
                "gone_at": job.gone_at,
                "outcome": job.outcome,
            }
            for job in self.jobs.values()
        ]
        return {"now": now, "jobs": jobs, "calls": self.calls, "versions": self.versions, "faults": self.faults}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    cloud: Cloud

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length", "0"))
        asked = json.loads(self.rfile.read(length)) if length else {}
        parts = url.path.strip("/").split("/")
        if parts[0] == "control":
            with self.cloud.lock:
                answer = _control(self.cloud, parts[1], asked)
            self._answer(answer)
            return
        with self.cloud.lock:
            outcome = self._hostile(parts, query, asked)
        if outcome is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._answer(outcome)

    def _hostile(self, parts: list[str], query: dict[str, str], asked: dict[str, Any]) -> Answer | None:
        """The answer; ``None``: the connection is cut instead."""
        cloud, order, random = self.cloud, self.cloud.order, self.cloud.random
        operation, target = _operation(self.command, parts, query, asked)
        by, now = self.headers.get("X-Caller", ""), time.time()

        def log(answer: str) -> None:
            cloud.calls.append((now, by, operation, target, answer))

        if cloud.hostile:
            if operation != "register" and (wait_s := cloud.throttle()):
                cloud.fault("throttled")
                log(f"throttled:{wait_s:.3f}")
                return Answer(429, {"code": "rate-exceeded"}, wait_s)
            if random.random() < order.fails_before:
                cloud.fault("failed before")
                log("unavailable-before")
                return Answer(503, {"code": "internal"})
        answer = _act(cloud, operation, target, query, asked, by)
        drawn = random.random() if cloud.hostile else 1.0
        if drawn < order.fails_after:
            cloud.fault("failed after")
            log("unavailable-after")
            return Answer(500, {"code": "internal"})
        if drawn < order.fails_after + order.cuts_after:
            cloud.fault("cut after")
            log("cut-after")
            return None
        log({200: "ok", 404: "NotFound", 409: "Conflict", 503: "NoCapacity"}[answer.status])
        return answer

    def _answer(self, answer: Answer) -> None:
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response_only(answer.status)
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", f"{answer.retry_after_s:.3f}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the caller was killed
            self.close_connection = True


def _operation(verb: str, parts: list[str], query: dict[str, str], asked: dict[str, Any]) -> tuple[str, str]:
    match verb, parts:
        case "POST", ["jobs"]:
            return "create", asked["name"]
        case "GET", ["jobs"]:
            return ("get-many" if "ids" in query else "list"), ""
        case "GET", ["endpoints"]:
            return "list-endpoints", ""
        case "GET", ["endpoints", name]:
            return "get-endpoint", name
        case "PUT", ["endpoints", name]:
            return "put", name
        case "DELETE", ["endpoints", name]:
            return "delete-endpoint", name
        case "GET", ["jobs", job_id]:
            return "get", job_id
        case "POST", ["jobs", job_id, "stop"]:
            return "stop", job_id
        case "DELETE", ["jobs", job_id]:
            return "delete", job_id
        case "POST", ["versions"]:
            return "register", asked["job"]
    raise ValueError(f"{verb} {parts}")


def _act(cloud: Cloud, operation: str, target: str, query: dict[str, str], asked: dict[str, Any], by: str) -> Answer:
    match operation:
        case "create":
            return cloud.create(asked, by)
        case "get":
            return cloud.get(target)
        case "get-many":
            return cloud.get_many(query["ids"].split(","))
        case "list":
            return cloud.list("job", json.loads(query["tags"]))
        case "list-endpoints":
            return cloud.list("endpoint", json.loads(query["tags"]))
        case "get-endpoint":
            return cloud.get_endpoint(target)
        case "put":
            return cloud.put(target, asked, by)
        case "delete-endpoint":
            return cloud.delete_endpoint(target)
        case "stop":
            return cloud.stop(target, asked["grace_s"])
        case "delete":
            return cloud.delete(target)
    return cloud.register(target, asked["name"])


def _control(cloud: Cloud, word: str, asked: dict[str, Any]) -> Answer:
    if word == "calm":
        cloud.hostile = False
    elif word == "foreign":
        made = cloud._born(asked, "a foreigner")
        made.ends_at = NEVER
        cloud.jobs[made.id] = made
    return Answer(200, cloud.books() if word == "books" else None)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    Handler.cloud = Cloud(msgspec.json.decode(sys.argv[1], type=Order))
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    # It ends with the driver, however that ended: nobody else holds the other end of its standard input.
    threading.Thread(target=_wait_for_the_driver, args=(server,), daemon=True).start()
    server.serve_forever()


def _wait_for_the_driver(server: Server) -> None:
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
