"""The job suite on the local backend, and what only local jobs promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.ports.jobs import JobBackend
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.jobs import LocalJobBackend
from ml_toolbox.providers.local.machine import Machine
from ml_toolbox.testing.jobs import JobBackendTests

MACHINE = Machine(cpus=2, memory_gib=4.0)


def local(home: Path, **settings: object) -> LocalJobBackend:
    return LocalJobBackend(ProviderContext(home=home, install="suite", settings=settings), machine=MACHINE)


class TestLocalJobs(JobBackendTests):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], JobBackend]:
        return lambda: local(tmp_path / "home", max_concurrent_jobs=8)
