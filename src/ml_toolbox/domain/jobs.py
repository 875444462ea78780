"""What a training job is asked to be (:class:`JobSpec`) and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from ml_toolbox.base.errors import Invalid


@dataclass(frozen=True, slots=True)
class Accelerators:
    """``T4:1`` or ``gpu:2`` taken apart; ``kind`` is ``""`` for any type."""

    kind: str = ""
    count: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Accelerators:
        """``None`` asks for none. Raises ``Invalid`` naming ``resources.accelerators``."""
        if not text:
            return cls()
        kind, _, count = text.partition(":")
        if not kind or not (count or "1").isdigit() or int(count or 1) < 1:
            raise Invalid(
                f"resources.accelerators: {text!r} is not TYPE:COUNT",
                hint="write T4:1, A100:8 or gpu:1",
                field="resources.accelerators",
            )
        return cls("" if kind.lower() in {"gpu", "any"} else kind, int(count or 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one node of the job needs. ``None`` means: no limit asked for, the backend's own default."""

    cpus: float | None = None
    """Virtual cores per node."""
    memory_gib: float | None = None
    """Memory per node in GiB; the job is killed above it."""
    accelerators: str | None = None
    """``TYPE:COUNT`` per node, e.g. ``T4:1``; ``gpu:1`` takes any type."""
    nodes: int = 1
    disk_gib: float | None = None
    spot: bool = False
    """Use capacity that may be taken away, for a lower price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the script runs in."""

    requirements: tuple[str, ...] = ()
    """pip requirements; a virtual environment with exactly these is built once and cached by content. Empty: the
    environment the command was called from."""
    image: str | None = None
    """Container image, on backends that run containers."""
    python: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    """Extra environment variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop, whatever the program thinks."""

    max_duration_s: float = 24 * 3600.0
    """Wall-clock limit of one attempt. There is always one, so that nothing paid can run for ever."""
    stop_grace_s: float = 30.0
    """Seconds between the polite stop (SIGTERM) and the kill."""
    max_cost_usd: float | None = None
    """What all attempts together may cost. The job is told to stop in time, so that it is never exceeded."""
    max_cost_per_hour_usd: float | None = None
    """Dearer places are not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """How many more attempts each cause of failure gets. The user's own errors are never retried unless asked."""

    preempted: int = 10
    """The platform took the capacity away; the next attempt resumes from the last checkpoint."""
    no_capacity: int = 10
    """The platform had none to give."""
    lost: int = 0
    """The supervisor or machine died without a result."""
    user_error: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One training job. The same names in YAML, Python and REST."""

    name: str
    script: str | None = None
    """Path of the Python script, relative to ``source``. Exactly one of ``script`` and ``command``."""
    command: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    """Extra arguments for the script, after the hyper-parameters."""
    source: str = "."
    """Folder that travels with the job (``.gitignore`` and ``.mltignore`` are obeyed)."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Channel name -> URI, path or ``data:NAME[:VERSION]`` of a registered dataset."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Any JSON values; they arrive in the script with type and precision unchanged."""
    resources: Resources = field(default_factory=Resources)
    environment: Environment = field(default_factory=Environment)
    limits: Limits = field(default_factory=Limits)
    retry: RetryRule = field(default_factory=RetryRule)
    metrics: dict[str, str] = field(default_factory=dict)
    """Metric name -> regular expression, searched in every printed line; its first group is the value. A second group of
    ``epoch`` or ``step`` is the total."""
    checkpoints: str | None = None
    """Folder or URI that the checkpoints of all attempts go to; ``None``: a place of the toolbox's own, deleted with the
    job."""
    project: str = ""
    """Whose budget pays besides the user's own; "" for none."""
    profile: str = ""
    """Compute profile whose budget pays as well; "" for none."""
    register: str | None = None
    """Name of the registered model that the result becomes a version of."""
    tags: dict[str, str] = field(default_factory=dict)


class JobState(StrEnum):
    """The life of a job on every platform (platform states map onto these)."""

    QUEUED = "queued"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in _FINAL

    def may_become(self, other: JobState) -> bool:
        """Whether the step to ``other`` is legal. Staying is; leaving a final state is not."""
        return other is self or other in _NEXT[self]


_FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED})
_NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(JobState) - {JobState.QUEUED},
    # Back to queued: capacity was taken away before the program ran.
    JobState.PROVISIONING: frozenset(JobState) - {JobState.PROVISIONING},
    # Back to queued or provisioning: a new attempt after a preemption or a lost machine.
    JobState.RUNNING: frozenset(JobState) - {JobState.RUNNING},
    JobState.STOPPING: _FINAL,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.STOPPED: frozenset(),
}

FailureKind = Literal[
    "exception",
    "out-of-memory",
    "missing-module",
    "missing-file",
    "killed",
    "timeout",
    "lost",
    "preempted",
    "no-capacity",
    "budget",
    "environment",
    "exit-code",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureDigest:
    """Why a job failed, in one line and one next step."""

    kind: FailureKind
    cause: str
    """One line, e.g. ``ValueError: could not convert string to float: 'x'``."""
    where: str = ""
    """``file:line`` of the user's own code, when known."""
    evidence: str = ""
    """The last telling log line, exit status or signal."""
    next_step: str = ""

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.cause}{place}" + (f" ({self.evidence})" if self.evidence else "")
