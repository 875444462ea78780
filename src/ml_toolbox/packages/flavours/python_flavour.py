"""Any Python object with ``predict``: its source and its state. Loading it runs that source, so it always needs trust.

The state (the object's ``__dict__``) is kept as JSON and ``.npz`` where it is plain values and arrays, so that it can be read
and compared without running anything; only what is neither is pickled.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import nonce
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.python_engine import answer
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.layout import CODE_FOLDER
from ml_toolbox.packages.manifest import Signature
from ml_toolbox.packages.npy import read_npz
from ml_toolbox.packages.samples import Sample

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

DESCRIPTION_FILE = "python.json"
ARRAYS_FILE = "state.npz"
PICKLE_FILE = "state.pkl"
_ARRAY = "$array"


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes the class's source (unless it is an installed library's), and the object's state."""
    kind = type(model)
    source = _source(kind)
    description: dict[str, Any] = {"module": kind.__module__, "class": kind.__qualname__, "source": "", "state": None}
    code: list[str] = []
    files = [DESCRIPTION_FILE]
    if source:
        relative = f"{CODE_FOLDER}/{kind.__module__.strip('_').rsplit('.', 1)[-1]}.py"
        (folder / CODE_FOLDER).mkdir()
        (folder / relative).write_text(source, encoding="utf-8")
        description["source"] = relative
        code.append(relative)
    plain = _plain_state(model) if source else None
    if plain is None:
        (folder / PICKLE_FILE).write_bytes(_pickled(model))
        code.append(PICKLE_FILE)
    else:
        description["state"], arrays = plain
        stored: dict[str, Any] = dict(arrays)
        np.savez_compressed(folder / ARRAYS_FILE, **stored)
        files.append(ARRAYS_FILE)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return Written(
        files=(*code, *files),
        answers=None if sample is None else answer(model, sample.batch),
        kind="python",
        executes_code=tuple(code),
        modules=("numpy", *(() if source else (kind.__module__.split(".")[0],))),
    )


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """None: nothing is known about the class."""
    return Engines()


def load(package: Package) -> Any:
    """The object. Raises ``Untrusted`` without trust, before anything of the package is imported or unpickled."""
    # Not by the files' marks: a crafted manifest would leave them out.
    package.require_trust(DESCRIPTION_FILE)
    description = json.loads(package.read(DESCRIPTION_FILE))
    relative = description["source"]
    module = _module(package.read(relative), package.path(relative)) if relative else None
    if description["state"] is None:
        return _Unpickler(package.read(PICKLE_FILE), description["module"], module).load()
    kind: Any = module
    for part in str(description["class"]).split("."):
        kind = getattr(kind, part, None)
    if not isinstance(kind, type):
        raise Invalid(f"{relative} has no class {description['class']!r}", field=relative)
    model: Any = object.__new__(kind)
    model.__dict__.update(_restored(description["state"], read_npz(package.read(ARRAYS_FILE), name=ARRAYS_FILE)))
    return model


def _source(kind: type) -> str:
    """The source that defines the class, or "" when an installed distribution does."""
    try:
        path = Path(inspect.getsourcefile(kind) or "").resolve()
        text = path.read_text(encoding="utf-8")
    except (TypeError, OSError) as error:
        if kind.__module__ in sys.modules and getattr(sys.modules[kind.__module__], "__file__", None):
            return ""  # compiled extension of an installed library
        raise Invalid(
            f"the source of {kind.__qualname__} cannot be found", field="model", hint="define the class in a file"
        ) from error
    if any(part in ("site-packages", "dist-packages") for part in path.parts):
        return ""
    # A script's own statements would train again whenever the model is loaded.
    return _definitions(text) if kind.__module__ == "__main__" else text


def _definitions(text: str) -> str:
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(text)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, kept)
        or (isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and _is_literal(node.value))
    ]
    return ast.unparse(tree) + "\n"


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _plain_state(model: Any) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """(JSON with references, arrays), or None when the state is not plain."""
    if not hasattr(model, "__dict__") or hasattr(type(model), "__slots__") or hasattr(type(model), "__setstate__"):
        return None
    arrays: dict[str, Array] = {}
    try:
        state = {str(key): _plain(value, arrays) for key, value in vars(model).items()}
        json.dumps(state, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return state, arrays


def _plain(value: Any, arrays: dict[str, Array]) -> Any:
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        raise TypeError("tensors come back as tensors only from a pickle")
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject:
            raise TypeError("object array")
        key = f"a{len(arrays)}"
        arrays[key] = np.asarray(value)
        return {_ARRAY: key, "scalar": isinstance(value, np.generic)}
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, dict) and all(type(key) is str and key != _ARRAY for key in value):
        return {key: _plain(item, arrays) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{type(value)} is not plain")


def _restored(value: Any, arrays: dict[str, Array]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            array = arrays[value[_ARRAY]]
            return array[()] if value.get("scalar") else array
        return {key: _restored(item, arrays) for key, item in value.items()}
    return [_restored(item, arrays) for item in value] if isinstance(value, list) else value


def _pickled(model: Any) -> bytes:
    try:
        return pickle.dumps(model, protocol=4)
    # Whatever the object's own __getstate__ or __reduce__ raises.
    except Exception as error:
        raise Invalid(f"{type(model).__qualname__} cannot be pickled: {error}", field="model") from error


def _module(source: bytes, path: Path) -> ModuleType:
    name = f"mltoolbox_model_{nonce()[:12]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    if spec is None:
        raise Invalid(f"{path} cannot be imported", field=str(path))
    module = importlib.util.module_from_spec(spec)
    # Pickles and dataclasses inside look their own module up by name.
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - permitted by the caller's trust
    return module


class _Unpickler(pickle.Unpickler):
    """Finds the packaged classes in the packaged source instead of in ``__main__`` or a module that is not here."""

    def __init__(self, data: bytes, origin: str, module: ModuleType | None) -> None:
        super().__init__(io.BytesIO(data))
        self._origin, self._module = origin, module

    def find_class(self, module: str, name: str) -> Any:
        if self._module is not None and module == self._origin:
            found: Any = self._module
            for part in name.split("."):
                found = getattr(found, part)
            return found
        return super().find_class(module, name)
