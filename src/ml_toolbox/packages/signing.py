"""Signatures over whole packages in the OpenSSF Model Signing format, with one's own keys, offline.

The signature covers every file of the folder, the manifest included, and lies beside them as ``model.sig``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, MissingExtra, NotFound, Untrusted
from ml_toolbox.packages.layout import SIGNATURE_NAME, list_files
from ml_toolbox.packages.manifest_json import read_manifest


def sign(folder: str | Path, private_key: str | Path) -> Path:
    """Sign the package with an elliptic-curve private key (PEM) and return the path of ``model.sig``; replaces an older one.

    Raises:
        NotFound: no package or no key there.
        Invalid: the package differs from its manifest, or the key is not a PEM of a supported curve.
    """
    from ml_toolbox.packages.package import open_package

    folder, key = Path(folder), _key(private_key, "private_key")
    open_package(folder).verify()
    signing = _library("signing")
    target = folder / SIGNATURE_NAME
    config = signing.Config().set_hashing_config(_hashing())
    try:
        config.use_elliptic_key_signer(private_key=key).sign(folder, target)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"{key} cannot sign: {error}",
            field="private_key",
            hint="openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
        ) from error
    return target


def verify_signature(folder: str | Path, public_key: str | Path) -> None:
    """Return silently when ``model.sig`` is a signature by ``public_key``'s owner over exactly these files.

    Raises:
        NotFound: no package or no key there.
        Untrusted: there is no signature, it is by another key, or a file was changed, added or removed since.
    """
    folder, key = Path(folder), _key(public_key, "public_key")
    read_manifest(folder)
    for _ in list_files(folder):  # raises at links, which the hashing would follow
        continue
    target = folder / SIGNATURE_NAME
    if not target.is_file():
        raise Untrusted(
            f"{folder} is not signed", resource=str(folder), hint=f"its author makes {SIGNATURE_NAME} with sign()"
        )
    verifying = _library("verifying")
    config = verifying.Config().set_hashing_config(_hashing())
    try:
        config.use_elliptic_key_verifier(public_key=key).verify(folder, target)
    # The library lets through errors of its parts (JSON, protobuf, cryptography, its own): whichever it is, the
    # signature was not verified.
    except Exception as error:
        raise Untrusted(
            f"the signature of {folder} is not valid: {error}"[:500],
            resource=str(target),
            hint="a file changed after signing, or another key signed it",
        ) from error


def _hashing() -> Any:
    return _library("hashing").Config().set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)


def _key(path: str | Path, field: str) -> Path:
    if not Path(path).is_file():
        raise NotFound(f"there is no key file {path}", field=field, resource=str(path))
    return Path(path)


def _library(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{part}")
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("model_signing", "OpenSSL"):
            raise
        raise MissingExtra.named(error.name or "model-signing", "signing", "signing and verifying packages") from error
