"""Writing a package: beside its place first, renamed into it when complete and proven, so that no half package exists."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.base.clock import iso
from ml_toolbox.base.errors import Conflict, Invalid, Untrusted
from ml_toolbox.base.ids import check_name, nonce
from ml_toolbox.packages.engines import distribution, installed_version
from ml_toolbox.packages.flavours import detect, flavour_module
from ml_toolbox.packages.layout import (
    ARTIFACTS_FOLDER,
    REQUIREMENTS_NAME,
    SAMPLE_NAME,
    check_relative,
    list_files,
    sha256_file,
)
from ml_toolbox.packages.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    EngineEntry,
    FileEntry,
    Lineage,
    Manifest,
    Signature,
)
from ml_toolbox.packages.manifest_json import dump_manifest

if TYPE_CHECKING:
    from ml_toolbox.packages.flavours.written import Written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the caller asked for besides the model."""

    flavour: str
    sample_input: Any = None
    sample_output: Any = None
    requirements: Sequence[str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    name: str = ""
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    convert: bool = True


def save_model(
    model: Any,
    folder: str | Path,
    *,
    sample_input: Any = None,
    sample_output: Any = None,
    flavour: str | None = None,
    requirements: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    lineage: Lineage | None = None,
    name: str = "",
    artifacts: Mapping[str, Path] | None = None,
    convert: bool = True,
) -> Manifest:
    """Write ``model`` as a package into ``folder``, which must not exist or be empty, and return its manifest.

    ``sample_input`` (a few hundred rows of the training input) teaches the signature and proves engines; without it rows are
    drawn, where the model knows its number of features. ``sample_output``, if given, must be what the model predicts for
    it. ``artifacts`` (relative name -> file) are kept under ``artifacts/``. ``convert=False`` looks for no faster engine.
    The model is read back and compared before the package appears: what cannot come back equal is refused here.

    Raises:
        Conflict: ``folder`` exists and is not empty; nothing was changed.
        Invalid: the flavour cannot be told, or sample and model do not fit.
        Unsupported: the model contains something without a safe form; the message names it.
    """
    target = Path(folder)
    wish = _Wish(
        flavour=flavour or (detect(model) if not isinstance(model, (str, Path, bytes)) else "onnx"),
        sample_input=sample_input,
        sample_output=sample_output,
        requirements=requirements,
        metadata=metadata or {},
        lineage=lineage or Lineage(),
        name=check_name(name) if name else "",
        artifacts=artifacts or {},
        convert=convert,
    )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(
            f"{target} exists and is not empty", resource=str(target), hint="choose a new folder, or remove that one"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{nonce()[:12]}.tmp"
    temporary.mkdir()
    try:
        manifest = _write(model, temporary, wish)
        _make_durable(temporary)
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        # Also on Ctrl-C: nothing half-written stays behind.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _write(model: Any, folder: Path, wish: _Wish) -> Manifest:
    from ml_toolbox.packages.mlmodel import write_mlmodel
    from ml_toolbox.packages.samples import dump_sample

    module = flavour_module(wish.flavour)
    written, sample = _write_original(model, folder, wish)
    signature = None
    engines: tuple[EngineEntry, ...] = ()
    refused: dict[str, str] = {}
    if sample is not None and written.answers:
        from ml_toolbox.packages.engines.answers import describe

        signature = Signature(
            layout=sample.layout,
            inputs=sample.inputs,
            outputs=describe(written.answers, sample.rows),
            classes=written.classes,
        )
        _check_sample_output(wish.sample_output, written.answers)
        if wish.convert:
            found = module.engines(model, folder, sample, signature, written.answers)
            engines, refused = found.kept, dict(found.refused)
        (folder / SAMPLE_NAME).write_bytes(dump_sample(sample, written.answers))
    original = EngineEntry(
        kind=written.kind,
        files=written.files,
        max_difference=0.0,
        compared_rows=sample.rows if signature and sample else 0,
        version=installed_version(written.kind),
        options={**written.options, "sample": "synthetic" if sample and sample.synthetic else "given"},
    )
    modules = (*written.modules, *(engine.kind for engine in engines if engine.kind == "onnxruntime"))
    pinned = tuple(wish.requirements) if wish.requirements is not None else _requirements(modules)
    (folder / REQUIREMENTS_NAME).write_text("".join(f"{line}\n" for line in pinned))
    _copy_artifacts(wish.artifacts, folder)
    kind = type(model)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        flavour=wish.flavour,
        created_at=iso(time.time()),
        files=(),
        engines=(*engines, original) if signature is not None else (),
        signature=signature,
        requirements=pinned,
        environment=_environment(modules),
        lineage=wish.lineage,
        metadata=dict(wish.metadata),
        name=wish.name,
        model_class=f"{kind.__module__}.{kind.__qualname__}",
        sample=SAMPLE_NAME if signature is not None else "",
        refused_engines=refused,
    )
    write_mlmodel(folder, manifest, written.skops_types)
    manifest = _listed(folder, manifest, frozenset(written.executes_code))
    (folder / MANIFEST_NAME).write_bytes(dump_manifest(manifest))
    _prove_round_trip(folder, manifest, written.answers)
    return manifest


def _copy_artifacts(artifacts: Mapping[str, Path], folder: Path) -> None:
    for relative, source in artifacts.items():
        destination = folder / ARTIFACTS_FOLDER / check_relative(relative, field="artifacts")
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)


def _write_original(model: Any, folder: Path, wish: _Wish) -> tuple[Written, Any]:
    """The model in its own format, and the sample that it answers (or None)."""
    module = flavour_module(wish.flavour)
    sample = _sample(model, wish)
    try:
        return module.write(model, folder, sample), sample
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if sample is None:
            raise
        if not sample.synthetic:
            raise Invalid(
                f"the model does not answer the sample input: {type(error).__name__}: {error}"[:500],
                field="sample_input",
                hint="give rows as the model was fitted on them",
            ) from error
        # Drawn rows were not what this model takes: it is packaged without a signature rather than with a wrong one.
        return module.write(model, folder, None), None


def _sample(model: Any, wish: _Wish) -> Any:
    """The sample, given or drawn, or None when there is nothing to draw from."""
    from ml_toolbox.packages.probes import synthetic_sample
    from ml_toolbox.packages.samples import read_sample

    names = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    if wish.sample_input is not None:
        return read_sample(wish.sample_input, names=names, tensor=wish.flavour in ("torch", "onnx"))
    features = getattr(model, "n_features_in_", None)
    if wish.flavour in ("sklearn", "lightgbm", "xgboost") and isinstance(features, int):
        return synthetic_sample(features, names, model)
    drawn = getattr(flavour_module(wish.flavour), "drawn_sample", None)
    return drawn(model) if drawn else None


def _check_sample_output(given: Any, answers: dict[str, Any]) -> None:
    if given is None:
        return
    import numpy as np

    from ml_toolbox.packages.proof import compare

    first = next(iter(answers))
    wanted = answers[first]
    actual = np.asarray(given)[: len(wanted)]
    difference = compare({first: wanted}, {first: actual.astype(wanted.dtype, copy=False)})
    if not difference.agrees:
        raise Invalid(
            f"sample_output is not what the model predicts for sample_input: {difference.reason or difference.largest}",
            field="sample_output",
            hint="leave sample_output out, or check that rows and outputs belong together",
        )


def _prove_round_trip(folder: Path, manifest: Manifest, answers: dict[str, Any] | None) -> None:
    """Read the package back as a stranger's and compare the original's answers; raises :class:`Invalid` when they differ."""
    from ml_toolbox.packages.engines import engine_module
    from ml_toolbox.packages.package import Package
    from ml_toolbox.packages.trust import Trust

    package = Package(folder, manifest, Trust(explicit=any(entry.executes_code for entry in manifest.files)))
    package.verify()
    if manifest.signature is None or answers is None:
        package.load()
        return
    from ml_toolbox.packages.proof import compare

    stored = package.sample()
    assert stored is not None  # noqa: S101 - written above with the signature
    original = manifest.engines[-1]
    difference = compare(answers, engine_module(original.kind).open_engine(package, original, 1)(stored[0]))
    if not difference.agrees:
        raise Invalid(
            f"the model does not come back equal from its files: {difference.reason or difference.largest}",
            field="model",
            hint="a model with random or time-dependent answers cannot be proven; fix its random state",
        )


def _listed(folder: Path, manifest: Manifest, executes_code: frozenset[str]) -> Manifest:
    from dataclasses import replace

    entries = []
    for relative, path in list_files(folder):
        digest, size = sha256_file(path)
        marked = relative in executes_code or (relative.startswith(f"{ARTIFACTS_FOLDER}/") and _is_unsafe(path))
        entries.append(FileEntry(path=relative, size=size, sha256=digest, executes_code=marked))
    return replace(manifest, files=tuple(entries))


def _is_unsafe(path: Path) -> bool:
    """Whether a file kept beside the model is one that only trust should open."""
    from ml_toolbox.packages.screening import screen

    try:
        screen(path)
    except Untrusted:
        return True
    except Invalid:
        return False  # damaged or misnamed, but it runs nothing
    return False


def _requirements(modules: Sequence[str]) -> tuple[str, ...]:
    pairs = dict(distribution(module) for module in modules)
    return tuple(f"{name}=={version}" if version else name for name, version in sorted(pairs.items()))


def _environment(modules: Sequence[str]) -> dict[str, str]:
    versions = {name: version for name, version in map(distribution, modules) if version}
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        **dict(sorted(versions.items())),
    }


def _make_durable(folder: Path) -> None:
    for _, path in list_files(folder):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
