"""``CloudModelServing``: a guide's deployment call as an endpoint of the toolbox."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.base.ids import check_name, new_ulid
from ml_toolbox.cloud_integration.packaging import fetched, prepared
from ml_toolbox.cloud_integration.providers import CloudProvider, as_provider
from ml_toolbox.cloud_integration.registry import CloudModelRegistry
from ml_toolbox.packages import open_package
from ml_toolbox.packages.layout import sha256_file
from ml_toolbox.packages.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from ml_toolbox.features.serving import Endpoint

PLATFORM_SETTINGS = ("serving_image", "execution_role", "instance_type", "machine_type")
"""What a cloud's own backend needs to know; a backend that has no such thing does not look at them."""
_SETTINGS = (*PLATFORM_SETTINGS, "instance_count", "min_replicas", "max_replicas", "registry", "wait_s")


class CloudModelServing:
    """Endpoints on a provider's backend.

    Args:
        provider: a name or a provider object.
        config: ``instance_count`` or ``min_replicas`` (servers), ``registry`` (a ``CloudModelRegistry``, for references such
            as ``churn:3``; default: the toolbox's own), ``wait_s`` (how long to wait for readiness, 120; 0: not at all); and
            what a cloud needs: ``serving_image``, ``execution_role``, ``instance_type``, ``machine_type``. ``Invalid`` names
            an unknown key.
    """

    def __init__(self, provider: str | CloudProvider, config: Mapping[str, Any] | None = None) -> None:
        self.provider = as_provider(provider, {})
        self.config = dict(config or {})
        for key in self.config:
            if key not in _SETTINGS:
                raise Invalid.choice("config", key, _SETTINGS)

    def deploy_model(self, model: Any, version: str, endpoint_name: str) -> DeployedEndpoint:
        """Serve the model and return once it answers.

        An endpoint of this name that serves another model is changed to this one without a lost request.

        Args:
            model: a fitted model, a package folder, the path or URI of a stored model, a registry reference (``churn:3``,
                ``churn@Production``), or ``{"model_data_url": URI of a model.tar.gz}``.
            version: what this version is called in answers and metrics.
        Raises:
            Unsupported: the provider's backend is not installed, before anything is written; or the model has no signature.
            NotFound: no such model. NotYet: not ready in time; it may become so later.
        """
        backend = self.provider.require_backend("endpoints")
        check_name(endpoint_name, field="endpoint_name")
        variant = check_name(str(version), field="version")
        replicas = self._replicas()
        wait_s = self.config.get("wait_s", 120.0)
        endpoint = self.provider.toolbox.serving.deploy(
            self._located(model), endpoint_name, replicas=replicas, variant=variant, on=backend
        )
        if wait_s:
            endpoint.wait_ready(timeout_s=wait_s)
        return DeployedEndpoint(endpoint)

    def endpoint(self, endpoint_name: str) -> DeployedEndpoint:
        """The endpoint of that name, from any process. ``NotFound`` when there is none."""
        self.provider.require_backend("endpoints")
        return DeployedEndpoint(self.provider.toolbox.serving.endpoint(endpoint_name))

    def _replicas(self) -> int:
        low: Any = self.config.get("min_replicas", self.config.get("instance_count", 1))
        high: Any = self.config.get("max_replicas", low)
        for key, value in (("min_replicas" if "min_replicas" in self.config else "instance_count", low),
                           ("max_replicas", high)):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise Invalid(f"config: {key} must be a whole number from 1, not {value!r}", field=f"config.{key}")
        if low != high:
            raise Unsupported(
                f"provider {self.provider.name!r} does not change the number of servers by load ({low} to {high} was asked)",
                hint="give min_replicas and max_replicas the same value, or instance_count",
                provider=self.provider.name,
            )
        return int(low)

    def _located(self, model: Any) -> str:
        """The model as ``Toolbox.serving`` takes it: a reference, or a folder that stays as long as it is served."""
        if isinstance(model, Mapping):
            if set(model) != {"model_data_url"}:
                raise Invalid(
                    f"model: a dict has the one key model_data_url, not {', '.join(map(str, model)) or 'none'}",
                    field="model",
                )
            return str(self._kept_from(str(model["model_data_url"])))
        if isinstance(model, str | os.PathLike):
            return self._located_text(model)
        with tempfile.TemporaryDirectory(prefix="mlt-deploy-") as temporary:
            return str(_keep(self.provider.toolbox, prepared(model, Path(temporary), metadata={})))

    def _located_text(self, model: str | os.PathLike[str]) -> str:
        text = os.fspath(model)
        if (Path(text) / MANIFEST_NAME).is_file():
            return str(Path(text).absolute())
        if not isinstance(model, str) or "/" in text:
            return str(self._kept_from(text))
        registry = self.config.get("registry")
        if registry is None:
            return text
        if not isinstance(registry, CloudModelRegistry):
            raise Invalid("config: registry must be a CloudModelRegistry", field="config.registry")
        with tempfile.TemporaryDirectory(prefix="mlt-deploy-") as temporary:
            found = registry.registry.get(text)
            return str(_keep(self.provider.toolbox, registry.registry.download(found.ref, Path(temporary) / "package")))

    def _kept_from(self, path: str) -> Path:
        with fetched(self.provider, path) as folder:
            return _keep(self.provider.toolbox, folder)


def _keep(toolbox: Toolbox, folder: Path) -> Path:
    """A copy of the package below the toolbox's home, named by its manifest: the servers read it as long as they live."""
    package = open_package(folder)
    package.required_signature()
    package.verify()
    kept = toolbox.home / "cache" / "packages" / sha256_file(folder / MANIFEST_NAME)[0]
    if kept.exists():
        return kept
    partial = kept.with_name(f"{kept.name}.{new_ulid()}.partial")
    try:
        shutil.copytree(folder, partial)
        partial.rename(kept)
    except OSError:
        # Another process was faster; its copy is as good.
        if not kept.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


class DeployedEndpoint:
    """A served name."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.name = endpoint.name
        # The guides never close anything: the kept connection goes with the handle.
        weakref.finalize(self, endpoint.close)

    def __repr__(self) -> str:
        return f"DeployedEndpoint({self.name!r}, status={self.status!r})"

    @property
    def status(self) -> str:
        """``creating``, ``ready``, ``updating``, ``degraded``, ``failed`` or ``deleting``."""
        return self._endpoint.status().state.value

    @property
    def url(self) -> str:
        """Base URL; predictions go to its ``/invocations``, ``/predict``, ``/v1/models/...`` and ``/v2/models/...``."""
        return self._endpoint.url

    def predict(self, rows: Any) -> Any:
        """Predictions in the order of ``rows``; for a single row (a dict or flat list) its one prediction."""
        return self._endpoint.predict(rows)

    def delete(self) -> None:
        """Stop serving and remove everything."""
        self._endpoint.delete()
