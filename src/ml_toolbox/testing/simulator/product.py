"""What the simulator drives, handed in by the caller: the real workflows, and what users' commands do with them.

The simulator itself knows only ports and the engine; which features are bound to it is the business of the tests that run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ml_toolbox.base.clock import Clock
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.engine.agent import HoldsMoney
from ml_toolbox.engine.collection import Collectable, StoreWithBooks
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.runner import Runner
from ml_toolbox.ports.endpoints import EndpointBackend
from ml_toolbox.ports.jobs import JobBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a row says that it has, or had, on a platform."""

    attempt: int
    resource: str
    """Id; "" while it is not known."""
    asked_at: float = 0.0
    """When it was first meant to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """A row as the checker reads it."""

    row: Row
    is_deleted: bool
    """Nothing of it may exist any more."""
    held: tuple[Held, ...]
    model: str | None = None
    wants_model: bool = False
    user_error_retries: int = 0
    """How many more attempts the user's own errors get."""
    excused: bool = False
    """It failed for a reason of its own that the platform knows nothing of, such as an hour without any answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What one process is given to work with."""

    store: StoreWithBooks
    runner: Runner
    install: str
    clock: Clock
    """The host's own: wrong, and only fit to wait with."""
    jobs: Callable[[str], JobBackend]
    endpoints: Callable[[str], EndpointBackend]


class Driven(HoldsMoney, Collectable, Protocol):
    """One kind of work, as an agent needs it."""


class Registry(Protocol):
    """Where finished models go: a version per job, the same for the same job."""

    def register(self, job_id: str, name: str) -> str: ...


class Product(Protocol):
    """The features under test."""

    def workflows(
        self,
        jobs: Callable[[str], JobBackend],
        endpoints: Callable[[str], EndpointBackend],
        registry: Registry,
        install: str,
    ) -> Sequence[Driven]: ...

    def submit(self, around: Surroundings, row_id: str, spec: JobSpec, place: str, scopes: tuple[str, ...]) -> None:
        """What the command does, once the sources are frozen. Raises ``BudgetExceeded`` before anything is written."""

    def deploy(self, around: Surroundings, name: str, place: str, version: int) -> None:
        """Make the endpoint of that name, or change its model."""

    def view(self, row: Row) -> RowView: ...
