"""Opening a package: nothing of it is believed before it is checked, nothing of it is run without trust."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, NotFound, Unsupported, Untrusted
from ml_toolbox.packages.engines import engine_module, extra_of, installed_version, missing_packages
from ml_toolbox.packages.layout import UNLISTED, check_relative, list_files, runs_code, sha256_file
from ml_toolbox.packages.manifest import EngineEntry, Manifest, Signature
from ml_toolbox.packages.manifest_json import read_manifest
from ml_toolbox.packages.predictor import Predictor
from ml_toolbox.packages.trust import NO_TRUST, Trust


def open_package(path: str | Path, *, trust: Trust = NO_TRUST) -> Package:
    """The package in the folder ``path``. Reads the manifest only (and checks the signature if ``trust`` asks for one).

    Raises:
        NotFound: there is no package there.
        Invalid: the manifest is malformed.
        Untrusted: ``trust`` names a public key and the package carries no valid signature by it.
    """
    folder = Path(path)
    if folder.is_file():
        raise Invalid(
            f"{folder} is a file, not a package folder", field="path", hint="unpack an archive first with unpack()"
        )
    if not folder.is_dir():
        raise NotFound(f"there is no model package at {folder}", resource=str(folder))
    if trust.public_key is not None:
        from ml_toolbox.packages.signing import verify_signature

        verify_signature(folder, trust.public_key)
    return Package(folder, read_manifest(folder), trust)


class Package:
    """A package folder and its manifest. Every file is compared with its sha256 when it is used."""

    def __init__(self, folder: Path, manifest: Manifest, trust: Trust) -> None:
        self.folder = folder
        self.manifest = manifest
        self.notes: tuple[str, ...] = ()
        """Why engines were passed over by :meth:`predictor`, one sentence each."""
        self._trust = trust
        self._entries = {entry.path: entry for entry in manifest.files}
        self._model: Any = None

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises :class:`Invalid` naming a file that is missing, changed or not listed, :class:`Untrusted` for links and
        special files.
        """
        found = dict(list_files(self.folder))
        for path in sorted(set(found) - set(self._entries) - UNLISTED):
            raise Invalid(
                f"{path} is in the package folder but not in its manifest", field=path, resource=str(self.folder)
            )
        for path, entry in self._entries.items():
            if path not in found:
                raise Invalid(f"{path} is missing from the package", field=path, resource=str(self.folder))
            if sha256_file(found[path]) != (entry.sha256, entry.size):
                raise self._changed(path)

    def path(self, relative: str) -> Path:
        """A listed file, verified now. Raises :class:`Untrusted` if it runs code and that is not permitted.

        For libraries that read files themselves; :meth:`read` leaves no moment between check and use.
        """
        path = self._permitted(relative)
        if sha256_file(path) != (self._entries[relative].sha256, self._entries[relative].size):
            raise self._changed(relative)
        return path

    def read(self, relative: str) -> bytes:
        """The content of a listed file, verified. Raises like :meth:`path`."""
        path = self._permitted(relative)
        with path.open("rb") as file:
            data = file.read(self._entries[relative].size + 1)
        if hashlib.sha256(data).hexdigest() != self._entries[relative].sha256:
            raise self._changed(relative)
        return data

    def load(self) -> Any:
        """The original model object. The same object on every call.

        Raises :class:`Untrusted` when that would run code from the package and neither explicit trust nor a signature
        permits it, :class:`Unsupported` when a library is missing.
        """
        if self._model is None:
            from ml_toolbox.packages.flavours import flavour_module

            self._model = flavour_module(self.manifest.flavour).load(self)
        return self._model

    def predictor(self, threads: int = 1) -> Predictor:
        """The first engine of the manifest that this host can run and that is proven for the library versions here.

        An engine whose library changed since packaging is run on the stored sample first and passed over if it no longer
        agrees with the original (:attr:`notes` says so). Raises :class:`Unsupported` when none is left.
        """
        notes: list[str] = []
        for entry in self.manifest.engines:
            missing = missing_packages(entry.kind)
            if missing:
                extra = extra_of(entry.kind)
                install = f" (pip install 'ml-toolbox[{extra}]')" if extra else ""
                notes.append(f"{entry.kind}: {', '.join(missing)} not installed{install}")
                continue
            predictor: Predictor = engine_module(entry.kind).open_engine(self, entry, threads)
            fault = self._disproof(entry, predictor)
            if not fault:
                self.notes = tuple(notes)
                return predictor
            notes.append(f"{entry.kind}: {fault}")
        self.notes = tuple(notes)
        raise Unsupported(
            f"no engine can serve this model: {'; '.join(notes) or 'it does not answer for new rows'}",
            resource=str(self.folder),
            hint="install what is missing" if notes else f"{self.manifest.model_class} can be loaded, but not served",
        )

    def require_trust(self, relative: str) -> None:
        """Raise :class:`Untrusted` unless code of this package may run, by the user's word or a verified signature."""
        if not (self._trust.explicit or self._trust.public_key is not None):
            raise Untrusted(
                f"loading {relative} would run code from the package",
                resource=str(self.folder / relative),
                hint="if you trust its author: open_package(path, trust=Trust(explicit=True)), or Trust(public_key=...) "
                "for a signed package",
            )

    def required_signature(self) -> Signature:
        """The signature; raises :class:`Unsupported` when the package was made without a sample to learn it from."""
        if self.manifest.signature is None:
            raise Unsupported(
                "the package has no signature, so it cannot be served",
                resource=str(self.folder),
                hint="package the model again with sample_input=",
            )
        return self.manifest.signature

    def sample(self) -> tuple[Any, dict[str, Any]] | None:
        """(rows as a batch, the original's outputs) that were stored at packaging, or None."""
        if not self.manifest.sample:
            return None
        from ml_toolbox.packages.samples import load_sample

        signature = self.required_signature()
        sample, outputs = load_sample(self.read(self.manifest.sample), signature.layout, signature.inputs)
        return sample.batch, outputs

    def _disproof(self, entry: EngineEntry, predictor: Predictor) -> str:
        """Why the engine may not serve here, or "": only asked again when its library is another than at packaging."""
        version = installed_version(entry.kind)
        is_original = entry is self.manifest.engines[-1]
        if version == entry.version or is_original:
            return ""
        changed = f"its library is {version} here and was {entry.version} at packaging"
        stored = self.sample()
        if stored is None:
            return f"{changed}, and there is no sample to prove it again"
        from ml_toolbox.packages.proof import compare

        batch, expected = stored
        difference = compare(expected, predictor(batch))
        return (
            ""
            if difference.agrees
            else f"{changed}, and its answers differ by {difference.largest:g} {difference.reason}"
        )

    def _permitted(self, relative: str) -> Path:
        if relative not in self._entries:
            raise Invalid(f"{relative!r} is not a file of this package", field="path", resource=str(self.folder))
        check_relative(relative, field="path")
        if self._entries[relative].executes_code or runs_code(relative):
            self.require_trust(relative)
        path = self.folder
        for part in relative.split("/"):
            path = path / part
            if path.is_symlink():
                raise Untrusted(
                    f"{path} is a symbolic link", resource=str(path), hint="a package holds plain files only"
                )
        if not path.is_file():
            raise Invalid(f"{relative} is missing from the package", field=relative, resource=str(self.folder))
        return path

    def _changed(self, relative: str) -> Invalid:
        return Invalid(
            f"{relative} is not the file that was packaged: its sha256 or size differs",
            field=relative,
            resource=str(self.folder),
            hint="fetch the package again",
        )
