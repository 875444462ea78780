"""A whole local set-up on one home, for tests that kill it: training feature, SQLite state, local backend, a registry."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ml_toolbox.domain.jobs import JobSpec, Limits, RetryRule
from ml_toolbox.engine.rows import Row
from ml_toolbox.features.training import JobRecord, Training
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.jobs import LocalJobBackend
from ml_toolbox.state.sqlite import SqliteStore

COUNTING = """
import os
from ml_toolbox import runtime
with open(os.environ['RUNS'], 'a') as file:
    file.write('x')
"""
"""A script that leaves a mark outside of its job each time it runs."""


class Home:
    """Everything a command would build on one ``$MLTOOLBOX_HOME``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = SqliteStore(root / "state.db")
        context = ProviderContext(home=root, install="crash", settings={"max_concurrent_jobs": 8})
        self.backend = LocalJobBackend(context)
        self.training = Training(
            self.store, lambda _name: self.backend, home=root, install=context.install, register=self._register
        )

    def _register(self, job: JobRecord) -> str:
        """Idempotent by the job's id, like the real registry; counts how many versions there are."""
        registry = self.root / "registry"
        registry.mkdir(exist_ok=True)
        try:
            descriptor = os.open(registry / job.id, os.O_CREAT | os.O_EXCL)
            os.close(descriptor)
        except FileExistsError:
            pass
        return f"{job.spec.register}:1"

    def rows(self) -> tuple[Row, ...]:
        return self.store.find("job")

    def resources(self) -> list[str]:
        return [job_id for job_id, _ in self.backend.list_by_tag({})]

    def registered(self) -> list[str]:
        registry = self.root / "registry"
        return sorted(path.name for path in registry.iterdir()) if registry.exists() else []


def spec(source: Path, script: str, *, register: str | None = None, lost: int = 0) -> JobSpec:
    source.mkdir(exist_ok=True)
    (source / "train.py").write_text(script)
    return JobSpec(
        name="crashing",
        script="train.py",
        source=str(source),
        register=register,
        retry=RetryRule(lost=lost),
        limits=Limits(max_duration_s=60, stop_grace_s=1),
    )


def until(reached: Callable[[], bool], what: str, *, within_s: float = 20.0) -> None:
    """Poll until it is so; fails with what was waited for."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
