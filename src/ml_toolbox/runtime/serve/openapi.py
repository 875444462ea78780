"""The server's own description: an OpenAPI document with the model's real features, and a page to try it on."""

from __future__ import annotations

import json
from typing import Any

from ml_toolbox.packages.manifest import ColumnSpec, Signature


def openapi(model: str, version: str, signature: Signature) -> dict[str, Any]:
    """OpenAPI 3.1 of the prediction, health and description routes."""
    row = row_schema(signature)
    rows = {"type": "array", "items": row, "minItems": 1}
    example = example_row(signature)
    instances = _object({"instances": rows, "parameters": {"type": "object"}}, ["instances"], {"instances": [example]})
    predictions = _object({"predictions": {"type": "array"}}, ["predictions"])
    paths: dict[str, Any] = {
        f"/v1/models/{model}:predict": {"post": _operation("predict", "Predict rows", instances, predictions)},
        "/invocations": {"post": _operation("invocations", "Predict rows (SageMaker)", instances, predictions)},
        "/score": {
            "post": _operation("score", "Predict rows (Azure ML)", _object({"data": rows}, ["data"]), predictions)
        },
        "/predict": {
            "post": _operation(
                "predictFeatures",
                "Predict one row",
                _object({"features": row}, ["features"], {"features": example}),
                _object({"prediction": {}, "probability": {"type": "number"}}, ["prediction"]),
            )
        },
        f"/v2/models/{model}/infer": {
            "post": _operation(
                "infer",
                "Open Inference Protocol",
                _object(
                    {"id": {"type": "string"}, "inputs": {"type": "array", "items": {"type": "object"}}}, ["inputs"]
                ),
                _object({"model_name": {"type": "string"}, "outputs": {"type": "array"}}, ["outputs"]),
            )
        },
    }
    for path, text in (("/v2/health/live", "Alive"), ("/v2/health/ready", "Ready"), ("/ping", "Ready (SageMaker)")):
        paths[path] = {
            "get": {"summary": text, "responses": {"200": {"description": "yes"}, "503": {"description": "no"}}}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": paths,
        "components": {"schemas": {"Row": row, "Problem": _PROBLEM}},
    }


_PROBLEM = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "hint": {"type": "string"},
    },
}


def _object(properties: dict[str, Any], required: list[str], example: Any = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if example is not None:
        schema["examples"] = [example]
    return schema


def _operation(name: str, summary: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    variant = {"name": "X-MLT-Variant", "in": "header", "required": False, "schema": {"type": "string"}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [variant],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "Predictions", "content": {"application/json": {"schema": answer}}},
            "4XX": {"description": "What is wrong with the request", "content": problem},
        },
    }


def row_schema(signature: Signature) -> dict[str, Any]:
    """One row: an object by feature name, or a list in the order of the signature; a nested list for a tensor."""
    if signature.layout == "tensor":
        return _tensor_schema(signature.inputs[0])
    values = [_value_schema(column) for column in signature.inputs]
    names = [column.name for column in signature.inputs]
    by_name = {
        "type": "object",
        "properties": dict(zip(names, values, strict=True)),
        "required": names,
        "additionalProperties": False,
    }
    in_order = {"type": "array", "prefixItems": values, "minItems": len(values), "maxItems": len(values)}
    return {"oneOf": [by_name, in_order]}


def _value_schema(column: ColumnSpec) -> dict[str, Any]:
    kinds = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}
    kind = "string" if column.dtype == "string" else kinds.get(column.dtype[:1], "")
    schema: dict[str, Any] = {"type": [kind, "null"] if column.nullable else kind} if kind else {}
    if column.dtype.startswith("uint"):
        schema["minimum"] = 0
    return schema | {"description": column.dtype}


def _tensor_schema(column: ColumnSpec) -> dict[str, Any]:
    schema = _value_schema(column)
    for size in reversed(column.shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def example_row(signature: Signature) -> Any:
    """A row of zeros and empty texts in the right form."""
    if signature.layout == "tensor":
        value: Any = _example(signature.inputs[0])
        for size in reversed(signature.inputs[0].shape):
            value = [value] * min(size or 1, 4096)
        return value
    return {column.name: _example(column) for column in signature.inputs}


def _example(column: ColumnSpec) -> Any:
    if column.dtype in ("string", "any"):
        return ""
    return {"f": 0.0, "b": False}.get(column.dtype[:1], 0)


def try_page(model: str, version: str, signature: Signature) -> bytes:
    """A page without any foreign script or style: edit the rows, send, see the answer."""
    body = json.dumps({"instances": [example_row(signature)]}, indent=1)
    rows = "".join(
        f"<tr><td>{_html(c.name)}</td><td>{_html(c.dtype)}</td><td>{'yes' if c.nullable else 'no'}</td></tr>"
        for c in signature.inputs
    )
    page = _PAGE.replace("@MODEL@", _html(model)).replace("@VERSION@", _html(version))
    return page.replace("@ROWS@", rows).replace("@BODY@", _html(body)).encode()


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>@MODEL@</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
textarea{width:100%;min-height:14rem;font:13px ui-monospace,monospace}
pre{background:#8881;padding:1rem;overflow:auto}table{border-collapse:collapse}
td,th{padding:.1rem .8rem .1rem 0;text-align:left}
</style></head><body><h1>@MODEL@ <small>version @VERSION@</small></h1>
<p><label for="body">Rows to predict</label></p><textarea id="body" spellcheck="false">@BODY@</textarea>
<p><label>Variant <input id="variant" placeholder="by weight"></label> <button id="send">Predict</button>
 <a href="openapi.json">OpenAPI</a> <a href="metrics">metrics</a></p><pre id="answer" aria-live="polite"></pre>
<h2>Features</h2><table><tr><th>name</th><th>type</th><th>may be missing</th></tr>@ROWS@</table>
<script>
document.getElementById("send").onclick = async () => {
  const headers = {"Content-Type": "application/json"}, variant = document.getElementById("variant").value;
  if (variant) headers["X-MLT-Variant"] = variant;
  const out = document.getElementById("answer"), began = performance.now();
  try {
    const answer = await fetch("v1/models/@MODEL@:predict",
      {method: "POST", headers, body: document.getElementById("body").value});
    const text = await answer.text(), took = (performance.now() - began).toFixed(1);
    out.textContent = answer.status + "  " + (answer.headers.get("X-MLT-Variant") || "") + "  " + took + " ms\\n" + text;
  } catch (error) { out.textContent = String(error); }
};
</script></body></html>
"""
