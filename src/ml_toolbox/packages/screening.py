"""What kind of model file is this, and may it be opened: asked of the bytes, whatever the name says. Runs nothing of the file.

A tripwire with exact rules, not a virus scanner: formats that cannot hold code are checked for being themselves; formats that
can (pickle, joblib, ``torch.save``, HDF5, Keras lambdas, Python source, native libraries) are refused by name.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid, NotFound, Untrusted
from ml_toolbox.packages import npy
from ml_toolbox.packages.onnx_files import check_onnx
from ml_toolbox.packages.safetensors_files import read_header
from ml_toolbox.packages.zips import check_zip

_HEAD = 1024 * 1024
_PICKLE_NAMES = frozenset({".pkl", ".pickle", ".joblib", ".sav", ".pt", ".pth", ".ckpt", ".p", ".dill"})
_CODE_NAMES = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".jar"})
_HDF5_NAMES = frozenset({".h5", ".hdf5"})
_NATIVE = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")
# Opcodes by which a pickle looks up or calls something; plain data has none of them.
_CALLS = frozenset(
    {
        "GLOBAL",
        "STACK_GLOBAL",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "REDUCE",
        "BUILD",
        "EXT1",
        "EXT2",
        "EXT4",
        "PERSID",
        "BINPERSID",
    }
)
_MAX_YAML = 8 * 1024**2
_MAX_JSON = 1024**3


def screen(path: str | Path) -> str:
    """The kind of the file: ``onnx``, ``safetensors``, ``npy``, ``npz``, ``skops``, ``torch-program``, ``lightgbm``,
    ``xgboost``, ``json``, ``yaml``, ``keras``, ``tar``, ``zip``, ``text`` or ``unknown`` (kept, never loaded).

    Raises:
        NotFound: there is no such file.
        Untrusted: opening it with the library it is made for would or could run code, or write outside its folder.
        Invalid: it is not what its name says, or is damaged.
    """
    file = Path(path)
    if file.is_symlink():
        raise Untrusted(f"{file.name} is a symbolic link", resource=str(file), hint="copy its target instead")
    if not file.is_file():
        raise NotFound(f"there is no file {file}", resource=str(file))
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    suffix = file.suffix.lower()
    _refuse_code(file.name, suffix, head)
    for applies, check in _RULES:
        if applies(head, suffix, file):
            return check(file, head)
    return "text" if _is_text(head) else "unknown"


def pickle_calls(head: bytes) -> bool:
    """Whether the bytes are a pickle that looks something up or calls something (protocols 0 to 5)."""
    seen = set()
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            seen.add(opcode.name)
            if opcode.name == "STOP":
                return bool(seen & _CALLS)
    except (ValueError, IndexError, OverflowError, MemoryError, AttributeError, TypeError, RecursionError):
        # Not a pickle, or one larger than the head: the latter begins with its protocol and has looked something up.
        return head[:1] == b"\x80" and bool(seen & _CALLS)
    return False


def _refuse_code(name: str, suffix: str, head: bytes) -> None:
    if suffix in _CODE_NAMES or head.startswith(_NATIVE):
        raise Untrusted(f"{name} is a program", resource=name, hint="a model package holds data; remove it")
    for content in (head, _decompressed(head)):
        if content and (pickle_calls(content) or _begins_as_pickle(content, suffix)):
            raise _pickle(name)
    if suffix in _PICKLE_NAMES and not zipfile.is_zipfile(io.BytesIO(head)):
        raise _pickle(name)
    if suffix in _HDF5_NAMES or head.startswith(b"\x89HDF\r\n\x1a\n"):
        raise Untrusted(
            f"{name} is an HDF5 model, which can hold marshalled Python code (Lambda layers)",
            resource=name,
            hint="export the model to ONNX",
        )


def _begins_as_pickle(content: bytes, suffix: str) -> bool:
    """A protocol mark at the start: a pickle that is cut, damaged or larger than what was read."""
    if suffix == ".safetensors" and content[8:9] == b"{":
        return False  # the length of its header may happen to be written like one, e.g. 640 is 80 02
    return content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _pickle(name: str) -> Untrusted:
    return Untrusted(
        f"{name} is a pickle: loading it can run any code",
        resource=name,
        hint="load it where you made it and write it again with ml_toolbox.packages.save_model",
    )


def _decompressed(head: bytes) -> bytes:
    """The beginning of what is inside the compressions that joblib writes; at most 64 KiB come out."""
    limit = 65536
    try:
        if head[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(head, limit)
        if head[:1] == b"\x78":
            return zlib.decompressobj().decompress(head, limit)
        if head[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(head, limit)
        if head[:6] == b"\xfd7zXZ\x00" or head[:1] == b"\x5d":
            return lzma.LZMADecompressor().decompress(head, limit)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
        return b""
    return b""


def _onnx(file: Path, head: bytes) -> str:
    check_onnx(file.read_bytes(), name=file.name)
    return "onnx"


def _safetensors(file: Path, head: bytes) -> str:
    size = file.stat().st_size
    length = int.from_bytes(head[:8], "little")
    if length + 8 > len(head) and length + 8 <= size:
        with file.open("rb") as stream:
            head = stream.read(length + 8)
    read_header(head, size=size, name=file.name)
    return "safetensors"


def _npy(file: Path, head: bytes) -> str:
    npy.check_npy(head, size=file.stat().st_size, name=file.name)
    return "npy"


def _zip(file: Path, head: bytes) -> str:
    suffix = file.suffix.lower()
    try:
        with zipfile.ZipFile(file) as archive:
            check_zip(archive, name=file.name)
            names = archive.namelist()
            if suffix == ".pt2":
                from ml_toolbox.packages.torch_programs import check

                check(file.read_bytes(), name=file.name)
                return "torch-program"
            if any(name.endswith("/data.pkl") or Path(name).suffix.lower() in _PICKLE_NAMES for name in names):
                raise _pickle(file.name)
            if "schema.json" in names:
                return _skops(file)
            if suffix == ".keras" or {"config.json", "metadata.json"} <= set(names):
                return _keras(archive, file.name)
            if suffix == ".npz" or (names and all(name.endswith(".npy") for name in names)):
                for info in archive.infolist():
                    with archive.open(info) as member:
                        npy.check_npy(member.read(_HEAD), size=info.file_size, name=f"{file.name}/{info.filename}")
                return "npz"
            for info in archive.infolist():
                with archive.open(info) as member:
                    _refuse_code(f"{file.name}/{info.filename}", Path(info.filename).suffix.lower(), member.read(_HEAD))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Invalid(f"{file.name} is a damaged zip file: {error}", field=file.name) from error
    if suffix in (".npz", ".skops", ".keras", ".pt2"):
        raise Invalid(f"{file.name} is not a {suffix} file", field=file.name)
    return "zip"


def _skops(file: Path) -> str:
    from ml_toolbox.packages.skops_files import unknown_types

    unknown = unknown_types(file.read_bytes(), name=file.name)
    if unknown:
        raise Untrusted(
            f"{file.name} contains {', '.join(unknown)[:300]}, which could run code",
            resource=file.name,
            hint="only scikit-learn's own types are loaded",
        )
    return "skops"


def _keras(archive: zipfile.ZipFile, name: str) -> str:
    try:
        config = json.loads(archive.read("config.json"))
    except (KeyError, ValueError, RecursionError) as error:
        raise Invalid(f"{name} has no readable config.json", field=name) from error
    todo: list[Any] = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, dict):
            todo.extend(item.values())
            kind, module = str(item.get("class_name", "")), item.get("module")
            if kind in ("Lambda", "__lambda__", "function") or (
                isinstance(module, str) and not re.match(r"(keras|keras_hub|keras_nlp|builtins)(\.|\Z)", module)
            ):
                raise Untrusted(
                    f"{name} contains {kind or 'an object'} of {module or 'its own code'}: Keras would run code from the file",
                    resource=name,
                    hint="export the model to ONNX without Lambda layers",
                )
    return "keras"


def _tar(file: Path, head: bytes) -> str:
    from ml_toolbox.packages.archives import check_tar

    check_tar(file)
    return "tar"


def _yaml(file: Path, head: bytes) -> str:
    import yaml

    if file.stat().st_size > _MAX_YAML:
        raise Invalid(f"{file.name} is larger than {_MAX_YAML} bytes", field=file.name)
    depth = aliases = 0
    try:
        for event in yaml.parse(file.read_bytes(), Loader=yaml.SafeLoader):
            tag = getattr(event, "tag", None)
            if tag and not re.match(
                r"tag:yaml\.org,2002:(str|int|float|bool|null|map|seq|timestamp|binary)\Z|!\Z", tag
            ):
                raise Untrusted(
                    f"{file.name} has the YAML tag {tag!r:.80}, which constructs objects",
                    resource=file.name,
                    hint="write plain YAML",
                )
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if aliases > 64 or depth > 64:
                raise Untrusted(
                    f"{file.name} nests or repeats itself without bound", resource=file.name, hint="write plain YAML"
                )
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise Invalid(f"{file.name} is not YAML: {str(error).splitlines()[0]}", field=file.name) from error
    return "yaml"


def _json(file: Path, head: bytes) -> str:
    # XGBoost's UBJSON begins with "{" and the type of the first key's length, never with text.
    if file.suffix.lower() == ".ubj" or (head[1:2] in b"iUIlL" and len(head) > 1):
        return "xgboost"
    if file.stat().st_size > _MAX_JSON:
        raise Invalid(f"{file.name} is larger than {_MAX_JSON} bytes", field=file.name)
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{file.name} is not JSON: {error}", field=file.name) from error
    return "xgboost" if isinstance(document, dict) and "learner" in document else "json"


def _lightgbm(file: Path, head: bytes) -> str:
    return "lightgbm"


def _is_text(head: bytes) -> bool:
    try:
        head[:65536].decode()
    except UnicodeDecodeError as error:
        return error.start > len(head[:65536]) - 4  # a character cut at the end of the window
    return b"\0" not in head[:65536]


_RULES: tuple[tuple[Callable[[bytes, str, Path], bool], Callable[[Path, bytes], str]], ...] = (
    (lambda head, suffix, _: head[:2] == b"PK" or suffix in (".npz", ".skops", ".keras", ".pt2", ".pt", ".pth"), _zip),
    (lambda head, suffix, _: head.startswith(npy.MAGIC) or suffix == ".npy", _npy),
    (lambda head, suffix, _: suffix == ".onnx", _onnx),
    (lambda head, suffix, _: suffix == ".safetensors", _safetensors),
    (
        lambda head, suffix, file: (
            suffix in (".tar", ".tgz") or file.name.endswith(".tar.gz") or head[257:262] == b"ustar"
        ),
        _tar,
    ),
    (lambda head, suffix, file: suffix in (".yaml", ".yml") or (file.name == "MLmodel" and head[:1] != b"{"), _yaml),
    (lambda head, suffix, _: head.startswith(b"tree\n"), _lightgbm),
    (lambda head, suffix, _: suffix in (".json", ".ubj") or head[:1] == b"{", _json),
)
