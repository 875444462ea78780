"""``CloudStorage``: datasets and models by path, on every provider that has object storage."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_toolbox import datasets, packages
from ml_toolbox.base.uri import UriLike
from ml_toolbox.cloud_integration.packaging import fetched, prepared
from ml_toolbox.cloud_integration.providers import CloudProvider, as_provider
from ml_toolbox.packages import NO_TRUST, Trust


class CloudStorage:
    """Datasets and models in a provider's object storage.

    Whatever a path is called - ``train.pkl`` included - what is stored is the dataset format (Arrow, npy, Parquet with
    checksums) or a model package, never pickle.

    Args:
        provider: ``"local"``, ``"aws"``, ``"azure"``, or a provider object.
        config: the provider's own settings (``region=``, ``bucket=``, ``subscription_id=``, ``root=`` ...).
    """

    def __init__(self, provider: str | CloudProvider = "local", **config: Any) -> None:
        self.provider = as_provider(provider, config)

    def save_dataset(self, X: Any, y: Any, path: UriLike) -> str:  # noqa: N803 - the name that users type
        """Store ``X`` and ``y`` (arrays, frames, tables; ``y`` may be None) under ``path`` and return its URI.

        The new dataset replaces an older one there at once: a reader sees one or the other. ``Invalid`` names the column
        that could not be brought back exactly; then nothing visible changed.
        """
        datasets.save((X, y) if y is not None else {"X": X}, self.provider.folder_store(path))
        return str(self.provider.place(path))

    def load_dataset(self, path: UriLike) -> tuple[Any, Any]:
        """``(X, y)`` as the kinds that were saved. ``NotFound`` when there is no dataset."""
        store = self.provider.folder_store(path)
        data = datasets.load(store)
        if isinstance(data, tuple) and len(data) == 2:
            return data
        if isinstance(data, dict) and "X" in data:
            return data["X"], data.get("y")
        return data, None

    def save_model(
        self, model: Any, path: UriLike, metadata: Mapping[str, Any] | None = None, *, sample_input: Any = None
    ) -> str:
        """Store the model as one packed model package at ``path`` and return its URI.

        One object, so a reader never sees half a model and a second save replaces the first at once. ``model`` is a fitted
        model, or the path of a package folder. ``metadata`` (JSON values) travels inside; its ``metrics`` and
        ``hyperparameters`` are what a registry shows and compares. ``sample_input`` teaches the signature and proves a
        faster engine. ``Unsupported`` for a model without a safe form.
        """
        store, key = self.provider.object_store(path)
        with tempfile.TemporaryDirectory(prefix="mlt-model-") as temporary:
            folder = prepared(model, Path(temporary), metadata=metadata or {}, sample_input=sample_input)
            store.put(key, packages.archive(folder, Path(temporary) / "model.tar.gz"))
        return str(self.provider.place(path))

    def load_model(self, path: UriLike, *, trust: Trust = NO_TRUST) -> Any:
        """The original model object of the packed package or package folder at ``path``, every byte checked.

        ``Untrusted`` when loading would run code of the package and ``trust`` does not permit it.
        """
        with fetched(self.provider, path) as folder:
            return packages.open_package(folder, trust=trust).load()

    def model_metadata(self, path: UriLike) -> dict[str, Any]:
        """What :meth:`save_model` was given as ``metadata``."""
        with fetched(self.provider, path) as folder:
            return dict(packages.open_package(folder).manifest.metadata)
