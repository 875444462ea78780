"""The prediction routes: each reads its platform's envelope, submits the rows, and writes the answer in kind."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson

from ml_toolbox.runtime.serve.batching import Results, Work
from ml_toolbox.runtime.serve.decoding import (
    CSV_TYPES,
    JSON_TYPES,
    LINES_TYPES,
    Decoded,
    JsonReader,
    csv_rows,
    json_lines,
)
from ml_toolbox.runtime.serve.exchange import JSON, Exchange
from ml_toolbox.runtime.serve.model import LoadedVariant, ServedModel
from ml_toolbox.runtime.serve.open_inference import read_infer, write_infer
from ml_toolbox.runtime.serve.problems import Refused
from ml_toolbox.runtime.serve.schema import Array

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
PROBABILITIES: Final = "probabilities"
_FORM: Final = "application/x-www-form-urlencoded"
"""What ``curl -d`` and other simple clients say when they send JSON; the body is checked anyway."""
_SMALL: Final = 64
"""Values up to which a Python list is encoded faster than an array (orjson sets up each array anew)."""


def plain(array: Array) -> Any:
    """What orjson writes fastest: short or non-numeric arrays as lists, the others as they are."""
    if array.size <= _SMALL or array.dtype.kind not in "fiub" or not array.flags.c_contiguous:
        return array.tolist()
    return array


def _text(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def dumps(value: Any) -> bytes:
    """JSON with numpy inside; NaN and infinity become null, as JSON has no word for them."""
    return orjson.dumps(value, default=_text, option=_NUMPY)


class PredictRoutes:
    """Handlers bound to one served model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._reader = JsonReader()

    def _variant(self, exchange: Exchange, asked: str = "") -> LoadedVariant:
        header = exchange.headers.get(b"x-mlt-variant")
        exchange.variant = variant = self._model.pick(asked or (header.decode("latin-1") if header else ""))
        return variant

    # -- KServe V1, Vertex, Azure ML: {"instances": rows} -> {"predictions": [...]} ----------------------------------

    def predict(self, exchange: Exchange) -> None:
        _need_json(exchange)
        variant = self._variant(exchange)
        decoded = self._reader.rows(variant.schema, exchange.body)
        outputs = _wanted_outputs(variant, decoded.parameters)
        encode = _predictions if len(outputs) == 1 else _named_predictions
        variant.lane.submit(Work(exchange, decoded, outputs, encode))

    # -- {"features": row} -> {"prediction": ..., "probability": ...} ------------------------------------------------

    def predict_features(self, exchange: Exchange) -> None:
        _need_json(exchange)
        variant = self._variant(exchange)
        decoded = self._reader.rows(variant.schema, exchange.body)
        outputs = variant.outputs[:1]
        if PROBABILITIES in variant.outputs[1:]:
            outputs = (outputs[0], PROBABILITIES)
        encode = _one_with_probability if decoded.single or decoded.rows == 1 else _many_with_probability
        variant.lane.submit(Work(exchange, decoded, outputs, encode))

    # -- Open Inference Protocol --------------------------------------------------------------------------------------

    def infer(self, exchange: Exchange, asked: str = "") -> None:
        _need_json(exchange)
        variant = self._variant(exchange, asked)
        decoded, wanted = read_infer(self._reader, variant.schema, exchange.body)
        outputs = variant.choose(wanted, default=variant.outputs)
        name, version, identifier = self._model.name, variant.spec.version, decoded.identifier
        variant.lane.submit(
            Work(exchange, decoded, outputs, lambda results: write_infer(name, version, identifier, results))
        )

    # -- SageMaker: the content type says what comes, Accept what goes -----------------------------------------------

    def invocations(self, exchange: Exchange) -> None:
        kind = _content_type(exchange)
        if kind in JSON_TYPES or kind == _FORM:
            self._invoke_json(exchange)
            return
        if kind not in CSV_TYPES and kind not in LINES_TYPES:
            raise Refused(415, "send application/json, application/jsonlines or text/csv", field="Content-Type")
        variant = self._variant(exchange)
        decoded = (csv_rows if kind in CSV_TYPES else json_lines)(variant.schema, exchange.body)
        self._submit_as(exchange, variant, decoded, _answer_type(exchange, kind))

    def _invoke_json(self, exchange: Exchange) -> None:
        variant = self._variant(exchange)
        accept = _answer_type(exchange, "application/json")
        decoded = self._reader.rows(variant.schema, exchange.body)
        outputs = _wanted_outputs(variant, decoded.parameters)
        if accept == "application/json":
            encode = _predictions if len(outputs) == 1 else _named_predictions
            variant.lane.submit(Work(exchange, decoded, outputs, encode))
            return
        self._submit_as(exchange, variant, decoded, accept)

    def _submit_as(self, exchange: Exchange, variant: LoadedVariant, decoded: Decoded, accept: str) -> None:
        outputs = variant.outputs[:1]
        if accept == "application/json":
            variant.lane.submit(Work(exchange, decoded, outputs, _predictions))
            return
        encode = _lines if accept in LINES_TYPES else _csv
        variant.lane.submit(Work(_TypedReply(exchange, accept.encode()), decoded, outputs, encode))


class _TypedReply:
    """Answers with another content type than JSON."""

    __slots__ = ("_content_type", "_exchange", "started")

    def __init__(self, exchange: Exchange, content_type: bytes) -> None:
        self._exchange = exchange
        self._content_type = content_type
        self.started = exchange.started

    def answer(self, body: bytes) -> None:
        self._exchange.send(200, body, content_type=self._content_type)

    def refuse(self, refused: Refused) -> None:
        self._exchange.refuse(refused)


def _content_type(exchange: Exchange) -> str:
    value = exchange.headers.get(b"content-type", b"")
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def _need_json(exchange: Exchange) -> None:
    value = exchange.headers.get(b"content-type")
    if value is None or value == JSON:
        return
    kind = _content_type(exchange)
    if kind not in JSON_TYPES and kind != _FORM:
        raise Refused(415, "this route takes application/json", field="Content-Type")


def _answer_type(exchange: Exchange, kind: str) -> str:
    """The first of ``Accept`` that can be written; nothing asked: JSON for JSON and CSV, lines for lines."""
    natural = kind if kind in LINES_TYPES else "application/json"
    accept = exchange.headers.get(b"accept")
    if accept is None or accept == b"*/*":
        return natural
    for part in accept.decode("latin-1").split(","):
        wanted = part.partition(";")[0].strip().lower()
        if wanted in ("*/*", "application/*"):
            return natural
        if wanted == "application/json" or wanted in LINES_TYPES or wanted in CSV_TYPES:
            return wanted
    return natural  # RFC 9110 section 12.4.1: an origin server may disregard Accept rather than refuse


def _wanted_outputs(variant: LoadedVariant, parameters: Any) -> tuple[str, ...]:
    """``parameters: {"output": "probabilities"}`` (or ``outputs``: several) picks what to compute."""
    if not isinstance(parameters, dict) or not parameters:
        return variant.outputs[:1]
    wanted = parameters.get("outputs", parameters.get("output"))
    if wanted is None:
        return variant.outputs[:1]
    names = (wanted,) if isinstance(wanted, str) else wanted
    if not isinstance(names, list | tuple) or not names or any(not isinstance(name, str) for name in names):
        raise Refused(400, "parameters.outputs: a list of output names is needed", field="parameters.outputs")
    return variant.choose(tuple(names), default=())


def _only(results: Results) -> Array:
    return next(iter(results.values()))


def _predictions(results: Results) -> bytes:
    return dumps({"predictions": plain(_only(results))})


def _named_predictions(results: Results) -> bytes:
    names = list(results)
    rows = zip(*(array.tolist() for array in results.values()), strict=True)
    return dumps({"predictions": [dict(zip(names, row, strict=True)) for row in rows]})


def _one_with_probability(results: Results) -> bytes:
    answer = {"prediction": plain(_only(results))[0]}
    if PROBABILITIES in results:
        answer["probability"] = float(np.max(results[PROBABILITIES][0]))
    return dumps(answer)


def _many_with_probability(results: Results) -> bytes:
    answer = {"predictions": plain(_only(results))}
    if PROBABILITIES in results:
        chances = results[PROBABILITIES]
        answer["probabilities"] = plain(chances.reshape(chances.shape[0], -1).max(axis=1))
    return dumps(answer)


def _lines(results: Results) -> bytes:
    return b"".join(dumps(row) + b"\n" for row in _only(results).tolist())


def _csv(results: Results) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows(row if isinstance(row, list) else [row] for row in _only(results).tolist())
    return out.getvalue().encode()


Handler = Callable[[Exchange], None]
