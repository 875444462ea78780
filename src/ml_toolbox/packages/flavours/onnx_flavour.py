"""ONNX files made elsewhere: the graph is the original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.packages.engines.answers import Array
from ml_toolbox.packages.engines.onnxruntime_engine import session
from ml_toolbox.packages.flavours.written import Engines, Written
from ml_toolbox.packages.manifest import Signature
from ml_toolbox.packages.onnx_files import check_onnx
from ml_toolbox.packages.probes import SEED
from ml_toolbox.packages.samples import Sample, read_sample

if TYPE_CHECKING:
    from ml_toolbox.packages.package import Package

FILE = "model.onnx"
_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip
_DRAWN_ROWS = 8


def write(model: Any, folder: Path, sample: Sample | None) -> Written:
    """Writes ``model.onnx`` from a path, bytes or an ``onnx.ModelProto``, and runs the sample through it."""
    data = content(model)
    (folder / FILE).write_bytes(data)
    inputs, outputs = _interface(data)
    names = {("prediction" if n == 0 else name): name for n, name in enumerate(outputs)}
    options = {"input_dtype": _DTYPES[inputs[0].type], "outputs": names}
    answers = None if sample is None else _answers(data, sample, inputs, names)
    return Written(
        files=(FILE,), answers=answers, kind="onnxruntime", options=options, modules=("onnxruntime", "numpy")
    )


def engines(model: Any, folder: Path, sample: Sample, signature: Signature, answers: dict[str, Array]) -> Engines:
    """None: the original is the fast engine."""
    return Engines()


def load(package: Package) -> Any:
    """An ONNX Runtime session over the graph."""
    data = package.read(FILE)
    check_onnx(data, name=FILE)
    return _open(data, FILE)


def content(model: Any) -> bytes:
    """The checked bytes of an ONNX model given as a path, bytes or ``ModelProto``."""
    if isinstance(model, (str, Path)):
        if not Path(model).is_file():
            raise NotFound(f"there is no ONNX file {model}", field="model", resource=str(model))
        data = Path(model).read_bytes()
    else:
        data = model if isinstance(model, bytes) else model.SerializeToString()
    check_onnx(data, name=FILE)
    return data


def drawn_sample(model: Any) -> Sample:
    """Rows drawn from the graph's own declaration of its input: every free dimension after the first is taken as 1."""
    inputs, _ = _interface(content(model))
    shape = (_DRAWN_ROWS, *(n if isinstance(n, int) and n > 0 else 1 for n in list(inputs[0].shape)[1:]))
    random = np.random.default_rng(SEED)
    dtype = np.dtype(_DTYPES[inputs[0].type])
    rows = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, size=shape)
    sample = read_sample(rows.astype(dtype), tensor=True)
    return Sample(layout=sample.layout, inputs=sample.inputs, matrix=sample.matrix, synthetic=True)


def _interface(data: bytes) -> tuple[Any, list[str]]:
    opened = _open(data, FILE)
    inputs = opened.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES:
        raise Unsupported(
            f"the ONNX model takes {', '.join(f'{i.name}: {i.type}' for i in inputs)}",
            field="model",
            hint="one input tensor of numbers is served; export a graph with a single input",
        )
    # Sequences of maps are what converters give for probabilities unless told not to (zipmap); they are no arrays.
    outputs = [o.name for o in opened.get_outputs() if o.type.startswith("tensor")]
    if not outputs:
        raise Unsupported(
            "the ONNX model has no tensor output", field="model", hint="export it with zipmap switched off"
        )
    return inputs, outputs


def _answers(data: bytes, sample: Sample, inputs: Any, names: dict[str, str]) -> dict[str, Array]:
    rows = np.ascontiguousarray(sample.matrix, dtype=np.dtype(_DTYPES[inputs[0].type]))
    try:
        values = _open(data, FILE).run(list(names.values()), {inputs[0].name: rows})
    # ONNX Runtime's errors are pybind classes without a common public base.
    except Exception as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return {
        name: value.astype(np.str_) if value.dtype == object else value
        for name, value in zip(names, values, strict=True)
    }


def _open(data: bytes, name: str) -> Any:
    try:
        return session(data, 1)
    # As above.
    except Exception as error:
        raise Invalid(f"ONNX Runtime cannot open {name}: {error}"[:500], field=name) from error
