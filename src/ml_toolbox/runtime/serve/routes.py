"""Which handler answers which path: every platform's routes beside each other, none collides."""

from __future__ import annotations

from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from ml_toolbox.runtime.serve.exchange import Exchange
from ml_toolbox.runtime.serve.metrics import VariantMetrics, exposition
from ml_toolbox.runtime.serve.model import ServedModel
from ml_toolbox.runtime.serve.open_inference import metadata
from ml_toolbox.runtime.serve.openapi import openapi, try_page
from ml_toolbox.runtime.serve.predict_routes import Handler, PredictRoutes, dumps
from ml_toolbox.runtime.serve.problems import Refused, shown

METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Status(Protocol):
    """What the routes may know of the process."""

    version: str
    other: dict[int, int]
    """Answers that reached no variant, by status."""
    metrics: dict[str, VariantMetrics]
    """By label set; also of variants no longer served, so that no counter goes back."""

    @property
    def ready(self) -> bool: ...

    def gauges(self) -> dict[str, float]: ...

    def state(self) -> dict[str, Any]: ...


class Routes:
    """The routing table of one served model."""

    def __init__(self, model: ServedModel, status: Status) -> None:
        self._model = model
        self._status = status
        predict = self._predict = PredictRoutes(model)
        name = model.name.encode()
        self._v2 = b"/v2/models/" + name + b"/versions/"
        post: dict[bytes, Handler] = {
            b"/v1/models/" + name + b":predict": predict.predict,
            b"/v2/models/" + name + b"/infer": predict.infer,
            b"/invocations": predict.invocations,
            b"/predict": predict.predict_features,
            b"/score": predict.predict,
        }
        get: dict[bytes, Handler] = {
            b"/": self._root,
            b"/ping": self._ready_or_not,
            b"/v1/models": self._list,
            b"/v1/models/" + name: self._v1_model,
            b"/v2": self._server_metadata,
            b"/v2/health/live": self._live,
            b"/v2/health/ready": self._health_ready,
            b"/v2/models": self._list,
            b"/v2/models/" + name: self._v2_model,
            b"/v2/models/" + name + b"/ready": self._v2_model_ready,
            b"/metrics": self._metrics,
            b"/openapi.json": self._openapi,
            b"/swagger.json": self._openapi,
            b"/docs": self._docs,
            b"/_mlt/state": self._state,
        }
        self._table: dict[bytes, dict[bytes, Handler]] = {path: {b"POST": handler} for path, handler in post.items()}
        for path, handler in get.items():
            self._table[path] = {b"GET": handler, b"HEAD": handler}

    def dispatch(self, exchange: Exchange) -> None:
        """Find the handler and call it. ``Refused`` for unknown paths (404) and methods (405)."""
        methods = self._table.get(exchange.path)
        if methods is None:
            methods = self._slow(exchange)
        handler = methods.get(exchange.method)
        if handler is None:
            refused = Refused(405, "this route has another method", field="method")
            refused.allow = ", ".join(sorted(method.decode() for method in methods))
            raise refused
        handler(exchange)

    def _slow(self, exchange: Exchange) -> dict[bytes, Handler]:
        """Escaped, slash-ended, absolute-form and versioned paths; 404 naming the model or the route."""
        path = exchange.path
        if path.startswith((b"http://", b"https://")):
            path = b"/" + path.partition(b"//")[2].partition(b"/")[2]
        path = unquote_to_bytes(path)
        if len(path) > 1 and path.endswith(b"/"):
            path = path[:-1]
        methods = self._table.get(path)
        if methods is not None:
            return methods
        if path.startswith(self._v2):
            version, _, action = path[len(self._v2) :].partition(b"/")
            return self._versioned(version.decode("latin-1"), action)
        for prefix in (b"/v1/models/", b"/v2/models/"):
            if path.startswith(prefix):
                asked = path[len(prefix) :].decode("latin-1").replace(":", "/").partition("/")[0]
                if asked != self._model.name:
                    raise Refused(
                        404, f"there is no model {shown(asked)!r}", field="model", hint=f"it is {self._model.name}"
                    )
        raise Refused(404, "there is no such route", hint="GET /openapi.json lists the routes")

    def _versioned(self, version: str, action: bytes) -> dict[bytes, Handler]:
        variant = next(
            (v for v in self._model.variants.values() if version in (v.spec.version, v.spec.name)),
            None,
        )
        if variant is None:
            raise Refused(404, f"{self._model.name} has no version {shown(version)!r}", field="version")
        if action == b"infer":
            return {b"POST": lambda exchange: self._predict.infer(exchange, variant.spec.name)}
        if action in (b"", b"ready"):
            return {b"GET": self._v2_model if not action else self._v2_model_ready}
        raise Refused(404, "there is no such route", hint="GET /openapi.json lists the routes")

    # -- health -----------------------------------------------------------------------------------------------------

    def _root(self, exchange: Exchange) -> None:
        exchange.send(200, b"Healthy", content_type=b"text/plain")

    def _live(self, exchange: Exchange) -> None:
        exchange.send(200, b'{"live":true}')

    def _ready_or_not(self, exchange: Exchange) -> None:
        exchange.send(200 if self._status.ready else 503)

    def _health_ready(self, exchange: Exchange) -> None:
        ready = self._status.ready
        exchange.send(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')

    # -- description ------------------------------------------------------------------------------------------------

    def _list(self, exchange: Exchange) -> None:
        exchange.send(200, dumps({"models": [self._model.name]}))

    def _v1_model(self, exchange: Exchange) -> None:
        ready = self._model.ready
        exchange.send(200 if ready else 503, dumps({"name": self._model.name, "ready": ready}))

    def _v2_model_ready(self, exchange: Exchange) -> None:
        self._v1_model(exchange)

    def _v2_model(self, exchange: Exchange) -> None:
        first = self._model.first()
        versions = [variant.spec.version for variant in self._model.variants.values()]
        document = metadata(self._model.name, versions, first.predictor.engine, first.predictor.signature)
        exchange.send(200, dumps(document))

    def _server_metadata(self, exchange: Exchange) -> None:
        exchange.send(200, dumps({"name": "ml-toolbox", "version": self._status.version, "extensions": []}))

    def _openapi(self, exchange: Exchange) -> None:
        first = self._model.first()
        exchange.send(200, dumps(openapi(self._model.name, first.spec.version, first.predictor.signature)))

    def _docs(self, exchange: Exchange) -> None:
        first = self._model.first()
        page = try_page(self._model.name, first.spec.version, first.predictor.signature)
        exchange.send(200, page, content_type=b"text/html; charset=utf-8")

    # -- operation --------------------------------------------------------------------------------------------------

    def _metrics(self, exchange: Exchange) -> None:
        weights = {v.metrics.labels: self._model.weights[v.spec.name] for v in self._model.variants.values()}
        page = exposition(
            self._status.metrics.values(), weights=weights, other=self._status.other, gauges=self._status.gauges()
        )
        exchange.send(200, page, content_type=METRICS_TYPE)

    def _state(self, exchange: Exchange) -> None:
        exchange.send(200, dumps(self._status.state()))
