"""The Open Inference Protocol (V2), JSON form: tensors in, tensors out, metadata.

Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
import simdjson

from ml_toolbox.packages.manifest import ColumnSpec, Signature
from ml_toolbox.runtime.serve.decoding import Decoded, JsonReader, load
from ml_toolbox.runtime.serve.problems import Refused, shown
from ml_toolbox.runtime.serve.schema import Array, Schema, batch_rows, brackets

DATATYPES: Final = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
_NAMES: Final = {numpy_name: datatype for datatype, numpy_name in DATATYPES.items()}
_REAL: Final = frozenset({"FP32", "FP64"})
_MODEST: Final = frozenset({"inputs", "id", "outputs"})
_BY_DTYPE: Final = {np.dtype(numpy_name): datatype for numpy_name, datatype in _NAMES.items()}
MATRIX_INPUT: Final = "input"
"""What metadata calls the one tensor of a model whose columns share a type; any name is accepted for it."""


def datatype_of(dtype: str) -> str:
    """``float32`` -> ``FP32``; text and mixed values are ``BYTES``."""
    return _NAMES.get(dtype, "BYTES")


def read_infer(reader: JsonReader, schema: Schema, body: bytes) -> tuple[Decoded, tuple[str, ...] | None]:
    """The rows and the names of the outputs asked for (``None``: all)."""
    if schema.tape is not None:
        found = _fast(reader, schema, body)
        if found is not None:
            return found
    return _careful(schema, load(body))


def _fast(reader: JsonReader, schema: Schema, body: bytes) -> tuple[Decoded, tuple[str, ...] | None] | None:
    """One flat or row-wise numeric tensor, perhaps an id and names of outputs: what nearly every request is."""
    document: Any = reader.tape(body)
    if type(document) is not simdjson.Object:
        return None
    inputs: Any = document.get("inputs")
    if type(inputs) is not simdjson.Array or len(inputs) != 1:
        return None
    identifier: Any = None
    wanted: tuple[str, ...] | None = None
    expected = 3  # brackets: inputs, shape and data have one each
    if len(document) > 1:
        keys = list(document)  # a `get` of what is not there would cost as much as the whole parse
        if len(keys) > 3 or not _MODEST.issuperset(keys):
            return None
        if "id" in keys:
            identifier = document.get("id")
            if type(identifier) is not str:
                return None
        if "outputs" in keys:
            outputs: Any = document.get("outputs")
            if type(outputs) is not simdjson.Array:
                return None
            expected, wanted = 4, _wanted(outputs.as_list())
    decoded = _one_tensor(schema, inputs[0], brackets(body) - expected)
    if decoded is None:
        return None
    decoded.identifier = identifier
    return decoded, wanted


def _one_tensor(schema: Schema, tensor: Any, inner: int) -> Decoded | None:
    """The tensor's rows; ``inner``: how many ``[`` its data has inside."""
    if type(tensor) is not simdjson.Object or len(tensor) != 4:
        return None
    if schema.layout == "tensor" and tensor.get("name") != schema.names[0]:
        return None
    shape: Any = tensor.get("shape")
    data: Any = tensor.get("data")
    if type(shape) is not simdjson.Array or type(data) is not simdjson.Array or len(shape) != 2:
        return None
    if tensor.get("datatype") not in (_REAL if schema.dtype.kind == "f" else (datatype_of(schema.dtype.name),)):
        return None
    rows, width = shape.as_list()
    if width != schema.width or type(rows) is not int:
        return None
    batch = schema.fast_flat(data, rows) if inner == 0 else schema.fast_rows(data, inner)
    if batch is None or batch.shape[0] != rows:
        return None
    return Decoded(batch, rows)


def _careful(schema: Schema, document: Any) -> tuple[Decoded, tuple[str, ...] | None]:
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list) or not document["inputs"]:
        raise Refused(400, "inputs: a list of tensors is needed", field="inputs")
    tensors: dict[str, tuple[int, ...]] = {}
    values: dict[str, Array] = {}
    for i, tensor in enumerate(document["inputs"]):
        name, array = _tensor(tensor, f"inputs[{i}]")
        if name in values:
            raise Refused(400, f"inputs[{i}].name: {shown(name)} is there twice", field=f"inputs[{i}].name")
        values[name], tensors[name] = array, array.shape
    if len({shape[:1] for shape in tensors.values()}) > 1:
        raise Refused(400, "inputs: the tensors have different numbers of rows", field="inputs.shape")
    if schema.layout == "matrix" and len(values) == 1 and next(iter(values)) not in schema.names:
        batch = schema.array(next(iter(values.values())))
    elif schema.layout == "tensor":
        if set(values) != set(schema.names):
            schema.columns_of(values)  # raises, naming the tensor
        batch = schema.array(values[schema.names[0]])
    else:
        batch = schema.columns_of(values)
    decoded = Decoded(batch, batch_rows(batch))
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise Refused(400, "id: a string is needed", field="id")
    decoded.identifier = identifier
    return decoded, _wanted(document.get("outputs"))


def _tensor(tensor: Any, field: str) -> tuple[str, Array]:
    if not isinstance(tensor, dict):
        raise Refused(400, f"{field}: a tensor is an object", field=field)
    for key in ("name", "shape", "datatype", "data"):
        if key not in tensor:
            raise Refused(400, f"{field}.{key} is missing", field=f"{field}.{key}")
    name, shape, datatype, data = tensor["name"], tensor["shape"], tensor["datatype"], tensor["data"]
    if not isinstance(name, str):
        raise Refused(400, f"{field}.name: a string is needed", field=f"{field}.name")
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 0 for n in shape):
        raise Refused(400, f"{field}.shape: a list of integers is needed", field=f"{field}.shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES or datatype == "FP16":
        known = ", ".join(known for known in DATATYPES if known != "FP16")
        raise Refused(400, f"{field}.datatype: unknown; JSON carries {known}", field=f"{field}.datatype")
    if not isinstance(data, list):
        raise Refused(400, f"{field}.data: a list is needed", field=f"{field}.data")
    return name, _values(data, tuple(shape), datatype, field)


def _values(data: list[Any], shape: tuple[int, ...], datatype: str, field: str) -> Array:
    flat = _flattened(data)
    size = 1
    for n in shape:
        size *= n
    if len(flat) != size:
        raise Refused(400, f"{field}.data has {len(flat)} values, its shape says {size}", field=f"{field}.data")
    if datatype == "BYTES":
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    nan_allowed = datatype in _REAL
    if set(map(type, flat)) <= ({int, float} if nan_allowed else {int}) and datatype != "BOOL":
        return _numbers(flat, shape, datatype, field)
    for i, value in enumerate(flat):
        if value is None and nan_allowed:
            flat[i] = np.nan
        elif not _is(datatype, value):
            raise Refused(400, f"{field}.data[{i}] is not {datatype}", field=f"{field}.data")
    return _numbers(flat, shape, datatype, field)


def _numbers(flat: list[Any], shape: tuple[int, ...], datatype: str, field: str) -> Array:
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, DATATYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise Refused(400, f"{field}.data: a number does not fit {datatype}", field=f"{field}.data") from error


def _is(datatype: str, value: Any) -> bool:
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    if isinstance(value, float):
        return datatype in _REAL or value.is_integer()
    return isinstance(value, int)


def _flattened(data: list[Any]) -> list[Any]:
    """Row-major values of nested lists. Depth is bounded by the JSON decoder's own limit; this loop does not recurse."""
    while any(isinstance(item, list) for item in data):
        data = [value for item in data for value in (item if isinstance(item, list) else [item])]
    return list(data)


def _wanted(outputs: Any) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    if not isinstance(outputs, list) or any(
        not isinstance(output, dict) or not isinstance(output.get("name"), str) for output in outputs
    ):
        raise Refused(400, "outputs: a list of objects with a name is needed", field="outputs")
    return tuple(output["name"] for output in outputs) or None


def write_infer(model: str, version: str, identifier: str | None, results: dict[str, Array]) -> bytes:
    """The answer with every result as a flat tensor."""
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if identifier is not None:
        answer["id"] = identifier
    answer["outputs"] = [_output(name, array) for name, array in results.items()]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _output(name: str, array: Array) -> dict[str, Any]:
    data: Any = array if array.ndim == 1 else array.reshape(-1)
    datatype = _BY_DTYPE.get(array.dtype, "BYTES")
    if datatype == "BYTES":
        data = [value if isinstance(value, str) else str(value) for value in data.tolist()]
    elif data.size < 64 or not data.flags.c_contiguous:
        data = data.tolist()
    return {"name": name, "shape": array.shape, "datatype": datatype, "data": data}


def metadata(model: str, versions: list[str], platform: str, signature: Signature) -> dict[str, Any]:
    """The model metadata response."""
    return {
        "name": model,
        "versions": versions,
        "platform": platform,
        "inputs": _input_metadata(signature),
        "outputs": [_column_metadata(column) for column in signature.outputs],
    }


def _input_metadata(signature: Signature) -> list[dict[str, Any]]:
    if signature.layout == "matrix":
        width = len(signature.inputs)
        return [{"name": MATRIX_INPUT, "datatype": datatype_of(signature.inputs[0].dtype), "shape": [-1, width]}]
    return [_column_metadata(column) for column in signature.inputs]


def _column_metadata(column: ColumnSpec) -> dict[str, Any]:
    shape = [-1, *(-1 if n is None else n for n in column.shape)]
    return {"name": column.name, "datatype": datatype_of(column.dtype), "shape": shape}
