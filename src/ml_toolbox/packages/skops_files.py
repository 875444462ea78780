"""``.skops`` files: written with what can be read back without a question, read with the curated allow-list only."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from typing import Any

from ml_toolbox.base.errors import Invalid, MissingExtra, Unsupported, Untrusted
from ml_toolbox.packages.skops_types import TRUSTED_TYPES
from ml_toolbox.packages.zips import check_zip

# Arrays lie beside the schema, so a schema of this size is no model.
_MAX_SCHEMA_BYTES = 256 * 1024**2


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ("skops", "sklearn"):
            raise
        raise MissingExtra.named(error.name, "sklearn", "a scikit-learn model") from error
    return skops.io


def dump_skops(model: Any) -> tuple[bytes, tuple[str, ...]]:
    """``model`` as a ``.skops`` file that :func:`load_skops` takes, and its types that skops itself would ask about.

    Raises :class:`Unsupported` naming the type that has no safe form (a lambda, the user's own class, an estimator that
    skops cannot write).
    """
    skops = _skops()
    hint = (
        "replace that part by one of scikit-learn's own, or save it as a Python class with flavour='python' "
        "(that package then runs code when loaded and needs explicit trust)"
    )
    try:
        data: bytes = skops.dumps(model, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    # skops has no one error for what it cannot write: UnsupportedTypeException, and whatever the object's own
    # __getstate__ or __reduce__ raises.
    except Exception as error:
        raise Unsupported(
            f"{_full_name(model)} has no safe file form: {error}", hint=hint, field="model", resource=_full_name(model)
        ) from error
    asked = tuple(sorted(skops.get_untrusted_types(data=data)))
    unknown = [kind for kind in asked if kind not in TRUSTED_TYPES]
    if unknown:
        raise Unsupported(
            f"{_full_name(model)} contains {', '.join(unknown)}, which cannot be read back safely",
            hint=hint,
            field="model",
            resource=unknown[0],
        )
    return data, asked


def unknown_types(data: bytes, *, name: str) -> list[str]:
    """Types in a ``.skops`` file that are not on the allow-list. Constructs nothing. Raises ``Invalid`` if it is damaged."""
    _check_archive(data, name)
    try:
        return sorted(set(_skops().get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    # As in load_skops.
    except Exception as error:
        raise Invalid(f"{name} is not a .skops file: {type(error).__name__}: {error}"[:500], field=name) from error


def load_skops(data: bytes, *, name: str) -> Any:
    """The object in a ``.skops`` file. Only types that skops or this package trust are ever looked up.

    Raises :class:`Untrusted` naming the first other type, :class:`Invalid` when the file is malformed.
    """
    from ml_toolbox.packages.tree_checks import check_trees

    _check_archive(data, name)
    skops = _skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        with warnings.catch_warnings():
            # Another scikit-learn version warns at each load; the manifest records the version, engines are re-proven.
            warnings.filterwarnings("ignore", message=r".*Trying to unpickle estimator")
            warnings.filterwarnings("ignore", message=r"Class .* is deprecated", category=FutureWarning)
            # Audits every type against the list before it constructs the first object.
            model = skops.loads(data, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise Untrusted(
            f"{name} contains what could run code: {error}"[:500],
            resource=name,
            hint="ask its author for a package made of scikit-learn's own types, or one with a valid signature",
        ) from error
    # A crafted schema fails anywhere in skops or in a type's own constructor, with any exception; none may reach the
    # caller as anything but a refusal.
    except Exception as error:
        raise Invalid(f"{name} cannot be read: {type(error).__name__}: {error}"[:500], field=name) from error
    check_trees(model, name=name)
    return model


def _check_archive(data: bytes, name: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_zip(archive, name=name)
            if archive.getinfo("schema.json").file_size > _MAX_SCHEMA_BYTES:
                raise Invalid(f"{name}: its schema is larger than {_MAX_SCHEMA_BYTES} bytes", field=name)
    except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise Invalid(f"{name} is not a .skops file: {error}", field=name) from error


def _full_name(model: Any) -> str:
    kind = type(model)
    return re.sub(r"[^\w.<>]", "", f"{kind.__module__}.{kind.__qualname__}")
