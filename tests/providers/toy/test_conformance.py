"""The shipped suites, bound to a provider that was installed from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_provider import ToyProvider

from ml_toolbox.ports.jobs import JobBackend
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.testing import metrics, secrets
from ml_toolbox.testing.jobs import JobBackendTests


class TestToyJobs(JobBackendTests):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], JobBackend]:
        provider, context = ToyProvider(), ProviderContext(home=tmp_path / "home", install="suite", settings={})
        return lambda: provider.job_backend("toy", context)


class TestToySecrets(secrets.SecretStoreTests):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], secrets.Bound]:
        context = ProviderContext(home=tmp_path, install="suite", settings={})

        def bound() -> secrets.Bound:
            provider = ToyProvider()
            return secrets.Bound(store=provider.secret_store(context), again=lambda: provider.secret_store(context))

        return bound


class TestToyMetrics(metrics.MetricSinkTests):
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], metrics.Bound]:
        context = ProviderContext(home=tmp_path, install="suite", settings={})

        def bound() -> metrics.Bound:
            provider = ToyProvider()
            return metrics.Bound(sink=provider.metric_sink(context), again=lambda: provider.metric_sink(context))

        return bound
