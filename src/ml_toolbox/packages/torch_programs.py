"""``torch.export`` programs without the parts that run code.

``torch.export.load`` is documented as unsafe, and is: it unpickles the sample inputs (first with ``weights_only``, on failure
without), unpickles weights marked so, evaluates symbolic sizes through sympy, imports modules named in tree descriptions, and
generates Python source from the graph's names. So a program is *sealed* when written (sample inputs, metadata and guards
removed, weights moved to safetensors) and *checked* before torch sees it: only known members, every string of the graph a plain
name, operators from aten only. What a sealed program cannot express is refused at packaging.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

from ml_toolbox.base.errors import Invalid, Untrusted
from ml_toolbox.packages.safetensors_files import read_header
from ml_toolbox.packages.zips import check_zip

ROOT = "program"
_MAX_JSON = 256 * 1024**2
_MEMBER = re.compile(
    rf"{ROOT}/(models/model\.json|data/weights/model_weights_config\.json|data/sample_inputs/model\.pt"
    r"|data/constants/(model_constants_config\.json|tensor_[0-9]+|constant_[0-9]+|weight_[0-9]+)"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment)\Z"
)
_NAME = re.compile(r"[A-Za-z0-9_.+]*\Z")
_TEXT_ARGUMENT = re.compile(r"[A-Za-z0-9_ ,.>\-]*\Z")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims)(\.[A-Za-z][A-Za-z0-9_]*){1,2}\Z|_operator\.[a-z]+\Z|torch\.sym_[a-z]+\Z"
)
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"Symbol\('[suf][0-9]+'(, [a-z]+=(True|False))*\)")
_ARITHMETIC = (
    "Max Min FloorDiv CeilDiv CleanDiv Mod PythonMod ModularIndexing Where TruncToInt RoundToInt ToFloat IntTrueDiv "
    "FloatTrueDiv PowByNatural Mul Add Pow Rational Eq Ne Lt Le Gt Ge And Or Not True False oo int_oo Integer"
)
_SYMBOLS = frozenset(_ARITHMETIC.split())
_CONTAINERS = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def seal(program: bytes, weights: bytes) -> bytes:
    """The archive that ``torch.export.save`` wrote, without its unsafe parts and without the weights.

    Raises :class:`Invalid` when a weight is not in ``weights`` (safetensors bytes), ``Untrusted`` when the rest uses
    something that :func:`check` refuses.
    """
    source = zipfile.ZipFile(io.BytesIO(program))
    names = {info.filename.split("/", 1)[1]: info for info in source.infolist()}
    config = json.loads(source.read(names["data/weights/model_weights_config.json"]))["config"]
    stored = read_header(weights, size=len(weights), name="weights.safetensors")
    for key in config:
        if key not in stored:
            raise Invalid(f"the program's weight {key!r} is not in the model's state", field="model")
    payloads = {f"data/weights/{entry['path_name']}" for entry in config.values()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, info in names.items():
            if name in payloads:
                continue
            content = source.read(info)
            if name == "models/model.json":
                content = _stripped(content)
            elif name == "data/sample_inputs/model.pt":
                content = b""
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), content)
    sealed = target.getvalue()
    check(sealed, name="program.pt2")
    return sealed


def unseal(sealed: bytes, weights: bytes, *, name: str) -> io.BytesIO:
    """The archive as ``torch.export.load`` takes it, checked and with its weights put back."""
    check(sealed, name=name)
    stored = read_header(weights, size=len(weights), name="weights.safetensors")
    target = io.BytesIO(sealed)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_STORED) as archive:
        config = json.loads(archive.read(f"{ROOT}/data/weights/model_weights_config.json"))["config"]
        written = set()
        for key, entry in config.items():
            path = f"{ROOT}/data/weights/{entry['path_name']}"
            if key not in stored:
                raise Invalid(f"{name}: the weight {key!r} is missing from weights.safetensors", field=name)
            if path not in written:
                archive.writestr(zipfile.ZipInfo(path), weights[stored[key].start : stored[key].end])
                written.add(path)
    target.seek(0)
    return target


def check(sealed: bytes, *, name: str) -> None:
    """Raise unless loading this archive runs no code: :class:`Untrusted` with what it holds, :class:`Invalid` if damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(sealed)) as archive:
            check_zip(archive, name=name)
            for info in archive.infolist():
                if not _MEMBER.match(info.filename):
                    raise _refuse(name, f"the member {info.filename!r:.100}")
                if info.filename.endswith("sample_inputs/model.pt") and info.file_size:
                    raise _refuse(name, "pickled sample inputs")
                if info.filename.endswith(".json") and info.file_size > _MAX_JSON:
                    raise _refuse(name, f"{info.file_size} bytes of JSON")
            for part in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
                _check_payloads(json.loads(archive.read(f"{ROOT}/{part}")), name)
            _check_graph(json.loads(archive.read(f"{ROOT}/models/model.json")), name)
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise Invalid(f"{name} is not a torch.export program of this package's form: {error}", field=name) from error


def _stripped(content: bytes) -> bytes:
    model = json.loads(content)
    model["guards_code"] = []
    graph = model["graph_module"]
    graph["module_call_graph"] = [call for call in graph["module_call_graph"] if call["fqn"] == ""]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}  # stack traces and module names: nothing that computing needs
    if "metadata" in graph:
        graph["metadata"] = {}
    return json.dumps(model).encode()


def _check_payloads(config: Any, name: str) -> None:
    for entry in config["config"].values():
        if entry["use_pickle"] is not False or not re.match(r"[a-z]+_[0-9]+\Z", entry["path_name"]):
            raise _refuse(name, "a pickled tensor")


def _check_graph(model: Any, name: str) -> None:
    if model["guards_code"]:
        raise _refuse(name, "guards, which are Python source")
    todo: list[tuple[str, Any]] = [("", model)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            if key == "metadata" and value:
                raise _refuse(name, "metadata")
            for child, item in value.items():
                if not _NAME.match(child):
                    raise _refuse(name, f"the name {child!r:.80}")
                todo.append((child, item))
        elif isinstance(value, list):
            todo.extend((key, item) for item in value)
        elif isinstance(value, str) and not _is_harmless(key, value):
            raise _refuse(name, f"{key} {value!r:.80}")


def _is_harmless(key: str, value: str) -> bool:
    if key == "target":
        return bool(_TARGET.match(value)) and "__" not in value
    if key == "expr_str":
        # sympy evaluates this text: only numbers, operators, symbols of sizes and sympy's own arithmetic.
        rest = _SYMBOL.sub(
            lambda m: "" if m[0] in _SYMBOLS or re.match(r"[suf][0-9]+\Z", m[0]) else "!", _QUOTED.sub("1", value)
        )
        return bool(re.match(r"[0-9 ,()+\-*/%<>=&|~.]*\Z", rest)) and not re.search(r"[\w)]\s*\.\s*[A-Za-z_]", value)
    if key in ("in_spec", "out_spec"):
        return _is_plain_tree(value)
    if key in ("as_string", "as_strings"):
        return bool(_TEXT_ARGUMENT.match(value))
    return bool(_NAME.match(value))


def _is_plain_tree(text: str) -> bool:
    todo = [json.loads(text)[1]]
    while todo:
        spec = todo.pop()
        if spec["type"] not in _CONTAINERS:
            return False
        keys = json.loads(spec["context"]) if spec["context"] else None
        if not (keys is None or (isinstance(keys, list) and all(isinstance(k, str) and _NAME.match(k) for k in keys))):
            return False
        todo.extend(spec["children_spec"])
    return True


def _refuse(name: str, what: str) -> Untrusted:
    return Untrusted(
        f"{name} holds {what}, which torch could turn into running code",
        resource=name,
        hint="only programs of plain aten operators are taken; package other models with flavour='python'",
    )
