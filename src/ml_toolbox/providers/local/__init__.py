"""The machine in front of the user: jobs as supervised processes, endpoints as supervised model servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_toolbox.base.errors import NotFound

if TYPE_CHECKING:
    from ml_toolbox.ports.endpoints import EndpointBackend
    from ml_toolbox.ports.jobs import JobBackend
    from ml_toolbox.ports.metrics import MetricSink
    from ml_toolbox.ports.provider import BackendInfo, Check, ProviderContext
    from ml_toolbox.ports.secrets import SecretStore


class LocalProvider:
    """The provider that needs no account. Its parts are imported when they are asked for."""

    name = "local"
    title = "This machine"

    @property
    def backends(self) -> tuple[BackendInfo, ...]:
        from ml_toolbox.ports.provider import BackendInfo
        from ml_toolbox.providers.local import lacks

        return (
            BackendInfo(
                name="local",
                title="Processes on this machine",
                jobs=lacks.JOBS,
                endpoints=lacks.ENDPOINTS,
                host_bound=True,
            ),
        )

    def job_backend(self, backend: str, context: ProviderContext) -> JobBackend:
        from ml_toolbox.providers.local.jobs import LocalJobBackend

        _known(backend)
        return LocalJobBackend(context)

    def endpoint_backend(self, backend: str, context: ProviderContext) -> EndpointBackend:
        from ml_toolbox.providers.local.endpoints import LocalEndpointBackend

        _known(backend)
        return LocalEndpointBackend(context)

    def secret_store(self, context: ProviderContext) -> SecretStore | None:
        from ml_toolbox.providers.local.secrets import LocalSecretStore

        return LocalSecretStore(context.home / "providers" / "local" / "secrets")

    def metric_sink(self, context: ProviderContext) -> MetricSink | None:
        from ml_toolbox.providers.local.metrics import LocalMetricSink

        return LocalMetricSink(context.home / "providers" / "local" / "metrics")

    def check(self, context: ProviderContext) -> tuple[Check, ...]:
        from ml_toolbox.providers.local.checks import checks

        return checks(context)


def _known(backend: str) -> None:
    if backend != "local":
        raise NotFound(f"the local provider has no backend {backend!r}", hint="its one backend is called local")


PROVIDER = LocalProvider()
