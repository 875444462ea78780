"""What the registry answers: frozen values with a JSON form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from ml_toolbox.base.clock import iso
from ml_toolbox.domain.models import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version as it stood at one moment."""

    name: str
    number: int
    stage: Stage
    aliases: tuple[str, ...]
    tags: dict[str, str]
    description: str
    created_at: float
    """Seconds since the epoch, by the registering host's clock."""
    created_by: str
    flavour: str
    metrics: dict[str, float]
    parameters: dict[str, Any]
    job: str
    size: int
    """Bytes of all files."""
    file_count: int
    digest: str
    """sha256 over the paths and hashes of the model's own files: equal when a retrain changed nothing."""
    source: str = ""
    """Where an imported version came from."""
    deleted: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.number}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.number,
            "stage": self.stage.value,
            "aliases": list(self.aliases),
            "tags": self.tags,
            "description": self.description,
            "created_at": iso(self.created_at),
            "created_by": self.created_by,
            "flavour": self.flavour,
            "metrics": self.metrics,
            "parameters": self.parameters,
            "job": self.job,
            "size": self.size,
            "file_count": self.file_count,
            "digest": self.digest,
            "source": self.source,
            "deleted": self.deleted,
        }


class VersionList(Sequence[ModelVersion]):
    """Versions in order, each built when it is looked at: a list of 100,000 costs what is read of it."""

    def __init__(self, numbers: Sequence[int], build: Callable[[int], ModelVersion]) -> None:
        self._numbers = numbers
        self._build = build

    @property
    def numbers(self) -> Sequence[int]:
        """The version numbers alone; builds nothing."""
        return self._numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> ModelVersion: ...
    @overload
    def __getitem__(self, index: slice) -> VersionList: ...
    def __getitem__(self, index: int | slice) -> ModelVersion | VersionList:
        if isinstance(index, slice):
            return VersionList(self._numbers[index], self._build)
        return self._build(self._numbers[index])

    def __iter__(self) -> Iterator[ModelVersion]:
        return map(self._build, self._numbers)

    def to_json(self) -> list[dict[str, Any]]:
        return [version.to_json() for version in self]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A name and what stands under it."""

    name: str
    latest: int
    """Highest version that is not deleted; 0 when there is none."""
    versions: int
    """Versions ever registered: they are numbered 1 to this."""
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    stages: dict[str, int]
    """Stage -> its latest version, for the stages that have one."""
    deleted: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "latest": self.latest,
            "versions": self.versions,
            "description": self.description,
            "tags": self.tags,
            "aliases": self.aliases,
            "stages": self.stages,
            "deleted": self.deleted,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """Some of the answers, and the token that continues after them ("" at the end)."""

    items: tuple[ModelVersion, ...]
    next_page_token: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"items": [item.to_json() for item in self.items], "next_page_token": self.next_page_token}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """Who did what to a model, when."""

    at: float
    actor: str
    action: str
    version: int | None
    """``None``: the model itself."""
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "at": iso(self.at),
            "actor": self.actor,
            "action": self.action,
            "version": self.version,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two versions side by side; only what differs, except the metrics, which are always shown."""

    first: ModelVersion
    second: ModelVersion
    metrics: dict[str, tuple[float | None, float | None]]
    """Every metric of either version; ``None`` where one has it not."""
    parameters: dict[str, tuple[Any, Any]]
    tags: dict[str, tuple[str | None, str | None]]
    signature: dict[str, tuple[Any, Any]]
    """``inputs.NAME``, ``outputs.NAME``, ``layout``, ``classes`` -> both sides."""
    requirements: dict[str, tuple[str | None, str | None]]
    files: dict[str, tuple[str | None, str | None]]
    """Path -> sha256 on both sides."""
    size: tuple[int, int]

    @property
    def same_model(self) -> bool:
        return self.first.digest == self.second.digest

    def to_json(self) -> dict[str, Any]:
        def pairs(values: dict[str, tuple[Any, Any]]) -> dict[str, list[Any]]:
            return {key: list(pair) for key, pair in values.items()}

        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "same_model": self.same_model,
            "metrics": pairs(self.metrics),
            "parameters": pairs(self.parameters),
            "tags": pairs(self.tags),
            "signature": pairs(self.signature),
            "requirements": pairs(self.requirements),
            "files": pairs(self.files),
            "size": list(self.size),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageReport:
    """Where a version came from."""

    version: ModelVersion
    job: str
    data: dict[str, str]
    """Input channel -> data version or URI with checksum."""
    code_sha256: str
    hyperparameters: dict[str, Any]
    metrics: dict[str, float]
    requirements: tuple[str, ...]
    environment: dict[str, str]
    packaged_at: str
    identical_versions: tuple[int, ...]
    """Other versions that hold the very same model files."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version.to_json(),
            "job": self.job,
            "data": self.data,
            "code_sha256": self.code_sha256,
            "hyperparameters": self.hyperparameters,
            "metrics": self.metrics,
            "requirements": list(self.requirements),
            "environment": self.environment,
            "packaged_at": self.packaged_at,
            "identical_versions": list(self.identical_versions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether the stored bytes are still the registered ones."""

    ref: str
    files: int
    bytes: int
    problems: tuple[str, ...]
    """One sentence per damaged or missing file."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            "ok": self.ok,
            "files": self.files,
            "bytes": self.bytes,
            "problems": list(self.problems),
        }
