"""The reading half of a backend whose jobs or endpoints are folders of this host, for provider authors to build on.

A subclass says what it lacks, what it asks for (``build``), and how it starts and ends what works in a folder; the
rest of the port is read from the folders and needs nothing that any one process remembers. Below ``root`` lies one folder per
job id or endpoint name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_toolbox.base.errors import NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.endpoints import EndpointStatus
from ml_toolbox.ports.endpoints import Invocation
from ml_toolbox.ports.jobs import JobObservation, LogChunk
from ml_toolbox.runtime import detached, folder, served
from ml_toolbox.runtime.ending import record_lost
from ml_toolbox.runtime.job import Layout, write_json


class JobFolders:
    """``observe``, ``logs``, ``stop`` and ``list_by_tag`` of a ``JobBackend``. Each folder's ``job.json`` holds the
    ``tags`` beside what the runtime is told, and whatever works in it was started by ``runtime.detached``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock(self, job_id: str) -> Path:
        """To hold while the job is started or removed (``base.locks.exclusive``)."""
        return _lock(self.root, job_id)

    def layout(self, job_id: str) -> Layout:
        """Where the job lies, whether or not it is there. ``Invalid`` for what cannot be an id."""
        return Layout(str(self.root / check_name(job_id, field="job")))

    def observe(self, job_id: str) -> JobObservation:
        return folder.observation(self._settled(job_id))

    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return folder.log_chunk(self._settled(job_id), cursor)

    def stop(self, job_id: str, *, grace_s: float) -> None:
        layout = self.layout(job_id)
        if os.path.exists(layout.job) and not os.path.exists(layout.stop):
            write_json(layout.stop, {"grace_s": grace_s})

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return detached.by_tag(str(self.root), "job.json", tags)

    def _settled(self, job_id: str) -> Layout:
        """The folder, with a final status when nobody is left to write one."""
        layout = self.layout(job_id)
        if not os.path.exists(layout.job):
            raise NotFound(f"there is no job {job_id}", resource=job_id)
        process = detached.started(layout.root)
        if process is not None and process.is_gone:
            record_lost(layout, "killed")
        return layout


class EndpointFolders:
    """``observe``, ``invoke``, ``logs`` and ``list_by_tag`` of an ``EndpointBackend``. Each folder is written by
    ``runtime.served.wish`` and served by one process that ``runtime.detached`` started."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock(self, endpoint: str) -> Path:
        """To hold while the endpoint is started, changed or removed (``base.locks.exclusive``)."""
        return _lock(self.root, endpoint)

    def layout(self, endpoint: str) -> served.EndpointLayout:
        """Where the endpoint lies, whether or not it is there. ``Invalid`` for what cannot be a name."""
        return served.EndpointLayout(str(self.root / check_name(endpoint, field="endpoint")))

    def observe(self, endpoint: str) -> EndpointStatus:
        layout = self.layout(endpoint)
        return served.observation(layout, detached.started(layout.root))

    def invoke(
        self,
        endpoint: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        variant: str = "",
        timeout_s: float = 30.0,
    ) -> Invocation:
        status = self.observe(endpoint)
        return served.ask(endpoint, status, body, content_type=content_type, variant=variant, timeout_s=timeout_s)

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        return served.log_chunk(self.layout(endpoint), cursor)

    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return detached.by_tag(str(self.root), "serve.json", tags)


def _lock(root: Path, name: str) -> Path:
    """Beside the folder and not in it: it outlives the folder's removal. Names begin with a letter or digit."""
    return root / ".locks" / check_name(name)
