"""Malicious model files, made on the spot so that no scanner finds them in the repository.

Each builder writes one file into a folder and returns its path. Payloads touch a canary file when they run: a test then fails,
nothing else happens. ``FILES`` maps a name to (builder, a word that the refusal must contain).
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class _Touch:
    """Unpickles as a call that creates the canary."""

    def __init__(self, canary: Path, how: str) -> None:
        self.canary, self.how = canary, how

    def __reduce__(self) -> tuple[Any, ...]:
        statement = f"open({str(self.canary)!r}, 'w').close()"
        if self.how == "exec":
            return (exec, (statement,))
        if self.how == "eval":
            return (eval, (f"open({str(self.canary)!r}, 'w')",))
        if self.how == "system":
            import os

            return (os.system, (f"touch {self.canary}",))
        import subprocess

        return (subprocess.call, (["touch", str(self.canary)],))


def _pickled(canary: Path, protocol: int = 4, how: str = "exec") -> bytes:
    return pickle.dumps(_Touch(canary, how), protocol=protocol)


def _text_pickle(canary: Path) -> bytes:
    return f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _zip(folder: Path, name: str, members: list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def _link_member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def _tar(folder: Path, name: str, fill: Callable[[tarfile.TarFile], None], mode: str = "w:gz") -> Path:
    path = folder / name
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        fill(archive)
    return path


def _member(name: str, **fields: Any) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        content = fields.pop("content", b"x")
        for key, value in fields.items():
            setattr(info, key, value)
        info.size = len(content) if info.type == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(content))

    return fill


def _zip_bomb(folder: Path, name: str) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(_BOMB_MIB):
            member.write(bytes(1024 * 1024))
    return path


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def _tar_bomb(archive: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("weights")
    info.size = _BOMB_MIB * 1024 * 1024
    archive.addfile(info, _Zeros())


def _npy(descr: str, shape: str, data: bytes, header: str | None = None) -> bytes:
    text = header or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    encoded = text.encode()
    encoded += b" " * (-(len(encoded) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data


def _object_array(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Touch(canary, "exec")], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(start: int, end: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "U8", "shape": shape or [end - start], "data_offsets": [start, end]}


def _skops(folder: Path, name: str, kind: str, module: str) -> Path:
    schema = {
        "__class__": kind,
        "__module__": module,
        "__loader__": "ObjectNode",
        "__id__": 1,
        "content": None,
        "protocol": 2,
        "_skops_version": "0.16.0",
    }
    return _zip(folder, name, [("schema.json", json.dumps(schema).encode())])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _onnx(domain: bytes = b"", graph: bytes = b"") -> bytes:
    opset = (_field(1, domain) if domain else b"") + b"\x10\x12"
    return b"\x08\x08" + _field(7, graph) + _field(8, opset)


def _external_tensor(location: bytes) -> bytes:
    entry = _field(13, _field(1, b"location") + _field(2, location))
    return _field(5, b"\x08\x01\x10\x01" + _field(8, b"w") + entry + b"\x70\x01")


def _nested_external() -> bytes:
    # An If node, whose branch is a graph with the tensor in it.
    attribute = _field(1, b"then_branch") + _field(6, _external_tensor(b"../../etc/passwd"))
    return _field(1, _field(4, b"If") + _field(5, attribute))


def _keras(folder: Path, name: str, config: dict[str, Any]) -> Path:
    return _zip(folder, name, [("config.json", json.dumps(config).encode()), ("metadata.json", b"{}")])


def _program(folder: Path, name: str, **changes: Any) -> Path:
    node = {"target": "torch.ops.aten.relu.default", "inputs": [], "outputs": [], "metadata": {}, "name": "relu"}
    node |= changes.get("node", {})
    spec = json.dumps([1, {"type": changes.get("tree", "builtins.tuple"), "context": "null", "children_spec": []}])
    model = {
        "graph_module": {
            "graph": {"inputs": [], "outputs": [], "nodes": [node], **changes.get("graph", {})},
            "module_call_graph": [{"fqn": "", "signature": {"in_spec": spec, "out_spec": spec}}],
        },
        "guards_code": changes.get("guards", []),
    }
    config = json.dumps({"config": changes.get("config", {})}).encode()
    members = {
        "program/models/model.json": json.dumps(model).encode(),
        "program/data/weights/model_weights_config.json": config,
        "program/data/constants/model_constants_config.json": b'{"config": {}}',
        "program/data/sample_inputs/model.pt": changes.get("sample", b""),
        **changes.get("members", {}),
    }
    return _zip(folder, name, list(members.items()))


_LAMBDA = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": {"class_name": "__lambda__"}}}
_BOMB_MIB = 300
Builder = Callable[[Path, Path], Path]

FILES: dict[str, tuple[Builder, str]] = {
    # pickles, in all their clothes
    "pickle-protocol-0": (lambda f, c: _file(f, "model.pkl", _text_pickle(c)), "pickle"),
    "pickle-protocol-1": (lambda f, c: _file(f, "model.pkl", _pickled(c, 1)), "pickle"),
    "pickle-protocol-2": (lambda f, c: _file(f, "model.pkl", _pickled(c, 2)), "pickle"),
    "pickle-protocol-4": (lambda f, c: _file(f, "model.pickle", _pickled(c, 4, "eval")), "pickle"),
    "pickle-protocol-5": (lambda f, c: _file(f, "model.sav", _pickled(c, 5, "system")), "pickle"),
    "pickle-subprocess": (lambda f, c: _file(f, "model.dill", _pickled(c, 4, "popen")), "pickle"),
    "joblib": (lambda f, c: _file(f, "model.joblib", _pickled(c, 4)), "pickle"),
    "joblib-zlib": (lambda f, c: _file(f, "model.joblib", zlib.compress(_pickled(c))), "pickle"),
    "joblib-gzip": (lambda f, c: _file(f, "model.joblib.gz", gzip.compress(_pickled(c))), "pickle"),
    "joblib-bz2": (lambda f, c: _file(f, "weights.bz2", bz2.compress(_pickled(c))), "pickle"),
    "joblib-xz": (lambda f, c: _file(f, "weights.xz", lzma.compress(_pickled(c))), "pickle"),
    "joblib-lzma": (lambda f, c: _file(f, "weights.lzma", lzma.compress(_pickled(c), lzma.FORMAT_ALONE)), "pickle"),
    "pickle-as-onnx": (lambda f, c: _file(f, "model.onnx", _pickled(c)), "pickle"),
    "pickle-as-npy": (lambda f, c: _file(f, "weights.npy", _pickled(c)), "pickle"),
    "pickle-as-text": (lambda f, c: _file(f, "model.txt", _text_pickle(c)), "pickle"),
    "pickle-as-json": (lambda f, c: _file(f, "model.json", _pickled(c, 2)), "pickle"),
    "pickle-as-safetensors": (lambda f, c: _file(f, "model.safetensors", _pickled(c, 5)), "pickle"),
    "pickle-as-skops": (lambda f, c: _file(f, "model.skops", _pickled(c)), "pickle"),
    "pickle-without-name": (lambda f, c: _file(f, "weights", _pickled(c)), "pickle"),
    "pickle-after-broken-end": (lambda f, c: _file(f, "model.bin", _pickled(c)[:-1] + b"\xff"), "pickle"),
    "torch-save": (
        lambda f, c: _zip(f, "model.pt", [("archive/data.pkl", _pickled(c, 2)), ("archive/version", b"3")]),
        "pickle",
    ),
    "torch-save-renamed": (lambda f, c: _zip(f, "model.zip", [("m/data.pkl", _pickled(c, 2))]), "pickle"),
    "torch-legacy": (
        lambda f, c: _file(f, "model.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + _pickled(c, 2)),
        "pickle",
    ),
    "pickle-in-zip": (lambda f, c: _zip(f, "bundle.zip", [("weights.bin", _pickled(c))]), "pickle"),
    # numpy
    "npy-object-array": (lambda f, c: _file(f, "weights.npy", _object_array(c)), "objects"),
    "npz-object-array": (lambda f, c: _zip(f, "weights.npz", [("a.npy", _object_array(c))]), "objects"),
    "npy-object-field": (
        lambda f, c: _file(f, "weights.npy", _npy("[('a', '|O')]", "(1,)", _pickled(c))),
        "objects",
    ),
    "npy-oversized-shape": (
        lambda f, c: _file(f, "weights.npy", _npy("'<f8'", "(1099511627776,)", b"x" * 8)),
        "asks for",
    ),
    "npy-oversized-header": (
        lambda f, c: _file(f, "weights.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}"),
        "header claims",
    ),
    "npy-header-expression": (
        lambda f, c: _file(f, "weights.npy", _npy("", "", b"", f"open({str(c)!r}, 'w') or {{}}")),
        "cannot be read",
    ),
    "npy-negative-shape": (lambda f, c: _file(f, "weights.npy", _npy("'<f8'", "(-1,)", b"")), "shape"),
    "npy-deep-header": (lambda f, c: _file(f, "weights.npy", _npy("", "", b"", "(" * 5000)), "cannot be read"),
    # archives
    "zip-slip": (lambda f, c: _zip(f, "model.zip", [("../../canary", b"x")]), "outside"),
    "zip-slip-backslash": (lambda f, c: _zip(f, "model.npz", [("..\\canary.npy", b"x")]), "outside"),
    "zip-absolute": (lambda f, c: _zip(f, "model.skops", [(str(c), b"x")]), "outside"),
    "zip-symlink": (lambda f, c: _zip(f, "model.zip", [(_link_member("weights"), b"/etc/passwd")]), "link"),
    "zip-twice-by-case": (lambda f, c: _zip(f, "model.zip", [("A.txt", b"1"), ("a.txt", b"2")]), "twice"),
    "zip-bomb": (lambda f, c: _zip_bomb(f, "model.npz"), "unpack"),
    "zip-damaged": (lambda f, c: _file(f, "model.skops", b"PK\x03\x04" + b"\xff" * 100), "damaged"),
    "tar-slip": (lambda f, c: _tar(f, "model.tar.gz", _member("../canary")), "outside"),
    "tar-absolute": (lambda f, c: _tar(f, "model.tar.gz", _member(str(c))), "outside"),
    "tar-symlink": (
        lambda f, c: _tar(f, "model.tar.gz", _member("weights", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "link",
    ),
    "tar-hardlink": (
        lambda f, c: _tar(f, "model.tar", _member("weights", type=tarfile.LNKTYPE, linkname="../canary"), "w"),
        "link",
    ),
    "tar-device": (
        lambda f, c: _tar(f, "model.tgz", _member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
        "device",
    ),
    "tar-fifo": (lambda f, c: _tar(f, "model.tar", _member("pipe", type=tarfile.FIFOTYPE), "w"), "device"),
    "tar-twice": (
        lambda f, c: _tar(f, "model.tar", lambda t: (_member("a")(t), _member("A")(t), None)[-1], "w"),
        "twice",
    ),
    "tar-bomb": (lambda f, c: _tar(f, "model.tar.gz", _tar_bomb), "unpacks"),
    # headers that lie
    "safetensors-oversized-header": (
        lambda f, c: _file(f, "m.safetensors", _safetensors({}, length=2**63)),
        "header claims",
    ),
    "safetensors-header-past-end": (
        lambda f, c: _file(f, "m.safetensors", _safetensors({}, length=1000)),
        "header claims",
    ),
    "safetensors-overlap": (
        lambda f, c: _file(f, "m.safetensors", _safetensors({"a": _tensor(0, 8), "b": _tensor(4, 8)}, b"x" * 8)),
        "overlap",
    ),
    "safetensors-outside": (
        lambda f, c: _file(f, "m.safetensors", _safetensors({"a": _tensor(0, 999)}, b"x")),
        "end at",
    ),
    "safetensors-wrong-shape": (
        lambda f, c: _file(f, "m.safetensors", _safetensors({"a": _tensor(0, 8, [2**40])}, b"x" * 8)),
        "shape",
    ),
    "safetensors-duplicate": (
        lambda f, c: _file(
            f, "m.safetensors", _safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}')
        ),
        "twice",
    ),
    "safetensors-deep-json": (lambda f, c: _file(f, "m.safetensors", _safetensors(b"[" * 200_000)), "JSON"),
    # graphs
    "onnx-external-file": (
        lambda f, c: _file(f, "model.onnx", _onnx(graph=_external_tensor(b"../../../etc/passwd"))),
        "another file",
    ),
    "onnx-external-in-branch": (lambda f, c: _file(f, "model.onnx", _onnx(graph=_nested_external())), "another file"),
    "onnx-python-operators": (lambda f, c: _file(f, "model.onnx", _onnx(domain=b"ai.onnx.contrib")), "domain"),
    "onnx-cut-off": (lambda f, c: _file(f, "model.onnx", _onnx()[:-1]), "not an ONNX"),
    "onnx-oversized-field": (lambda f, c: _file(f, "model.onnx", b"\x3a\xff\xff\xff\xff\x0f"), "not an ONNX"),
    # skops
    "skops-os-system": (lambda f, c: _skops(f, "model.skops", "system", "os"), "posix|os.system"),
    "skops-eval": (lambda f, c: _skops(f, "model.skops", "eval", "builtins"), "builtins.eval"),
    "skops-own-class": (lambda f, c: _skops(f, "model.skops", "Model", "my_code"), "my_code.Model"),
    # Keras
    "keras-lambda": (
        lambda f, c: _keras(
            f, "model.keras", {"class_name": "Sequential", "module": "keras", "config": {"layers": [_LAMBDA]}}
        ),
        "Lambda",
    ),
    "keras-foreign-module": (
        lambda f, c: _keras(f, "model.keras", {"class_name": "system", "module": "os", "config": {}}),
        "os",
    ),
    "keras-hdf5": (lambda f, c: _file(f, "model.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64), "HDF5"),
    # YAML
    "yaml-python-object": (
        lambda f, c: _file(f, "MLmodel", f"a: !!python/object/apply:os.system ['touch {c}']\n".encode()),
        "tag",
    ),
    "yaml-local-tag": (lambda f, c: _file(f, "conda.yaml", b"a: !exec open('x')\n"), "tag"),
    "yaml-laughs": (
        lambda f, c: _file(f, "conda.yaml", b"a: &a [1]\n" + b"".join(b"k%d: *a\n" % i for i in range(100))),
        "repeats",
    ),
    "yaml-deep": (lambda f, c: _file(f, "conda.yml", b"[" * 500), "nests"),
    # torch.export programs
    "program-pickled-samples": (lambda f, c: _program(f, "program.pt2", sample=_pickled(c)), "pickled sample"),
    "program-pickled-weight": (
        lambda f, c: _program(f, "program.pt2", config={"w": {"path_name": "weight_0", "use_pickle": True}}),
        "pickled tensor",
    ),
    "program-guards": (lambda f, c: _program(f, "program.pt2", guards=[f"open({str(c)!r}, 'w')"]), "guards"),
    "program-foreign-target": (
        lambda f, c: _program(f, "program.pt2", node={"target": "torch._inductor.codecache.PyCodeCache.load"}),
        "target",
    ),
    "program-dunder-target": (
        lambda f, c: _program(f, "program.pt2", node={"target": "torch.ops.aten.__class__"}),
        "target",
    ),
    "program-source-as-name": (
        lambda f, c: _program(f, "program.pt2", node={"name": f"x = open({str(c)!r}, 'w')"}),
        "name",
    ),
    "program-symbolic-call": (
        lambda f, c: _program(f, "program.pt2", graph={"sizes": {"expr_str": f"open({str(c)!r}, 'w')"}}),
        "expr_str",
    ),
    "program-symbolic-builtin": (
        lambda f, c: _program(f, "program.pt2", graph={"sizes": {"expr_str": "exit(1)"}}),
        "expr_str",
    ),
    "program-tree-import": (
        lambda f, c: _program(f, "program.pt2", tree="collections.defaultdict"),
        "in_spec|out_spec",
    ),
    "program-native-library": (
        lambda f, c: _program(f, "program.pt2", members={"program/data/aotinductor/model/model.so": b"\x7fELF"}),
        "member",
    ),
    # programs
    "python-source": (lambda f, c: _file(f, "model.py", f"open({str(c)!r}, 'w')".encode()), "program"),
    "shell-script": (lambda f, c: _file(f, "weights.bin", f"#!/bin/sh\ntouch {c}".encode()), "program"),
    "native-library": (lambda f, c: _file(f, "weights.bin", b"\x7fELF\x02\x01\x01" + b"\0" * 64), "program"),
}
