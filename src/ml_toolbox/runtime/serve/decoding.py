"""Bodies of requests -> :class:`Decoded` rows, for every content type and envelope the platforms use."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
import simdjson

from ml_toolbox.runtime.serve.problems import Refused, shown
from ml_toolbox.runtime.serve.schema import Batch, Schema, batch_rows, brackets

ROW_KEYS: Final = ("instances", "inputs", "data", "features", "dataframe_records", "dataframe_split", "input_data")
"""Where rows are found: Vertex and KServe V1 (the first two), Azure ML, the guides' handlers, MLflow (the last three)."""

_FAST_KEYS: Final = frozenset(ROW_KEYS[:4])

JSON_TYPES: Final = frozenset({"application/json", "text/json", ""})
LINES_TYPES: Final = frozenset(
    {"application/jsonlines", "application/x-jsonlines", "application/x-ndjson", "application/jsonl", "text/jsonlines"}
)
CSV_TYPES: Final = frozenset({"text/csv", "application/csv"})


class Decoded:
    """The rows of one request, ready for the model."""

    __slots__ = ("batch", "identifier", "parameters", "rows", "single")

    def __init__(self, batch: Batch, rows: int, *, single: bool = False, parameters: Any = None) -> None:
        self.batch = batch
        self.rows = rows
        self.single = single
        """One bare row was sent: one bare prediction goes back."""
        self.parameters = parameters
        self.identifier: str | None = None
        """The request's own id, echoed by the Open Inference Protocol."""


class JsonReader:
    """Decodes JSON bodies. Keeps one simdjson parser, so it belongs to one thread."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def tape(self, body: bytes) -> Any:
        """simdjson's view of the body, or ``None`` when the careful way should look. Nothing of it may outlive the next
        call: the parser reuses its memory."""
        try:
            return self._parser.parse(body)
        except ValueError:
            return None  # not JSON; orjson will say where
        except RuntimeError:
            # Too deep, or an earlier view still alive (its traceback holds it): the old parser is left to that view.
            self._parser = simdjson.Parser()
            return None

    def rows(self, schema: Schema, body: bytes) -> Decoded:
        """Rows in any of the envelopes of ``ROW_KEYS``, or a bare list of rows."""
        if schema.tape is not None:
            decoded = self._fast(schema, body)
            if decoded is not None:
                return decoded
        return careful_rows(schema, load(body))

    def _fast(self, schema: Schema, body: bytes) -> Decoded | None:
        document = self.tape(body)
        parameters = None
        if type(document) is simdjson.Object:
            # A `get` of a key that is not there costs more than the whole parse, hence the list of keys.
            keys = list(document)
            found = document.get(keys[0]) if keys and keys[0] in _FAST_KEYS else None
            if len(keys) == 2 and found is not None and keys[1] == "parameters":
                extra = document.get("parameters")
                if type(extra) is not simdjson.Object:
                    return None
                parameters = extra.as_dict()
            elif len(keys) != 1:
                return None
            document = found
        if type(document) is not simdjson.Array:
            return None
        inner = brackets(body) - 1
        if inner == 0 and len(document) == schema.width and (schema.width != 1 or schema.layout == "tensor"):
            batch = schema.fast_flat(document, 1)
            return None if batch is None else Decoded(batch, 1, single=True, parameters=parameters)
        batch = schema.fast_rows(document, inner)
        return None if batch is None else Decoded(batch, batch.shape[0], parameters=parameters)


def load(body: bytes) -> Any:
    """Decoded JSON as Python objects; 400 says where it breaks, not what is there."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: line {error.lineno}, column {error.colno}", field="body") from error


def careful_rows(schema: Schema, document: Any) -> Decoded:
    """Rows out of decoded JSON, whatever the envelope."""
    parameters = None
    if isinstance(document, dict):
        parameters = document.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise Refused(400, "parameters: a JSON object is needed", field="parameters")
        key = next((key for key in ROW_KEYS if key in document), None)
        if key is None:
            if document.keys() & set(schema.names):
                return _decoded(schema, [document], single=True)
            raise Refused(
                400,
                f"the body has none of: {', '.join(ROW_KEYS[:4])}",
                field="instances",
                hint='send {"instances": [row, ...]}; ' + schema.example_hint(),
            )
        document = document[key]
        if isinstance(document, dict):
            return _decoded_object(schema, document, key, parameters)
    if isinstance(document, list) and _is_one_row(schema, document):
        return _decoded(schema, [document], single=True, parameters=parameters)
    return _decoded(schema, document, parameters=parameters)


def _is_one_row(schema: Schema, document: list[Any]) -> bool:
    """``[1, 2, 3]`` where a row has three values: the guides' ``{"features": [...]}``."""
    if schema.layout == "tensor":
        return schema.width is not None and not any(isinstance(value, list | dict) for value in document)
    return len(schema.names) > 1 and bool(document) and not any(isinstance(value, list | dict) for value in document)


def _decoded(schema: Schema, rows: Any, *, single: bool = False, parameters: Any = None) -> Decoded:
    batch = schema.rows(rows)
    return Decoded(batch, batch_rows(batch), single=single, parameters=parameters)


def _decoded_object(schema: Schema, document: dict[str, Any], key: str, parameters: Any) -> Decoded:
    """``{"columns": [...], "data": [[...]]}`` (pandas "split"), one row by name, or lists by name."""
    if "columns" in document and "data" in document and "columns" not in schema.names:
        columns, data = document["columns"], document["data"]
        if not isinstance(columns, list) or not isinstance(data, list):
            raise Refused(400, f"{key}: columns and data are lists", field=key)
        for i, row in enumerate(data):
            if not isinstance(row, list) or len(row) != len(columns):
                raise Refused(400, f"row {i} does not have one value per column", field=f"{key}.data[{i}]")
        return _decoded(schema, [dict(zip(map(str, columns), row, strict=True)) for row in data], parameters=parameters)
    if schema.layout != "tensor" and document and all(isinstance(value, list) for value in document.values()):
        batch = schema.columns_of(document)
        return Decoded(batch, batch_rows(batch), parameters=parameters)
    return _decoded(schema, [document], single=True, parameters=parameters)


def json_lines(schema: Schema, body: bytes) -> Decoded:
    """One row per line: a list, an object by name, or ``{"features": [...]}``."""
    rows = []
    for number, line in enumerate(body.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise Refused(400, f"line {number} is not JSON", field=f"line {number}") from error
        if isinstance(row, dict) and len(row) == 1 and "features" in row and "features" not in schema.names:
            row = row["features"]
        rows.append(row)
    return _decoded(schema, rows)


def csv_rows(schema: Schema, body: bytes) -> Decoded:
    """Comma-separated rows, RFC 4180, with or without a header. Empty fields are missing values."""
    try:
        text = body.decode("utf-8-sig")
        table = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(400, "the body is not CSV in UTF-8", field="body") from error
    if not table:
        raise Refused(400, "there are no rows", field="body")
    names: Sequence[str] = schema.names
    if _is_header(schema, table[0]):
        names = [name.strip() for name in table.pop(0)]
        if not table:
            raise Refused(400, "there are no rows after the header", field="body")
    for i, row in enumerate(table):
        if len(row) != len(names):
            raise Refused(400, f"row {i} has {len(row)} values, {len(names)} are needed", field=f"row {i}")
    if len(schema.names) == 1 and schema.layout == "tensor":
        return _csv_tensor(schema, table)
    texts = {name: [row[i] for row in table] for i, name in enumerate(names)}
    if len(texts) != len(names):
        raise Refused(400, "the header names a feature twice", field="body")
    kinds = {column.name: column.dtype for column in schema.columns}
    batch = schema.columns_of({name: _csv_column(name, kinds.get(name, ""), column) for name, column in texts.items()})
    return Decoded(batch, batch_rows(batch))


def _is_header(schema: Schema, row: list[str]) -> bool:
    fields = [field.strip() for field in row]
    if set(fields) == set(schema.names):
        return True
    if any(column.dtype in ("string", "any") for column in schema.columns):
        return False
    return not any(_is_number(field) or not field for field in fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


def _csv_column(name: str, dtype: str, texts: list[str]) -> list[Any]:
    if dtype in ("string", "any"):
        return [text if text != "" else None for text in texts]
    if dtype == "bool":
        return [{"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text) for text in texts]
    values: list[Any] = []
    for i, text in enumerate(texts):
        if not text.strip():
            values.append(None)
            continue
        try:
            values.append(int(text) if dtype.startswith(("int", "uint")) else float(text))
        except ValueError:
            raise Refused(400, f"{shown(name)}: row {i} is not a number", field=shown(name)) from None
    return values


def _csv_tensor(schema: Schema, table: list[list[str]]) -> Decoded:
    try:
        values = np.array(table).astype(np.float64)
    except ValueError:
        raise Refused(400, f"{schema.names[0]}: a value is not a number", field=schema.names[0]) from None
    batch = schema.array(values)
    return Decoded(batch, batch_rows(batch))
