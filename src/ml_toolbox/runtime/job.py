"""What one attempt of a job is told (``job.json``), and where its files lie.

Written by a backend, read by the runtime. Named tuples and not dataclasses here and in the rest of the train path:
importing ``dataclasses`` costs 7 ms, three times, before the user's first line.
"""

from __future__ import annotations

import json
import os
from threading import get_ident
from typing import Any, NamedTuple


class Places(NamedTuple):
    """A folder of lock files that stand for a scarce thing on this host: places in the queue, or GPUs."""

    folder: str
    total: int


class RuntimeJob(NamedTuple):
    """One attempt. Paths are absolute; everything is JSON."""

    job: str
    """Id of the job (stable over attempts)."""
    name: str
    attempt: int = 1
    script: str | None = None
    command: list[str] | None = None
    arguments: list[str] = []  # noqa: RUF012 - never changed; a named tuple has no field factories
    hyperparameters: dict[str, Any] = {}  # noqa: RUF012
    inputs: dict[str, str] = {}  # noqa: RUF012
    """Channel -> absolute path or URI."""
    identities: dict[str, str] = {}  # noqa: RUF012
    """Channel -> what it was, where the sender knows it (``data:churn:3``); otherwise the runtime takes checksums."""
    variables: dict[str, str] = {}  # noqa: RUF012
    interpreter: str = ""
    """Python that runs the script, unless ``prepare`` prints another."""
    prepare: list[str] | None = None
    """Command run before the script; the last line it prints is the interpreter to use."""
    max_duration_s: float = 86400.0
    stop_grace_s: float = 30.0
    memory_bytes: int | None = None
    cpus: float | None = None
    gpus: int = 0
    metrics: dict[str, str] = {}  # noqa: RUF012
    code_sha256: str = ""
    queue: Places | None = None
    devices: Places | None = None
    checkpoints: str | None = None
    """Folder of checkpoints that all attempts of the job share; ``None``: this attempt's own."""
    checkpoint_store: str | None = None
    """URI on object storage that ``runtime.checkpoint`` saves to instead of the folder."""
    mark: str = ""
    """Value of the environment variable that marks every process of this attempt."""

    @classmethod
    def read(cls, path: str) -> RuntimeJob:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)["runtime"]
        for name in ("queue", "devices"):
            if values.get(name):
                values[name] = Places(*values[name])
        return cls(**values)


class Layout:
    """The files of one attempt below its root. The tree below ``ml`` is that of ``/opt/ml``, with the same names."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.job = os.path.join(root, "job.json")
        self.supervisor = os.path.join(root, "supervisor.json")
        self.status = os.path.join(root, "status.json")
        self.stop = os.path.join(root, "stop")
        self.preempt = os.path.join(root, "preempt")
        self.log = os.path.join(root, "log")
        self.progress = os.path.join(root, "progress.jsonl")
        self.checkpoint = os.path.join(root, "checkpoint.json")
        self.restored = os.path.join(root, "restored")
        self.result = os.path.join(root, "result.json")
        self.lineage = os.path.join(root, "lineage.json")
        self.package = os.path.join(root, "package")
        self.ml = os.path.join(root, "ml")
        self.config = os.path.join(self.ml, "input", "config")
        self.data = os.path.join(self.ml, "input", "data")
        self.code = os.path.join(self.ml, "code")
        self.model = os.path.join(self.ml, "model")
        self.output = os.path.join(self.ml, "output")
        self.output_data = os.path.join(self.output, "data")
        self.intermediate = os.path.join(self.output, "intermediate")
        self.failure = os.path.join(self.output, "failure")
        self.checkpoints = os.path.join(self.ml, "checkpoints")
        self.mlruns = os.path.join(root, "mlruns")
        self.tensorboard = os.path.join(self.ml, "tensorboard")

    def make(self, checkpoints: str | None = None) -> None:
        """Create the folders; ``checkpoints`` is a folder elsewhere that stands in for this attempt's own."""
        if checkpoints is not None and not os.path.lexists(self.checkpoints):
            os.makedirs(checkpoints, exist_ok=True)
            os.makedirs(self.ml, exist_ok=True)
            os.symlink(checkpoints, self.checkpoints)
        for folder in (
            self.config,
            self.data,
            self.code,
            self.model,
            self.output_data,
            self.intermediate,
            self.checkpoints,
            self.tensorboard,
        ):
            os.makedirs(folder, exist_ok=True)


def write_json(path: str, value: Any, *, durable: bool = False) -> None:
    """Replace the file in one step: a reader sees the old text or the new, never half. ``durable``: also after a power cut."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def create_json(path: str, value: Any) -> bool:
    """Put the file in place in one step unless there is one; whether it was put. Of several at once, one does."""
    temporary = f"{path}.{os.getpid()}-{get_ident()}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def read_json(path: str) -> Any:
    """The value, or ``None`` when there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
