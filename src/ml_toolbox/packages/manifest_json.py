"""The manifest's JSON form, read strictly: a manifest is input from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.packages.layout import UNLISTED, check_relative
from ml_toolbox.packages.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, Signature

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_DTYPE = re.compile(r"(float(16|32|64)|u?int(8|16|32|64)|bool|string|any)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_Reader: TypeAlias = Callable[[Any, str], Any]
"""``(JSON value, its place) -> value``; raises :class:`Invalid` naming the place where they do not fit."""


def dump_manifest(manifest: Manifest) -> bytes:
    """Readable JSON; two dumps of equal manifests are equal. Raises :class:`Invalid` for metadata that JSON cannot hold."""
    try:
        text = json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"the package's metadata or lineage is not JSON: {error}",
            field="metadata",
            hint="use strings, finite numbers, booleans, lists and mappings",
        ) from error
    return text.encode() + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the package in ``folder``.

    Raises:
        NotFound: there is no manifest, so this is no package.
        Unsupported: written in a later format version.
        Invalid: not JSON, wrong types, duplicate keys, paths that leave the folder, duplicate files.
    """
    path = folder / MANIFEST_NAME
    if path.is_symlink():
        raise Invalid(f"{path} is a symbolic link", field=MANIFEST_NAME)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(
            f"{folder} is not a model package: it has no {MANIFEST_NAME}",
            resource=str(folder),
            hint="write one with ml_toolbox.packages.save_model, or capture the folder of a training job",
        ) from error
    return parse_manifest(data)


def parse_manifest(data: bytes) -> Manifest:
    """Like :func:`read_manifest`, from bytes."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise Invalid(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes", field=MANIFEST_NAME)
    try:
        raw = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{MANIFEST_NAME} is not valid JSON: {error}", field=MANIFEST_NAME) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise Unsupported(
            f"the package has format version {version}, this release reads up to {FORMAT_VERSION}",
            hint="pip install --upgrade ml-toolbox",
        )
    manifest: Manifest = _reader(Manifest)(raw, MANIFEST_NAME)
    _check_files(manifest)
    if manifest.signature is not None:
        _check_signature(manifest.signature)
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers that keep different duplicates would see different manifests.
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("an object has the same key twice")
    return mapping


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _check_files(manifest: Manifest) -> None:
    seen: set[str] = set()
    for number, entry in enumerate(manifest.files):
        field = f"files.{number}.path"
        check_relative(entry.path, field=field)
        # Case is folded because macOS and Windows would write both to one file.
        if entry.path.casefold() in seen:
            raise Invalid(f"{field}: {entry.path!r} is listed twice", field=field)
        if entry.path in UNLISTED:
            raise Invalid(f"{field}: {entry.path!r} cannot list itself", field=field)
        seen.add(entry.path.casefold())
        if not _SHA256.match(entry.sha256) or entry.size < 0:
            raise Invalid(f"files.{number}: sha256 or size of {entry.path!r} is malformed", field=f"files.{number}")
    listed = {entry.path for entry in manifest.files}
    for number, engine in enumerate(manifest.engines):
        for path in engine.files:
            if path not in listed:
                raise Invalid(
                    f"engines.{number}: {path!r} is not among the package's files", field=f"engines.{number}.files"
                )
    if manifest.sample and manifest.sample not in listed:
        raise Invalid(f"sample: {manifest.sample!r} is not among the package's files", field="sample")


def _check_signature(signature: Signature) -> None:
    for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        for number, spec in enumerate(specs):
            field = f"signature.{side}.{number}"
            if not _DTYPE.match(spec.dtype):
                raise Invalid(f"{field}: {spec.dtype!r:.40} is not a dtype", field=f"{field}.dtype")
            if any(size is not None and size < 0 for size in spec.shape):
                raise Invalid(f"{field}: {spec.shape} is not a shape", field=f"{field}.shape")
        if len({spec.name for spec in specs}) != len(specs) or not specs:
            raise Invalid(f"signature.{side}: names are missing or occur twice", field=f"signature.{side}")


@functools.cache
def _reader(kind: Any) -> _Reader:
    """How a JSON value becomes a ``kind``. Worked out once for each type: looking at the annotations for every value made
    the manifest the dearest step of a registration, after the disk."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record_reader(kind)
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value, where: value
    if origin in (Union, types.UnionType):
        return _optional_reader(_reader(next(a for a in args if a is not type(None))))
    if origin is Literal:
        return _choice_reader(args)
    if origin is tuple:
        return _list_reader(args[0], kind)
    if origin is dict:
        return _mapping_reader(args[1], kind)
    return _float if kind is float else _scalar_reader(kind)


def _misfit(where: str, value: Any, kind: Any) -> Invalid:
    return Invalid(f"{where}: {value!r:.80} is not {getattr(kind, '__name__', kind)}", field=where)


def _scalar_reader(kind: type) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is kind:  # exactly: True is no integer here
            return value
        raise _misfit(where, value, kind)

    return read


def _float(value: Any, where: str) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    raise _misfit(where, value, float)


def _optional_reader(inner: _Reader) -> _Reader:
    return lambda value, where: None if value is None else inner(value, where)


def _choice_reader(choices: tuple[Any, ...]) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if value not in choices:
            raise Invalid.choice(where, value, map(str, choices))
        return value

    return read


# Most values are plain. They are taken where they stand: to call a reader with the text of its place for each of them
# takes as long as all the rest of reading a manifest.


def _list_reader(kind: Any, whole: Any) -> _Reader:
    inner = _reader(kind)

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _misfit(where, value, whole)
        return tuple([v if type(v) is kind else inner(v, f"{where}.{number}") for number, v in enumerate(value)])

    return read


def _mapping_reader(kind: Any, whole: Any) -> _Reader:
    inner = _reader(kind)

    def read(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise _misfit(where, value, whole)
        return {key: v if type(v) is kind else inner(v, f"{where}.{key}") for key, v in value.items()}

    return read


def _record_reader(record: type[DataclassInstance]) -> _Reader:
    hints = get_type_hints(record)
    fields = [(f.name, hints[f.name], _reader(hints[f.name]), _is_required(f)) for f in dataclasses.fields(record)]

    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise Invalid(f"{where}: {value!r:.80} is not an object", field=where)
        # Unknown keys are left aside: a newer release may add optional fields within one format version.
        known = {}
        for name, kind, inner, required in fields:
            if name in value:
                v = value[name]
                known[name] = v if type(v) is kind else inner(v, f"{where}.{name}")
            elif required:
                raise Invalid(f"{where}: {name!r} is missing", field=f"{where}.{name}")
        return record(**known)

    return read


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
