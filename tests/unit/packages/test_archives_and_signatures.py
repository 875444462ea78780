"""Packages as one file, and signed packages."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, Untrusted
from ml_toolbox.packages import Trust, archive, open_package, save_model, sign, unpack, verify_signature
from tests.data.hostile_packages.corpus import FILES
from tests.unit.packages.own_model import Odd


def test_archive_round_trips_and_is_reproducible(linear_package: Path, tmp_path: Path) -> None:
    first = archive(linear_package, tmp_path / "a" / "model.tar.gz")
    second = archive(shutil.copytree(linear_package, tmp_path / "copy"), tmp_path / "b" / "model.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert "mltoolbox.json" in tar.getnames()
        assert {(m.mode, m.uid, m.mtime) for m in tar} == {(0o644, 0, 0)}
    unpack(first, tmp_path / "out")
    open_package(tmp_path / "out").verify()
    rows = np.zeros((1, 30))
    assert (
        open_package(tmp_path / "out").predictor()(rows)["prediction"]
        == open_package(linear_package).predictor()(rows)["prediction"]
    )


def test_a_changed_package_is_not_archived(linear_package: Path, tmp_path: Path) -> None:
    (linear_package / "requirements.txt").write_text("evil")
    with pytest.raises(Invalid, match=r"requirements\.txt"):
        archive(linear_package, tmp_path / "model.tar.gz")
    assert not (tmp_path / "model.tar.gz").exists()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("tar-")])
def test_hostile_archives_write_nothing(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "in" / "deep"
    inner.mkdir(parents=True)
    path = FILES[name][0](inner, tmp_path / "canary")
    with pytest.raises(Untrusted):
        unpack(path, tmp_path / "out" / "package")
    assert [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()] == [path]


def test_unpack_refuses_what_is_no_package(tmp_path: Path, linear_package: Path) -> None:
    with tarfile.open(tmp_path / "plain.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("readme.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    (tmp_path / "noise.tar.gz").write_bytes(b"\x1f\x8b" + b"\xff" * 50)
    with pytest.raises(NotFound, match="not a model package"):
        unpack(tmp_path / "plain.tar.gz", tmp_path / "a")
    with pytest.raises(Invalid, match="not a readable tar"):
        unpack(tmp_path / "noise.tar.gz", tmp_path / "b")
    with pytest.raises(NotFound, match="no archive"):
        unpack(tmp_path / "absent.tar.gz", tmp_path / "c")
    with pytest.raises(Conflict):
        unpack(archive(linear_package, tmp_path / "m.tar.gz"), linear_package)
    assert not any((tmp_path / name).exists() for name in "abc")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(private, its public, another public key)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    private, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "private.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    for name, key in (("public.pem", private), ("other.pem", other)):
        public = key.public_key()
        (folder / name).write_bytes(
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return folder / "private.pem", folder / "public.pem", folder / "other.pem"


def test_signature_permits_code_and_any_change_breaks_it(keys: tuple[Path, Path, Path], tmp_path: Path) -> None:
    private, public, other = keys
    rows = np.ones((3, 2))
    package = tmp_path / "p"
    save_model(Odd(1.0), package, sample_input=rows, flavour="python")
    with pytest.raises(Untrusted, match="not signed"):
        verify_signature(package, public)
    assert sign(package, private) == package / "model.sig"
    verify_signature(package, public)
    open_package(package).verify()
    answers = open_package(package, trust=Trust(public_key=public)).predictor()(rows)
    assert np.array_equal(answers["prediction"], Odd(1.0).predict(rows))
    with pytest.raises(Untrusted, match="not valid"):
        open_package(package, trust=Trust(public_key=other))
    with pytest.raises(Untrusted):
        open_package(package).load()
    unpack(archive(package, tmp_path / "m.tar.gz"), tmp_path / "travelled")
    verify_signature(tmp_path / "travelled", public)
    changes: tuple[Callable[[Path], object], ...] = (
        lambda p: (p / "mltoolbox.json").write_bytes((p / "mltoolbox.json").read_bytes() + b" "),
        lambda p: (p / "code" / "own_model.py").write_text("evil"),
        lambda p: (p / "extra.txt").write_text("x"),
        lambda p: (p / ".gitignore").write_text("x"),
        lambda p: (p / "requirements.txt").unlink(),
        lambda p: (p / "model.sig").write_text("{}"),
    )
    for number, change in enumerate(changes):
        broken = shutil.copytree(package, tmp_path / f"broken{number}")
        change(broken)
        with pytest.raises(Untrusted, match="not valid"):
            verify_signature(broken, public)


def test_wrong_keys_are_named(keys: tuple[Path, Path, Path], linear_package: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no key file"):
        sign(linear_package, tmp_path / "absent.pem")
    (tmp_path / "noise.pem").write_text("noise")
    with pytest.raises(Invalid, match="cannot sign"):
        sign(linear_package, tmp_path / "noise.pem")


def test_the_signature_is_openssf_model_signing(keys: tuple[Path, Path, Path], linear_package: Path) -> None:
    import sys

    private, public, _ = keys
    sign(linear_package, private)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(linear_package)]
    options = [
        "--signature",
        str(linear_package / "model.sig"),
        "--public_key",
        str(public),
        "--ignore-paths",
        str(linear_package / "model.sig"),
    ]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
