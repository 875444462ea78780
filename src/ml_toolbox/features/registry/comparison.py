"""What is told about versions that no single record holds: differences, origins, history. Pure."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ml_toolbox.features.registry.records import HeadLine, VersionRecord, files_of, manifest_of
from ml_toolbox.features.registry.values import AuditLine, Comparison, LineageReport, ModelVersion
from ml_toolbox.packages.manifest import Manifest, Signature

V = TypeVar("V")


def compare(first: ModelVersion, second: ModelVersion, records: tuple[VersionRecord, VersionRecord]) -> Comparison:
    left, right = (manifest_of(record) for record in records)
    files = [{file.path: file.sha256 for file in files_of(record, manifest_of(record))} for record in records]
    names = sorted({*first.metrics, *second.metrics})
    return Comparison(
        first=first,
        second=second,
        metrics={name: (first.metrics.get(name), second.metrics.get(name)) for name in names},
        parameters=differences(first.parameters, second.parameters),
        tags=differences(first.tags, second.tags),
        signature=differences(_flat(left.signature), _flat(right.signature)),
        requirements=differences(_pins(left.requirements), _pins(right.requirements)),
        files=differences(files[0], files[1]),
        size=(first.size, second.size),
    )


def trace(version: ModelVersion, manifest: Manifest, others: Iterable[ModelVersion]) -> LineageReport:
    """``others``: the versions among which to look for the same model files."""
    identical = [other.number for other in others if other.digest == version.digest]
    return LineageReport(
        version=version,
        job=manifest.lineage.job,
        data=manifest.lineage.data,
        code_sha256=manifest.lineage.code_sha256,
        hyperparameters=manifest.lineage.hyperparameters,
        metrics=manifest.lineage.metrics,
        requirements=manifest.requirements,
        environment=manifest.environment,
        packaged_at=manifest.created_at,
        identical_versions=tuple(number for number in identical if number != version.number),
    )


def merged_audit(versions: Iterable[ModelVersion], changes: Iterable[HeadLine]) -> tuple[AuditLine, ...]:
    """Registrations and changes by time. Clocks of different hosts disagree: each list keeps its own, true order."""
    registered = [AuditLine(at=v.created_at, actor=v.created_by, action="register", version=v.number) for v in versions]
    changed = [
        AuditLine(at=at.at, actor=at.actor, action=at.action, version=at.version or None, detail=at.detail)
        for at in changes
    ]
    return tuple(heapq.merge(registered, changed, key=lambda line: line.at))


def differences(left: Mapping[str, V], right: Mapping[str, V]) -> dict[str, tuple[V | None, V | None]]:
    """The keys whose values are not equal, with both; ``None`` where there is none."""
    keys = sorted({*left, *right})
    return {
        key: (left.get(key), right.get(key))
        for key in keys
        if (key in left) != (key in right) or left.get(key) != right.get(key)
    }


def _flat(signature: Signature | None) -> dict[str, Any]:
    if signature is None:
        return {}
    flat: dict[str, Any] = {"layout": signature.layout, "classes": list(signature.classes)}
    for side, columns in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        flat[f"{side} (order)"] = [column.name for column in columns]
        for column in columns:
            flat[f"{side}.{column.name}"] = msgspec.to_builtins(column)
    return flat


def _pins(requirements: tuple[str, ...]) -> dict[str, str]:
    """``numpy==2.1`` -> ``numpy: ==2.1``; what is no plain requirement stands for itself."""
    pins = {}
    for line in requirements:
        match = re.match(r"([A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?)\s*(.*)\Z", line)
        pins[match[1] if match else line] = match[2] if match else ""
    return pins
