"""``mltoolbox.json``: what a model package says about itself. Pure values and their JSON form; no model is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MANIFEST_NAME = "mltoolbox.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One named input or output."""

    name: str
    dtype: str
    """numpy name (``float32``, ``int64``, ``bool``), ``string``, or ``any``."""
    shape: tuple[int | None, ...] = ()
    """Shape of one row's value; ``()`` for a scalar, ``None`` for a free dimension."""
    nullable: bool = False
    """Whether NaN (or null) is allowed; learnt from the sample input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Names, dtypes and shapes of what goes in and comes out.

    ``layout`` says how rows arrive at the model: ``matrix`` - one 2-D array whose columns are ``inputs`` in this order
    (all of one dtype); ``columns`` - one 1-D array per input; ``tensor`` - a single input of any rank, first axis rows.
    """

    layout: Literal["matrix", "columns", "tensor"]
    inputs: tuple[ColumnSpec, ...]
    outputs: tuple[ColumnSpec, ...]
    """Each with its shape after the row axis: ``prediction`` first, then e.g. ``probabilities`` with shape ``(2,)``."""
    classes: tuple[Any, ...] = ()
    """Class labels in the order of the probabilities, for classifiers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the package."""

    path: str
    """Relative, ``/``-separated, below the package folder."""
    size: int
    sha256: str
    executes_code: bool = False
    """Loading it runs code (pickle, joblib): only with explicit trust or a valid signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One way to run the model, and how it was proven."""

    kind: str
    """``onnxruntime``, ``sklearn``, ``lightgbm``, ``xgboost``, ``torch-export``, ``python``..."""
    files: tuple[str, ...]
    max_difference: float
    """Largest absolute difference to the original on the sample; 0.0 for the original itself."""
    compared_rows: int
    version: str = ""
    """Version of the library that produced and proved it."""
    options: dict[str, Any] = field(default_factory=dict)
    """e.g. ``{"input_dtype": "float32", "outputs": {"prediction": "label"}}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where the model came from."""

    job: str = ""
    data: dict[str, str] = field(default_factory=dict)
    """Input channel -> ``URI@version or checksum``."""
    code_sha256: str = ""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of ``mltoolbox.json``."""

    format_version: int
    flavour: str
    """``sklearn``, ``lightgbm``, ``xgboost``, ``torch``, ``onnx`` or ``python``."""
    created_at: str
    files: tuple[FileEntry, ...]
    engines: tuple[EngineEntry, ...]
    """In order of preference; the first that the host can run and that is proven serves."""
    signature: Signature | None
    requirements: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Python version, platform, library versions at packaging time."""
    lineage: Lineage = field(default_factory=Lineage)
    metadata: dict[str, Any] = field(default_factory=dict)
    """The user's own JSON values."""
    name: str = ""
    """The model's name, when it has one; a registry may call it otherwise."""
    model_class: str = ""
    """Full name of the original object's class, e.g. ``sklearn.pipeline.Pipeline``."""
    sample: str = ""
    """File with the sample rows and the original's answers to them, or "" when there is none."""
    refused_engines: dict[str, str] = field(default_factory=dict)
    """Engines that were tried at packaging and not kept -> why."""
