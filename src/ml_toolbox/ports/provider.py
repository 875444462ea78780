"""``Provider``: the door through which built-in and outside platforms enter (entry-point group ``ml_toolbox.providers``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ml_toolbox.ports.lacks import Lacking

if TYPE_CHECKING:
    # Every command knows its providers, and only some need each of these: their values take milliseconds to define.
    from ml_toolbox.ports.endpoints import EndpointBackend
    from ml_toolbox.ports.jobs import JobBackend
    from ml_toolbox.ports.metrics import MetricSink
    from ml_toolbox.ports.secrets import SecretStore

ENTRY_POINT_GROUP = "ml_toolbox.providers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderContext:
    """What a provider is handed: where it may keep files, who we are, and its own section of the settings."""

    home: Path
    """``$MLTOOLBOX_HOME``; a provider writes only below ``home / "providers" / name``."""
    install: str
    """Id of this installation; part of every owner tag."""
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """One backend as data: known without credentials, SDK or network."""

    name: str
    title: str
    jobs: Lacking | None = None
    """What its ``JobBackend`` lacks; ``None``: it runs no jobs."""
    endpoints: Lacking | None = None
    """What its ``EndpointBackend`` lacks; ``None``: it serves nothing."""
    host_bound: bool = False
    """What it makes lives on the machine that made it, and no other machine can see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``backends check``."""

    name: str
    ok: bool
    message: str
    hint: str = ""


@runtime_checkable
class Provider(Protocol):
    """An account somewhere. The entry point names an instance of this; importing it loads no SDK."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def backends(self) -> tuple[BackendInfo, ...]:
        """Its backends and what each lacks."""

    def job_backend(self, backend: str, context: ProviderContext) -> JobBackend:
        """Raises ``NotFound`` when the backend runs no jobs."""

    def endpoint_backend(self, backend: str, context: ProviderContext) -> EndpointBackend:
        """Raises ``NotFound`` when the backend serves nothing."""

    def secret_store(self, context: ProviderContext) -> SecretStore | None:
        """Its secret store, or ``None`` when it has none."""

    def metric_sink(self, context: ProviderContext) -> MetricSink | None:
        """Where it keeps metrics, or ``None``."""

    def check(self, context: ProviderContext) -> tuple[Check, ...]:
        """Who we are there and what is missing for what. Never raises for a platform that is not reachable: says so."""
