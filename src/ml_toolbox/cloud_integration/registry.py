"""``CloudModelRegistry``: both guides' shapes over the one registry."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.base.uri import UriLike
from ml_toolbox.cloud_integration.packaging import annotate, fetched, prepared
from ml_toolbox.cloud_integration.storage import CloudStorage
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry import ModelVersion, Registry
from ml_toolbox.packages import NO_TRUST, Trust, open_package

VERSION_TAG = "version"
"""Tag with the user's own version label; registry versions are numbers."""
FRAMEWORK_TAG = "framework"

_RECORD_KEYS = ("model_name", "model_path", "version", "framework", "description", "tags")
_FILTERS = ("model_name", "version", "stage", "framework", "created_by")


class CloudModelRegistry:
    """Model versions below ``registry_path`` of a storage; ``mltoolbox models`` shows the same registry.

    A version is a label of the user's (``v1.0``), given once: registering another package under a label that is taken
    raises ``Conflict``. The first guide's calls name no model; their versions are those of ``model_name``.
    """

    def __init__(self, storage: CloudStorage, registry_path: UriLike = "models", *, model_name: str = "model") -> None:
        self.storage = storage
        self.registry_path = registry_path
        self.model_name = check_name(model_name, field="model_name")

    @cached_property
    def registry(self) -> Registry:
        """The feature behind this skin, for everything the guides do not name (aliases, lineage, audit, restore)."""
        toolbox = self.storage.provider.toolbox
        return Registry(
            self.storage.provider.folder_store(self.registry_path), actor=toolbox.actor, clock=toolbox.clock
        )

    # The first guide's shape, and the way in of the second

    def register_model(
        self,
        model: Any,
        version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        sample_input: Any = None,
    ) -> str:
        """Register a model object under a version label, or a record ``{"model_name": ..., "model_path": ...}``.

        Returns the model id, ``NAME:NUMBER``. The same package under the same label again: the same id, nothing new.
        ``metadata["metrics"]`` and ``["hyperparameters"]`` are what :meth:`compare_model_versions` compares.
        """
        if isinstance(model, Mapping):
            if version is not None or metadata is not None or sample_input is not None:
                raise Invalid(
                    "model: a record carries version and metadata itself", hint="put them into the dict", field="model"
                )
            return self._register_record(model)
        if version is None:
            raise Invalid("version: missing", hint="register_model(model, 'v1.0', metadata)", field="version")
        with tempfile.TemporaryDirectory(prefix="mlt-register-") as temporary:
            folder = prepared(model, Path(temporary), metadata=metadata or {}, sample_input=sample_input)
            return self._commit(self.model_name, folder, version=version)

    def _register_record(self, record: Mapping[str, Any]) -> str:
        name, path = record.get("model_name", self.model_name), record.get("model_path")
        if not path:
            raise Invalid(
                "model_path: missing",
                hint="the path or URI that CloudStorage.save_model wrote, or that a training job left",
                field="model_path",
            )
        tags = _texts(record.get("tags", {}))
        if record.get("framework"):
            tags[FRAMEWORK_TAG] = str(record["framework"])
        with fetched(self.storage.provider, path) as folder:
            annotate(folder, {key: value for key, value in record.items() if key not in _RECORD_KEYS})
            return self._commit(
                name,
                folder,
                version=record.get("version"),
                description=str(record.get("description", "")),
                tags=tags,
                source=str(self.storage.provider.place(path)),
            )

    def _commit(
        self,
        name: str,
        folder: Path,
        *,
        version: object = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        source: str = "",
    ) -> str:
        label = "" if version is None else check_name(str(version), field="version")
        try:
            return self.registry.register(
                name,
                folder,
                description=description,
                tags={**(tags or {}), **({VERSION_TAG: label} if label else {})},
                # The label is the key: of all who register it, in any process, exactly one makes the version.
                idempotency_key=f"label:{label}" if label else None,
                source=source,
            ).ref
        except Conflict as error:
            if error.field != "idempotency_key":
                raise
            raise Conflict(
                f"version {label!r} of model {name!r} is registered already, with other files",
                hint="versions do not change: choose a new label",
                field="version",
                resource=error.resource,
            ) from error

    def get_model(self, version: str, *, trust: Trust = NO_TRUST) -> Any:
        """The model object registered under the label (or number), every byte checked. ``NotFound`` when there is none."""
        with tempfile.TemporaryDirectory(prefix="mlt-model-") as temporary:
            found = self._find(self.model_name, version)
            return open_package(self.registry.download(found.ref, Path(temporary) / "package"), trust=trust).load()

    def list_versions(self) -> list[str]:
        """Labels of the versions, oldest first; the number where a version has no label. No model yet: empty."""
        try:
            return [label_of(version) for version in self.registry.versions(self.model_name, newest_first=False)]
        except NotFound:
            return []

    # The second guide's shape

    def get_model_metadata(self, model_id: str) -> dict[str, Any]:
        """What was registered, with what the registry knows of it. ``NotFound`` for an unknown id."""
        version = self.registry.get(model_id)
        return {**self.registry.manifest(version.ref).metadata, **summary(version)}

    def list_models(self, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every version of every model, by name, newest first; with ``filters`` those that equal all of them.

        Filters: ``model_name``, ``version``, ``stage``, ``framework``, ``created_by``, and ``tags`` (a dict).
        """
        filters = dict(filters or {})
        tags = _texts(filters.pop("tags", {}))
        for key in filters:
            if key not in _FILTERS:
                raise Invalid.choice("filters", key, (*_FILTERS, "tags"))
        if "stage" in filters:
            filters["stage"] = Stage.parse(str(filters["stage"])).value
        found = (summary(version) for version in self._all(filters.get("model_name")))
        return [
            entry
            for entry in found
            if all(entry[key] == str(value) for key, value in filters.items()) and tags.items() <= entry["tags"].items()
        ]

    def _all(self, name: str | None) -> Iterator[ModelVersion]:
        for model in self.registry.models():
            if name is None or model.name == name:
                yield from self.registry.versions(model.name)

    def transition_model_stage(self, model_id: str, stage: str, *, archive_existing: bool = False) -> dict[str, Any]:
        """Move the version to ``registered``, ``Staging``, ``Production`` or ``Archived``; with ``archive_existing`` those
        that stood there go to ``Archived`` in the same step."""
        return summary(self.registry.promote(model_id, stage, archive_existing=archive_existing))

    def transition_model_version(
        self, model_name: str, version: str | int, stage: str, *, archive_existing: bool = False
    ) -> dict[str, Any]:
        """:meth:`transition_model_stage` for a name and a version label or number."""
        return self.transition_model_stage(
            self._find(model_name, version).ref, stage, archive_existing=archive_existing
        )

    def get_latest_model_version(self, model_name: str, stage: str | None = None) -> dict[str, Any]:
        """The newest version, or the newest in ``stage``. ``NotFound`` when there is none."""
        return summary(self.registry.get(f"{model_name}@{Stage.parse(stage).value}" if stage else model_name))

    def compare_model_versions(
        self, model_name: str, version1: str | int, version2: str | int
    ) -> dict[str, dict[str, Any]]:
        """``{"version1": {version, creation_timestamp, metrics}, "version2": {...}}``."""
        return {
            side: {
                "version": label_of(found),
                "creation_timestamp": iso(found.created_at),
                "metrics": dict(found.metrics),
            }
            for side, found in (
                ("version1", self._find(model_name, version1)),
                ("version2", self._find(model_name, version2)),
            )
        }

    def _find(self, name: str, version: str | int) -> ModelVersion:
        """By label first; ``3`` and ``v3`` are registry numbers unless a version was labelled so."""
        wanted = str(version)
        versions = self.registry.versions(name)
        for found in versions:
            if found.tags.get(VERSION_TAG) == wanted:
                return found
        if re.fullmatch(r"v?[1-9][0-9]{0,9}", wanted):
            return self.registry.get(f"{name}:{wanted}")
        raise NotFound(
            f"model {name!r} has no version {wanted!r}",
            hint=f"its newest: {', '.join(label_of(found) for found in versions[:5])}",
            resource=f"{name}:{wanted}",
        )


def label_of(version: ModelVersion) -> str:
    return version.tags.get(VERSION_TAG) or str(version.number)


def summary(version: ModelVersion) -> dict[str, Any]:
    """One version in the words of the guides."""
    return {
        "model_id": version.ref,
        "model_name": version.name,
        "version": label_of(version),
        "number": version.number,
        "stage": version.stage.value,
        "framework": version.tags.get(FRAMEWORK_TAG) or version.flavour,
        "creation_timestamp": iso(version.created_at),
        "created_by": version.created_by,
        "description": version.description,
        "metrics": dict(version.metrics),
        "hyperparameters": dict(version.parameters),
        "tags": {key: value for key, value in version.tags.items() if key not in (VERSION_TAG, FRAMEWORK_TAG)},
    }


def _texts(tags: object) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise Invalid("tags: expected a dict of text", field="tags")
    return {str(key): str(value) for key, value in tags.items()}
