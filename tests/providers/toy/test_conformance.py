"""The shipped suites, bound to a provider that was installed from outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_provider import ToyProvider

from ml_toolbox.base.processes import marked
from ml_toolbox.packages import save_model
from ml_toolbox.ports.jobs import JobBackend
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.testing import metrics, secrets
from ml_toolbox.testing.endpoints import NAME, BoundEndpoints, EndpointBackendTests, SampleModel
from ml_toolbox.testing.jobs import JobBackendTests


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that always answer 1 and 2, and one whose files are damaged."""
    from sklearn.linear_model import LinearRegression

    root = tmp_path_factory.mktemp("packages")
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])
    for constant in (1.0, 2.0):
        save_model(LinearRegression().fit(rows, [constant] * 3), root / f"{constant:g}", sample_input=rows)
    shutil.copytree(root / "2", root / "broken")
    for path in (root / "broken").rglob("*"):
        if path.is_file() and path.name != "mltoolbox.json":
            path.write_bytes(b"damaged")
    return root


class TestToyJobs(JobBackendTests):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], JobBackend]:
        context = ProviderContext(home=tmp_path / "home", install="suite", settings={})
        return lambda: ToyProvider().job_backend("toy", context)


class TestToyEndpoints(EndpointBackendTests):
    @pytest.fixture
    def bound(self, tmp_path: Path, packages: Path) -> Iterator[BoundEndpoints]:
        context = ProviderContext(home=tmp_path / "home", install="suite", settings={})

        def sample(constant: float) -> SampleModel:
            return SampleModel(
                package=str(packages / f"{constant:g}"),
                request=json.dumps({"instances": [[1.0, 2.0]]}).encode(),
                recognises=lambda body: bool(np.allclose(json.loads(body)["predictions"], [constant])),
            )

        yield BoundEndpoints(
            backend=ToyProvider().endpoint_backend("toy", context),
            again=lambda: ToyProvider().endpoint_backend("toy", context),
            first=sample(1.0),
            second=sample(2.0),
            broken=str(packages / "broken"),
        )
        ToyProvider().endpoint_backend("toy", context).delete(NAME)
        assert marked(str(context.home / "providers" / "toy" / "endpoints" / NAME)) == set()  # no server is left


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
