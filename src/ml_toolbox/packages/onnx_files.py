"""ONNX files from outside: is it one, does it read other files, does it ask for foreign operators.

A protobuf walk of a few lines instead of the ``onnx`` package, which a serving container does not have. Field numbers are
those of ``onnx.proto`` (ONNX 1.x, unchanged since IR version 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_toolbox.base.errors import Invalid, Untrusted

# Operators built into ONNX Runtime. Any other domain needs a native library registered by hand, which is never done here.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.ms.internal.nhwc"})
_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
# Message type -> field number -> type of the message in it.
_CHILDREN = {
    "model": {7: "graph", 8: "opset", 25: "function", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "opset"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "opset": {},
    "tensor": {},
}
_MAX_DEPTH = 64


def check_onnx(data: bytes, *, name: str) -> None:
    """Raise unless ``data`` is an ONNX model that stands alone and uses known operators.

    Raises :class:`Untrusted` when it names other files (external data) or foreign operator domains, :class:`Invalid` when
    it is not an ONNX model.
    """
    view = memoryview(data)
    try:
        seen = {number for number, _ in _fields(view)}
        graphs = sum(number == 7 for number, _ in _fields(view))
    except ValueError as error:
        raise Invalid(f"{name} is not an ONNX model: {error}", field=name) from error
    if graphs != 1 or 8 not in seen or not seen <= _MODEL_FIELDS:
        raise Invalid(f"{name} is not an ONNX model: its fields are {sorted(seen)[:12]}", field=name)
    try:
        _check_domains(view, name)
        # Every reference to another file carries the key "location"; the deep walk over all tensors is needed only then.
        if b"location" in data:
            _check_external(view, name)
    except ValueError as error:
        raise Invalid(f"{name} is a damaged ONNX model: {error}", field=name) from error


def _check_domains(view: memoryview, name: str) -> None:
    for number, value in _fields(view):
        parts = [value] if number == 8 else []
        if number == 25:
            parts = [v for n, v in _fields(value) if n == 9]
        for opset in parts:
            domain = next((bytes(v).decode("utf-8", "replace") for n, v in _fields(opset) if n == 1), "")
            if domain not in _DOMAINS:
                raise Untrusted(
                    f"{name} needs operators of the domain {domain!r:.80}",
                    resource=name,
                    hint="export it with the standard operators; native operator libraries are not loaded",
                )


def _check_external(view: memoryview, name: str) -> None:
    todo: list[tuple[str, Any, int]] = [("model", view, 0)]
    while todo:
        kind, message, depth = todo.pop()
        if depth > _MAX_DEPTH:
            raise Untrusted(f"{name} nests deeper than {_MAX_DEPTH} levels", resource=name, hint="export it again")
        for number, value in _fields(message):
            if kind == "tensor" and number in (13, 14) and value:
                raise Untrusted(
                    f"{name} takes weights from another file",
                    resource=name,
                    hint="save it with the weights inside: onnx.save_model(model, path, save_as_external_data=False)",
                )
            child = _CHILDREN[kind].get(number)
            if child is not None and isinstance(value, memoryview):
                todo.append((child, value, depth + 1))


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """(field number, bytes or integer) of a protobuf message; raises ``ValueError`` when it is malformed."""
    if not isinstance(message, memoryview):
        raise ValueError("a message is a number")
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if number == 0 or at + length > end:
            raise ValueError("a field leaves the message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
