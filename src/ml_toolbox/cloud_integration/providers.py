"""The guide's provider classes: an account somewhere, its storage, and the names of its backends.

Storage on S3 and Azure needs nothing but object storage, so it works for both. Jobs and endpoints go to the installed
backend of the account's name; where none is installed, every such method refuses before anything is sent or written.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.base.uri import Uri, UriLike
from ml_toolbox.objects import StoreSettings, locate, open_store
from ml_toolbox.ports.objects import ObjectStore

if TYPE_CHECKING:
    from ml_toolbox.cloud_integration.serving import DeployedEndpoint
    from ml_toolbox.cloud_integration.training import TrainingJob


class CloudProvider:
    """What every account offers. Subclass it with a name, the URI schemes and the backends of another account.

    ``root`` is what paths without a scheme stand below. Nothing is contacted and no credentials are looked for until the
    first call.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    """Normalised URI schemes of its storage."""
    training_backend: ClassVar[str]
    serving_backend: ClassVar[str]

    def __init__(
        self, *, root: UriLike = "", settings: StoreSettings | None = None, toolbox: Toolbox | None = None
    ) -> None:
        self._root = Uri.parse(root) if root else None
        self._settings = settings or StoreSettings()
        self._given_toolbox = toolbox

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._root or ''})"

    @cached_property
    def toolbox(self) -> Toolbox:
        """The installation that runs jobs and endpoints; ``$MLTOOLBOX_HOME`` unless another was given."""
        return self._given_toolbox or Toolbox()

    # Storage

    def place(self, path: UriLike) -> Uri:
        """Where ``path`` lies in this account's storage.

        ``Invalid`` for another account's URI, and for a path without scheme when the account has no ``root``.
        """
        if isinstance(path, Uri) or (isinstance(path, str) and "://" in path):
            place = Uri.parse(path)
            if place.scheme not in self.schemes:
                known = " or ".join(f"{scheme}://" for scheme in self.schemes)
                raise Invalid(
                    f"path: {place} is not in the storage of provider {self.name!r}, which is {known}",
                    hint=f"write a {known} URI, or use CloudStorage(provider=...) of the other account",
                    field="path",
                )
            return place
        if self._root is None:
            return self._place_without_root(path)
        if isinstance(path, str) and not path.startswith("/"):
            return self._root / path.removeprefix("./").removesuffix("/")
        raise Invalid(
            f"path: {os.fspath(path)!r} is not below {self._root}", hint="write it relative to the root", field="path"
        )

    def _place_without_root(self, path: str | os.PathLike[str]) -> Uri:
        raise Invalid(
            f"path: {os.fspath(path)!r} does not say which bucket of provider {self.name!r}",
            hint=f"write {self.schemes[0]}://BUCKET/{os.fspath(path)}",
            field="path",
        )

    def folder_store(self, path: UriLike) -> ObjectStore:
        """The store rooted at ``path``."""
        return open_store(self.place(path), settings=self._settings)

    def object_store(self, path: UriLike) -> tuple[ObjectStore, str]:
        """The store that holds the object at ``path``, and its key there."""
        return locate(self.place(path), settings=self._settings)

    def upload_data(self, data: bytes | str | os.PathLike[str] | IO[Any], path: UriLike) -> str:
        """Store bytes, a file by its path, or an open binary file; returns the URI once it is durable."""
        store, key = self.object_store(path)
        if isinstance(data, str | os.PathLike):
            source = Path(data).expanduser()
            if not source.is_file():
                raise NotFound(f"there is no file {source}", hint="pass bytes to store text", resource=str(source))
            store.put(key, source)
        elif isinstance(data, bytes | bytearray | memoryview):
            store.put(key, bytes(data))
        else:
            if isinstance(data.read(0), str):
                raise Invalid("data: the file is open as text", hint="open it with mode 'rb'", field="data")
            store.put(key, data)
        return str(self.place(path))

    def download_data(self, path: UriLike) -> bytes:
        """The whole object. ``NotFound`` when there is none."""
        store, key = self.object_store(path)
        return store.get(key).data

    # Jobs, endpoints, metrics

    def create_training_job(self, config: Mapping[str, Any]) -> TrainingJob:
        """``CloudTraining(self, config)`` with ``training_script``, ``data_path`` and ``output_path`` in the same dict."""
        from ml_toolbox.cloud_integration.training import CloudTraining

        call, rest = _split(config, ("training_script", "data_path", "output_path"))
        return CloudTraining(self, rest).train_distributed(**call)

    def deploy_model(self, model: Any, config: Mapping[str, Any]) -> DeployedEndpoint:
        """``CloudModelServing(self, config)`` with ``version`` and ``endpoint_name`` in the same dict."""
        from ml_toolbox.cloud_integration.serving import CloudModelServing

        call, rest = _split(config, ("version", "endpoint_name"))
        return CloudModelServing(self, rest).deploy_model(model, **call)

    def monitor_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record the numbers, all or none, as measured now, where the account keeps its metrics."""
        from ml_toolbox.ports.metrics import MetricPoint

        installed = self.toolbox.providers.get(self.name)
        sink = installed.metric_sink(self.toolbox.installed.context(installed)) if installed is not None else None
        if sink is None:
            raise Unsupported(
                f"provider {self.name!r} keeps no metrics: no metric sink of it is installed",
                hint=f"providers installed here: {', '.join(sorted(self.toolbox.providers))}",
                provider=self.name,
            )
        now = time.time()
        sink.record([MetricPoint(name, float(value), now) for name, value in metrics.items()])

    def require_backend(self, port: str) -> str:
        """Name of the account's backend for ``jobs`` or ``endpoints``; ``Unsupported`` when it is not installed."""
        wanted = self.training_backend if port == "jobs" else self.serving_backend
        known = {name for name, (_, info) in self.toolbox.backends().items() if getattr(info, port) is not None}
        if wanted not in known:
            raise Unsupported(
                f"provider {self.name!r} cannot run {port} here: its backend {wanted!r} is not installed",
                hint=f"backends with {port} installed here: {', '.join(sorted(known)) or 'none'}"
                " (mltoolbox backends list)",
                provider=self.name,
            )
        return wanted


class LocalProvider(CloudProvider):
    """This machine. Paths are files; without ``root`` a relative path stands below the working directory."""

    name = "local"
    schemes = ("file", "memory")
    training_backend = "local"
    serving_backend = "local"

    def _place_without_root(self, path: str | os.PathLike[str]) -> Uri:
        return Uri.parse(path)


class AWSProvider(CloudProvider):
    """An AWS account; credentials come from the environment, the profile or the machine, as for the AWS SDKs.

    ``bucket`` (``BUCKET`` or ``BUCKET/PREFIX``) is what paths without ``s3://`` stand below.
    """

    name = "aws"
    schemes = ("s3",)
    training_backend = "aws-sagemaker"
    serving_backend = "aws-sagemaker"

    def __init__(
        self,
        region: str = "us-east-1",
        *,
        bucket: str = "",
        settings: StoreSettings | None = None,
        toolbox: Toolbox | None = None,
    ) -> None:
        from dataclasses import replace

        self.region = region
        super().__init__(
            root=f"s3://{bucket.removeprefix('s3://')}" if bucket else "",
            settings=replace(settings or StoreSettings(), region=region),
            toolbox=toolbox,
        )


class AzureProvider(CloudProvider):
    """An Azure subscription. Its storage account is named by ``AZURE_STORAGE_CONNECTION_STRING`` or
    ``AZURE_STORAGE_ACCOUNT_NAME``, by ``settings``, or in the URI (``az://container@account/key``).

    ``container`` (``CONTAINER`` or ``CONTAINER/PREFIX``) is what paths without ``az://`` stand below.
    """

    name = "azure"
    schemes = ("az",)
    training_backend = "azure-ml"
    serving_backend = "azure-ml"

    def __init__(
        self,
        subscription_id: str = "",
        resource_group: str = "",
        *,
        container: str = "",
        settings: StoreSettings | None = None,
        toolbox: Toolbox | None = None,
    ) -> None:
        self.subscription_id = subscription_id
        self.resource_group = resource_group
        super().__init__(root=f"az://{container}" if container else "", settings=settings, toolbox=toolbox)


_KNOWN: dict[str, type[CloudProvider]] = {kind.name: kind for kind in (LocalProvider, AWSProvider, AzureProvider)}
_NOT_INSTALLED = {
    "gcp": "Google Cloud Storage is not among the object stores of this version",
    "kubernetes": "a cluster has no object storage of its own in this version",
}


def as_provider(provider: str | CloudProvider, config: Mapping[str, Any]) -> CloudProvider:
    """The provider that a guide's ``provider=`` means. ``Invalid`` names an unknown provider or setting."""
    if isinstance(provider, CloudProvider):
        if config:
            raise Invalid(
                f"config: {', '.join(sorted(config))} was given beside a provider that is configured already",
                hint="give settings to the provider object, or name the provider by a string",
                field="config",
            )
        return provider
    if not isinstance(provider, str):
        raise Invalid(
            f"provider: a {type(provider).__name__} is not a provider",
            hint="pass a name such as 'local', or an object of a class derived from CloudProvider",
            field="provider",
        )
    if provider in _NOT_INSTALLED:
        raise Unsupported(
            f"provider {provider!r}: {_NOT_INSTALLED[provider]}",
            hint=f"available: {', '.join(sorted(_KNOWN))}",
            provider=provider,
        )
    if provider not in _KNOWN:
        raise Invalid.choice("provider", provider, _KNOWN)
    kind = _KNOWN[provider]
    known = [name for name in inspect.signature(kind).parameters if name != "self"]
    for key in config:
        if key not in known:
            raise Invalid.choice(f"provider {provider!r}: setting", key, known)
    return kind(**config)


def _split(config: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the call, all of them needed, and the rest of the dict."""
    missing = [name for name in names if name not in config]
    if missing:
        raise Invalid(
            f"config: {', '.join(missing)} missing", hint=f"it needs {', '.join(names)}", field=f"config.{missing[0]}"
        )
    return {name: config[name] for name in names}, {k: v for k, v in config.items() if k not in names}
