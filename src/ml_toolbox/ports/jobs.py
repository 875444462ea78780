"""``JobBackend``: runs training jobs. One implementation per platform service."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.lacks import Lacking

CAPABILITIES = ("spot", "accelerators", "multi-node", "images", "requirements", "memory-limit", "cpu-limit", "detach")
"""The optional powers a job backend may declare as lacking."""


def needs(spec: JobSpec) -> tuple[str, ...]:
    """The optional powers that this job asks for, for ``ports.lacks.declared_reason``. Never ``detach``: that is asked for
    by the way of starting, not by the spec."""
    wanted, where = spec.resources, spec.environment
    asked = {
        "spot": wanted.spot,
        "accelerators": bool(wanted.accelerators),
        "multi-node": wanted.nodes > 1,
        "images": bool(where.image),
        "requirements": bool(where.requirements),
        "memory-limit": wanted.memory_gib is not None,
        "cpu-limit": wanted.cpus is not None,
    }
    return tuple(capability for capability, is_asked in asked.items() if is_asked)


TAG_INSTALL = "mlt:install"
TAG_OWNER = "mlt:owner"
TAG_ATTEMPT = "mlt:attempt"
TAG_EXPIRES = "mlt:expires-at"
"""Owner tags in every create call, so that garbage collection finds what a crash left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """How a platform recognises a repeated create call, and for how long a created resource may stay invisible."""

    kind: Literal["token", "name", "none"]
    """``token``: the call carries a client token. ``name``: a second resource of the same name is refused (``Conflict``) or is
    the first. ``none``: every call makes another one, so the loop looks for what a lost answer left before it calls again."""
    visibility_window_s: float
    """After a create or delete call, reads and listings may show the former state for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose attempt a resource is. Becomes tags."""

    install: str
    row: str
    attempt: int

    def tags(self, expires_at: str) -> dict[str, str]:
        return {
            TAG_INSTALL: self.install,
            TAG_OWNER: self.row,
            TAG_ATTEMPT: str(self.attempt),
            TAG_EXPIRES: expires_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """Exactly what would be sent: data only, made by the pure ``build``, printed by ``plan``, sent by ``submit``."""

    name: str
    """Deterministic: same install, owner row and attempt give the same name."""
    body: Mapping[str, Any]
    tags: Mapping[str, str]
    max_run_s: float
    """The platform itself ends the resource after running this long, also when nobody is left to tell it; part of ``body``
    in the platform's own words. The worst case that a budget reserves is this times the price."""

    @classmethod
    def of(cls, spec: JobSpec, owner: Owner, body: Mapping[str, Any]) -> JobRequest:
        """The request for one attempt with the name, tags and limit that every backend gives it, around a body of its own."""
        limits = spec.limits
        return cls(
            name=f"mlt-{owner.install}-job-{owner.row}-a{owner.attempt}",
            body=body,
            # Nothing outlives the moment named by the tag: whoever runs the attempt ends it at its time limit.
            tags={**spec.tags, **owner.tags(f"start+{math.ceil(limits.max_duration_s)}s")},
            max_run_s=limits.max_duration_s + limits.stop_grace_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """State of a program that a later attempt can go on from; it exists entirely or not at all."""

    step: int
    sha256: str
    """Of the manifest that names every file with its own hash."""
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobObservation:
    """A job as the platform shows it at one moment."""

    state: JobState
    """A final one means besides: nothing of this attempt runs or is charged any more."""
    exit_code: int | None = None
    failure: FailureDigest | None = None
    progress: float | None = None
    """0 to 1, when the script reports its epochs or steps."""
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Latest value of each reported metric."""
    started_at: float | None = None
    ended_at: float | None = None
    model_uri: str | None = None
    """Where the captured model package lies, once succeeded."""
    output_uri: str | None = None
    billed_s: float | None = None
    """Seconds charged so far, when the platform tells; otherwise the time since ``started_at`` counts."""
    checkpoint: Checkpoint | None = None
    """The last complete one."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One printed line."""

    at: float
    text: str
    stream: Literal["out", "err", "system"] = "out"


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Lines since a cursor, and the cursor to go on from. ``ended``: no line will ever follow."""

    lines: tuple[LogLine, ...]
    cursor: str
    ended: bool


@runtime_checkable
class JobBackend(Protocol):
    """Where jobs run. Synchronous, called from threads; every method returns within its platform's API latency.

    Nothing here waits for a job: callers observe again. Errors: ``Invalid`` for requests the platform would reject,
    ``Unsupported`` with the declared reason for what it lacks, ``NoCapacity``, ``Denied``, ``Throttled``, ``Unavailable``.
    """

    @property
    def name(self) -> str:
        """The backend's name as users type it, e.g. ``local``."""

    @property
    def lacks(self) -> Lacking:
        """What it cannot do; keys from ``CAPABILITIES``. Needs no credentials and no network."""

    @property
    def idempotency(self) -> Idempotency:
        """How repeated submits are recognised; the conformance suite checks the claim."""

    def refuses(self, spec: JobSpec) -> str | None:
        """Why this concrete job cannot run here, or ``None``. Pure; reads nothing global."""

    def offers(self, spec: JobSpec) -> tuple[Offer, ...]:
        """Places that fit, cheapest first; from the embedded catalogue, no credentials. Empty when ``refuses``."""

    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        """The request for one attempt. Pure and deterministic. ``Unsupported`` when ``refuses`` gives a reason."""

    def submit(self, request: JobRequest, token: str) -> str:
        """Start the job and return its id. Called again with the same token (or name): returns the same id and starts
        nothing (idempotency ``token`` and ``name``). Same token, other body: ``Conflict``."""

    def observe(self, job_id: str) -> JobObservation:
        """What the platform shows now. ``NotFound`` when it does not know the id (which, inside the visibility window,
        does not yet mean absent)."""

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        """Lines after the cursor ("" = from the beginning), possibly none. ``NotFound`` like ``observe``. Logs outlive the
        process and are there until ``delete``."""

    def stop(self, job_id: str, *, grace_s: float) -> None:
        """Ask the program to stop, kill it after ``grace_s``. Returns at once; observe until final. What was saved so far
        is kept. Already final or absent: silent."""

    def delete(self, job_id: str) -> None:
        """Remove the resource with logs and outputs that were not copied elsewhere; kills it first when running. Absent:
        silent. ``NotYet`` when the platform needs longer: call again."""

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        """``(id, tags)`` of every resource carrying all these tags, running or not."""


@runtime_checkable
class WarmUp(Protocol):
    """What a ``JobBackend`` may offer besides."""

    def warm_up(self) -> None:
        """A ``submit`` will probably follow within a second: get ready for it, beside the caller. Creates nothing that
        outlives the calling process; returns at once; called twice: nothing more happens."""


@runtime_checkable
class ObserveMany(Protocol):
    """What a ``JobBackend`` may offer besides, where the platform answers for many jobs in one call."""

    def observe_many(self, job_ids: Sequence[str]) -> Mapping[str, JobObservation]:
        """Like ``observe`` for each; an id that the platform does not know is missing in the answer."""


@runtime_checkable
class Preempts(Protocol):
    """What a ``JobBackend`` may offer besides: take capacity away as a cloud would, to rehearse it."""

    def preempt(self, job_id: str, *, notice_s: float) -> None:
        """Give the program the platform's notice, kill it ``notice_s`` later, and show the attempt as failed with the kind
        ``preempted``. Returns at once. Final or absent: silent."""
