"""A job's folder seen from outside: what a backend that starts the runtime itself writes into it and reads from it.

For any backend that can see the folder (a process, a container with a mounted volume). Not imported inside a job.
"""

from __future__ import annotations

import os
from typing import Any

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.jobs import FailureDigest, JobSpec, JobState
from ml_toolbox.ports.jobs import Checkpoint, JobObservation, LogChunk, LogLine, Owner
from ml_toolbox.runtime.ending import FINAL_STATES
from ml_toolbox.runtime.job import Layout, RuntimeJob, read_json

_STREAMS = {b"o": "out", b"e": "err", b"s": "system"}
_LOG_BYTES = 1 << 20
"""Most that one call of :func:`log_chunk` returns."""


def order(spec: JobSpec, owner: Owner) -> RuntimeJob:
    """The spec as the runtime wants it told. Pure; left to the backend: ``interpreter``, ``mark``, queue and devices."""
    memory = spec.resources.memory_gib
    return RuntimeJob(
        job=owner.row,
        name=spec.name,
        attempt=owner.attempt,
        script=spec.script,
        command=list(spec.command) if spec.command else None,
        arguments=list(spec.arguments),
        hyperparameters=dict(spec.hyperparameters),
        inputs=dict(spec.inputs),
        identities={
            name.removeprefix("mlt:data:"): value for name, value in spec.tags.items() if name.startswith("mlt:data:")
        },
        variables=dict(spec.environment.variables),
        max_duration_s=spec.limits.max_duration_s,
        stop_grace_s=spec.limits.stop_grace_s,
        memory_bytes=int(memory * 2**30) if memory else None,
        cpus=spec.resources.cpus,
        metrics=dict(spec.metrics),
        code_sha256=spec.tags.get("mlt:code", ""),
        checkpoints=checkpoint_folder(spec.checkpoints),
        checkpoint_store=checkpoint_store(spec.checkpoints),
    )


def checkpoint_folder(place: str | None) -> str | None:
    """The place of a spec's checkpoints when it is a folder of this machine."""
    return None if place is None or _is_remote(place) else os.path.abspath(place.removeprefix("file://"))


def checkpoint_store(place: str | None) -> str | None:
    """The place of a spec's checkpoints when it is on object storage."""
    return place if place is not None and _is_remote(place) else None


def _is_remote(place: str) -> bool:
    return "://" in place and not place.startswith("file://")


def observation(layout: Layout) -> JobObservation:
    """What the folder shows now. Whether anybody is left to change it is the backend's to know."""
    status: dict[str, Any] = read_json(layout.status) or {"state": "queued"}
    stopping = status["state"] not in FINAL_STATES and os.path.exists(layout.stop)
    leaving = not stopping and status["state"] not in FINAL_STATES and os.path.exists(layout.preempt)
    failure = status.get("failure")
    saved = read_json(layout.checkpoint)
    return JobObservation(
        state=JobState.STOPPING if stopping else JobState(status["state"]),
        exit_code=status.get("exit_code"),
        failure=FailureDigest(**failure) if failure else None,
        progress=status.get("progress"),
        epoch=status.get("epoch"),
        metrics=status.get("metrics") or {},
        started_at=status.get("started_at"),
        ended_at=status.get("ended_at"),
        model_uri=status.get("model"),
        output_uri=layout.output_data if os.path.isdir(layout.output_data) else None,
        checkpoint=Checkpoint(**saved) if saved else None,
        message="the capacity is being taken away" if leaving else status.get("message", ""),
    )


def log_chunk(layout: Layout, cursor: str = "") -> LogChunk:
    """Whole lines after the cursor. ``Invalid`` for a cursor that no call returned."""
    if cursor and not cursor.isdigit():
        raise Invalid(f"{cursor!r} is no cursor of a job's log", field="cursor")
    # The state is read before the file: a final state then promises that the file had been complete.
    final = observation(layout).state.is_final
    start = int(cursor or 0)
    data = b""
    if os.path.exists(layout.log):
        with open(layout.log, "rb") as file:
            file.seek(start)
            data = file.read(_LOG_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    lines = tuple(_log_line(line) for line in whole.split(b"\n")[:-1])
    return LogChunk(lines=lines, cursor=str(start + len(whole)), ended=final and len(data) < _LOG_BYTES)


def _log_line(line: bytes) -> LogLine:
    at, stream, text = line.split(b" ", 2)
    return LogLine(float(at), text.decode("utf-8", "replace"), _STREAMS[stream])  # type: ignore[arg-type]
