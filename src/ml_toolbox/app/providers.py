"""Installed providers and their backends, by name and by place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.app.settings import install_id
from ml_toolbox.base.errors import Invalid, NotFound, Unavailable, Unsupported
from ml_toolbox.base.processes import host_name
from ml_toolbox.ports.provider import ENTRY_POINT_GROUP, BackendInfo, Provider, ProviderContext

if TYPE_CHECKING:
    from ml_toolbox.ports.endpoints import EndpointBackend
    from ml_toolbox.ports.jobs import JobBackend

DEFAULT_BACKEND = "local"


class Installed:
    """The providers of this environment. Built-ins and outsiders enter by the same entry point.

    A place is a backend's name, with ``@region`` where one was chosen, or ``@machine.home`` where what it makes can be seen
    there alone and the state is shared by several.
    """

    def __init__(
        self,
        home: Path,
        settings: Callable[[], Mapping[str, Mapping[str, Any]]],
        install: Callable[[], str],
        *,
        known_places: Callable[[], Collection[str] | None],
    ) -> None:
        """``known_places``: where rows were ever written for, when other machines write them too; ``None`` when they do not."""
        self._home = home
        self._settings = settings
        self._install = install
        self._known_places = known_places
        self.broken: dict[str, str] = {}
        """Those that could not be imported, and why; filled by ``providers``, told by ``backends check``."""

    @cached_property
    def providers(self) -> Mapping[str, Provider]:
        """All installed providers by name; built-ins and outsiders enter by the same entry point."""
        from importlib.metadata import entry_points

        found: dict[str, Provider] = {}
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                provider: Provider = point.load()
            except Exception as error:  # noqa: BLE001 - foreign code; one broken package must not take the others down
                self.broken[point.name] = f"{type(error).__name__}: {error}"
                continue
            if provider.name in found:
                raise Invalid(
                    f"two installed packages claim the provider name {provider.name!r}",
                    hint="uninstall one of them",
                    field="providers",
                )
            found[provider.name] = provider
        return found

    def backends(self) -> dict[str, tuple[Provider, BackendInfo]]:
        """Every backend of every provider by name. Data only: no credentials, SDK or network."""
        return {info.name: (provider, info) for provider in self.providers.values() for info in provider.backends}

    def context(self, provider: Provider, region: str = "") -> ProviderContext:
        own = self._settings().get(provider.name, {})
        settings = {**own, "region": region} if region else own
        return ProviderContext(home=self._home, install=self._install(), settings=settings)

    def of(self, backend: str) -> str:
        """The place where a new row for this backend goes."""
        if "@" in backend or self._known_places() is None or not self._backend(backend)[1].host_bound:
            return backend
        return f"{backend}@{self._here()}"

    def elsewhere(self) -> tuple[str, ...]:
        """Known places that only another machine can see."""
        return tuple(place for place in self._known_places() or () if self._is_elsewhere(place))

    def _here(self) -> str:
        """This machine and home: another home on the same machine has folders of its own."""
        return f"{host_name()}.{install_id(self._home)[:6]}"

    def _is_elsewhere(self, place: str) -> bool:
        backend, _, where = place.partition("@")
        known = self.backends().get(backend)
        return known is not None and known[1].host_bound and where not in ("", self._here())

    def job_backend(self, name: str = DEFAULT_BACKEND) -> JobBackend:
        """The backend that runs jobs there. ``Invalid`` for an unknown name, ``NotFound`` when it runs no jobs."""
        provider, info = self._backend(name.partition("@")[0])
        if info.jobs is None:
            raise NotFound(f"{name} runs no jobs", hint=f"these do: {self._names('jobs')}", resource=name)
        return provider.job_backend(info.name, self._context_at(name, provider, info))

    def warm_up(self, name: str = DEFAULT_BACKEND) -> None:
        """Let the backend get ready for a job that is about to be submitted, while this process still loads the state."""
        from ml_toolbox.ports.jobs import WarmUp

        backend = self.job_backend(name)
        if isinstance(backend, WarmUp):
            backend.warm_up()

    def endpoint_backend(self, name: str = DEFAULT_BACKEND) -> EndpointBackend:
        """The backend that serves models there. ``Invalid`` for an unknown name, ``NotFound`` when it serves none."""
        provider, info = self._backend(name.partition("@")[0])
        if info.endpoints is None:
            raise NotFound(f"{name} serves no models", hint=f"these do: {self._names('endpoints')}", resource=name)
        return provider.endpoint_backend(info.name, self._context_at(name, provider, info))

    def _context_at(self, place: str, provider: Provider, info: BackendInfo) -> ProviderContext:
        if self._is_elsewhere(place):
            raise Unavailable(
                f"{place} is another machine or home",
                hint="a command or an agent there goes on with it",
                resource=place,
            )
        return self.context(provider, "" if info.host_bound else place.partition("@")[2])

    def _backend(self, name: str) -> tuple[Provider, BackendInfo]:
        known = self.backends()
        if name not in known:
            for provider, reason in self.broken.items():
                if name.split("-")[0] == provider:
                    raise Unsupported(f"the provider {provider} cannot be imported: {reason}", resource=name)
            raise Invalid.choice("backend", name, known)
        return known[name]

    def _names(self, port: str) -> str:
        return ", ".join(sorted(n for n, (_, info) in self.backends().items() if getattr(info, port) is not None))
