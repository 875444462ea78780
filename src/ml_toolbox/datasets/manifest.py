"""What a dataset says about itself: pure values and their JSON form. No data is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.datasets.addresses import address_of

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"

Kind: TypeAlias = Literal["numpy", "pandas", "series", "polars", "polars-series", "arrow", "file", "folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One immutable blob: a column file, an array, or one of the user's own files. Its name is its content's hash."""

    sha256: str
    """Of parts of more than 8 MiB the composite one of their pieces (:mod:`ml_toolbox.datasets.addresses`)."""
    size: int
    """Bytes."""
    format: Literal["npy", "parquet", "arrow", "raw"]
    columns: int = 1
    """How many column arrays the file holds (Parquet and Arrow only)."""
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSummary:
    """What a person wants to know of a column without reading it."""

    name: str
    dtype: str
    nulls: int | None = None
    """Missing values as the column's own type counts them (NaN in a float column is a value). ``None``: not counted."""
    minimum: str | int | float | None = None
    maximum: str | int | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One table, array, file or folder of the dataset."""

    name: str
    kind: Kind
    rows: int | None
    """Length of the first axis, rows of a table or table file; ``None`` for other files and folders."""
    parts: tuple[Part, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    """The recipe that turns the parts back into what was saved; JSON values only."""
    columns: tuple[ColumnSummary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetManifest:
    """The whole of ``dataset.json``. Equal data gives equal bytes: no time, no host, no path is in it."""

    format_version: int = FORMAT_VERSION
    layout: Literal["single", "tuple", "dict"]
    items: tuple[Item, ...]

    @property
    def rows(self) -> int | None:
        """Rows of the first item."""
        return self.items[0].rows if self.items else 0

    @property
    def files(self) -> int | None:
        """How many of the user's own files are in it; ``None`` when none of the items is one."""
        counts = [len(item.parts) for item in self.items if item.kind in ("file", "folder")]
        return sum(counts) if counts else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every distinct blob the dataset needs."""
        return tuple({part.sha256: part for item in self.items for part in item.parts}.values())

    @property
    def size(self) -> int:
        """Bytes of all distinct blobs."""
        return sum(part.size for part in self.parts)

    @property
    def sha256(self) -> str:
        """Identity of the content: address of the canonical JSON form."""
        return address_of(self.to_json())

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes) -> DatasetManifest:
        """Raises ``Invalid`` for what is no manifest and ``Unsupported`` for one written by a later format."""
        try:
            version = msgspec.json.decode(data, type=_Versioned).format_version
            if version <= FORMAT_VERSION:
                return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise Invalid(f"this is not a dataset manifest: {error}", hint="was it written by this toolbox?") from error
        raise Unsupported(
            f"the dataset has format {version}, this toolbox reads up to {FORMAT_VERSION}",
            hint="upgrade ml-toolbox: pip install -U ml-toolbox",
        )


class _Versioned(msgspec.Struct):
    format_version: int
