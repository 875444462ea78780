"""What is known of one version of a dataset, and how it is named. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import check_name
from ml_toolbox.datasets import ColumnSummary, DatasetManifest, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """One immutable version: what a listing shows. The columns are in its manifest."""

    name: str
    version: int
    """From 1, without gaps."""
    created_at: float
    """Seconds since the epoch."""
    kind: str
    """``pandas``, ``numpy``, ``file``, ...; ``tuple`` or ``dict`` when it holds several."""
    rows: int | None
    """``None`` where there are no rows to count: folders, files that are no tables."""
    files: int | None
    """How many of the user's own files are in it; ``None`` for data from memory."""
    size: int
    """Bytes of all its parts, counted also where another version shares them."""
    manifest: str
    """sha256 of the manifest, and so of the content: equal for equal data."""
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    """Tells two puts of the same data apart, should the answer to a write be lost."""

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def created(self) -> str:
        return iso(self.created_at)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes) -> DatasetVersion:
        """``Invalid`` for what is no version record."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise Invalid(
                f"a dataset's version record cannot be read: {error}", hint="was it edited by hand?"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDetails:
    """What ``data show`` shows."""

    version: DatasetVersion
    manifest: DatasetManifest

    @property
    def columns(self) -> tuple[ColumnSummary, ...]:
        """The columns of all items; where there are several items, with the item's name before the column's."""
        many = self.manifest.layout != "single"
        return tuple(
            replace(column, name=f"{item.name}.{column.name}") if many else column
            for item in self.manifest.items
            for column in summaries(item)
        )


def summaries(item: Item) -> tuple[ColumnSummary, ...]:
    """The item's columns; an array counts as one, named by its shape."""
    if item.kind != "numpy":
        return item.columns
    shape = " x ".join(str(length) for length in item.spec["shape"]) or "scalar"
    return (ColumnSummary(name=shape, dtype=item.spec["dtype"]),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One part that is not what was saved."""

    key: str
    reason: str
    used_by: str
    """What is in it: columns, an array, or a file."""

    def __str__(self) -> str:
        return f"{self.used_by}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The outcome of reading and hashing every part."""

    ref: str
    checked: int
    """Parts read."""
    bytes: int
    problems: tuple[Damage, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def parse_ref(ref: str) -> tuple[str, int | None]:
    """``"churn:3"`` -> ``("churn", 3)``; ``"churn"`` and ``"churn:latest"`` -> ``("churn", None)``. ``Invalid`` otherwise."""
    name, colon, number = ref.partition(":")
    check_name(name, field="dataset")
    if not colon or number == "latest":
        return name, None
    if not (number.isascii() and number.isdigit()) or not 0 < int(number) < 10**10:
        raise Invalid(
            f"dataset: {ref!r} has no legal version", hint="write NAME, NAME:3 or NAME:latest", field="dataset"
        )
    return name, int(number)
