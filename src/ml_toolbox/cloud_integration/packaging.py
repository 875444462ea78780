"""From what a guide calls a model (an object, a folder, a stored path) to a local package folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_toolbox import packages
from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.base.uri import UriLike
from ml_toolbox.cloud_integration.providers import CloudProvider
from ml_toolbox.objects.transfer import download_file, download_folder
from ml_toolbox.packages.layout import SIGNATURE_NAME
from ml_toolbox.packages.manifest import MANIFEST_NAME, Lineage, Manifest
from ml_toolbox.packages.manifest_json import dump_manifest


def prepared(model: Any, temporary: Path, *, metadata: Mapping[str, Any], sample_input: Any = None) -> Path:
    """The model as a package folder: written below ``temporary``, or the folder that ``model`` names."""
    if isinstance(model, Path) or (isinstance(model, str) and (Path(model) / MANIFEST_NAME).is_file()):
        if metadata or sample_input is not None:
            raise Invalid(
                f"metadata: {model} is a package already, and packages do not change",
                hint="leave metadata and sample_input out, or pass the model object",
                field="metadata",
            )
        packages.open_package(model)
        return Path(model)
    folder = temporary / "package"
    packages.save_model(
        model, folder, sample_input=sample_input, metadata=metadata, lineage=_lineage(metadata, Lineage())
    )
    return folder


def _lineage(metadata: Mapping[str, Any], known: Lineage) -> Lineage:
    """Metrics and hyper-parameters of the guide's metadata, in the place where a registry looks for them."""
    metrics = metadata.get("metrics", {})
    parameters = metadata.get("hyperparameters", {})
    if not isinstance(metrics, Mapping) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in metrics.values()
    ):
        raise Invalid("metadata: metrics must be a dict of numbers", field="metadata.metrics")
    if not isinstance(parameters, Mapping):
        raise Invalid("metadata: hyperparameters must be a dict", field="metadata.hyperparameters")
    return replace(
        known,
        metrics={**known.metrics, **{str(name): float(value) for name, value in metrics.items()}},
        hyperparameters={**known.hyperparameters, **parameters},
    )


def annotate(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Add metadata to a fetched package. Its model files stay as they are; a signed package is refused, because the
    signature covers the manifest."""
    manifest = packages.open_package(folder).manifest
    changed = _annotated(manifest, metadata)
    if changed == manifest:
        return
    if (folder / SIGNATURE_NAME).exists():
        raise Invalid(
            "metadata: the package is signed, and the signature covers what metadata would change",
            hint="sign the package with its metadata inside, or register it without",
            field="metadata",
        )
    (folder / MANIFEST_NAME).write_bytes(dump_manifest(changed))


def _annotated(manifest: Manifest, metadata: Mapping[str, Any]) -> Manifest:
    return replace(
        manifest,
        metadata={**manifest.metadata, **metadata},
        lineage=_lineage(metadata, manifest.lineage),
    )


@contextmanager
def fetched(provider: CloudProvider, path: UriLike) -> Iterator[Path]:
    """The package stored at ``path``, packed or as a folder, as a temporary local folder. ``NotFound`` when neither."""
    with tempfile.TemporaryDirectory(prefix="mlt-model-") as temporary:
        folder = Path(temporary) / "package"
        store, key = provider.object_store(path)
        try:
            store.head(key)
        except NotFound:
            _fetch_folder(provider, path, folder)
        else:
            download_file(store, key, Path(temporary) / "model.tar.gz")
            packages.unpack(Path(temporary) / "model.tar.gz", folder)
        yield folder


def _fetch_folder(provider: CloudProvider, path: UriLike, folder: Path) -> None:
    store = provider.folder_store(path)
    try:
        store.head(MANIFEST_NAME)
    except NotFound as error:
        raise NotFound(
            f"there is no model at {provider.place(path)}: neither a packed package nor a folder with {MANIFEST_NAME}",
            hint="save one with CloudStorage.save_model",
            resource=str(provider.place(path)),
        ) from error
    download_folder(store, "", folder)
