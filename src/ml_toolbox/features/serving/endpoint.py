"""The handle users predict with."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ml_toolbox.base import errors
from ml_toolbox.base.errors import Invalid, NotYet, ToolboxError, Unavailable
from ml_toolbox.domain.endpoints import EndpointState, EndpointStatus
from ml_toolbox.features.serving.rows import encode_rows

if TYPE_CHECKING:
    from ml_toolbox.features.serving.records import EndpointRecord
    from ml_toolbox.features.serving.serving import Serving
    from ml_toolbox.ports.endpoints import Invocation

_BY_STATUS: dict[int, type[ToolboxError]] = {
    404: errors.NotFound,
    409: errors.Conflict,
    401: errors.Denied,
    403: errors.Denied,
    429: errors.Throttled,
}


class Endpoint:
    """One endpoint by name. Keeps a connection between predictions; use one handle per thread."""

    def __init__(self, serving: Serving, name: str) -> None:
        self._serving = serving
        self.name = name
        self._connection: http.client.HTTPConnection | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"

    @property
    def record(self) -> EndpointRecord:
        """Everything known now."""
        return self._serving.show(self.name)

    def status(self) -> EndpointStatus:
        """State, URL, and per variant health and weight, as seen now."""
        return self.record.status

    @property
    def url(self) -> str:
        """Base URL; predictions go to its ``/invocations``, ``/v1/models/...``, ``/v2/models/...`` and ``/predict``."""
        return self.status().url

    def wait_ready(self, timeout_s: float = 120.0) -> EndpointStatus:
        """Wait until what was asked for is in force. ``NotYet`` after the timeout, ``Unavailable`` when it cannot start."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.02
        while True:
            status = self.status()
            if status.state is EndpointState.READY:
                return status
            if status.state is EndpointState.FAILED:
                raise Unavailable(
                    f"endpoint {self.name} does not start: {status.message or 'no message'}",
                    hint=f"mltoolbox endpoints logs {self.name}",
                    resource=self.name,
                )
            if time.monotonic() > deadline:
                raise NotYet(
                    f"endpoint {self.name} is {status.state.value} after {timeout_s:g} s: {status.message or 'no message'}",
                    hint=f"mltoolbox endpoints show {self.name}",
                    resource=self.name,
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.5)

    def predict(self, rows: Any, *, variant: str = "", timeout_s: float = 30.0) -> Any:
        """Predictions in the order of ``rows``; for one single row (a dict or a flat list) its one prediction.

        Args:
            rows: numpy array, pandas, polars or pyarrow table, list of lists or dicts.
            variant: ask this one, whatever the weights.
        Raises:
            Invalid: naming the feature that is wrong. NotYet: not ready. Unavailable: no answer, try again.
        """
        body, single = encode_rows(rows)
        answer = self.invoke(body, variant=variant, timeout_s=timeout_s)
        if answer.status != 200:
            raise error_of(answer, self.name)
        predictions = json.loads(answer.body)["predictions"]
        return predictions[0] if single else predictions

    def invoke(
        self, body: bytes, *, content_type: str = "application/json", variant: str = "", timeout_s: float = 30.0
    ) -> Invocation:
        """One raw request to ``/invocations``, or through the backend where the URL needs signing. The answer as it is."""
        from ml_toolbox.ports.endpoints import Invocation

        headers = {"Content-Type": content_type} | ({"X-MLT-Variant": variant} if variant else {})
        for kept in (True, False):
            fresh = self._connection is None
            connection = self._connected(timeout_s)
            if connection is None:
                return self._serving.invoke(
                    self.name, body, content_type=content_type, variant=variant, timeout_s=timeout_s
                )
            try:
                connection.request("POST", "/invocations", body, headers)
                got = connection.getresponse()
                return Invocation(
                    status=got.status,
                    body=got.read(),
                    content_type=got.headers.get("Content-Type", ""),
                    variant=got.headers.get("X-MLT-Variant", ""),
                )
            except (ConnectionError, http.client.HTTPException) as error:
                self.close()
                # A kept connection may have been closed while it was idle; predictions change nothing, so ask again.
                if fresh or not kept:
                    raise Unavailable(f"endpoint {self.name} did not answer: {error}", resource=self.name) from error
            except OSError as error:
                self.close()
                raise Unavailable(f"endpoint {self.name} did not answer: {error}", resource=self.name) from error
        raise Unavailable(f"endpoint {self.name} did not answer", resource=self.name)

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection | None:
        """A connection to a plain HTTP endpoint; ``None`` where the backend has to carry the request."""
        if self._connection is None:
            status = self.status()
            if status.state in (EndpointState.CREATING, EndpointState.FAILED, EndpointState.DELETING):
                raise NotYet(
                    f"endpoint {self.name} is {status.state.value}",
                    hint=status.message or "wait_ready() waits for it",
                    resource=self.name,
                )
            parts = urlsplit(status.url)
            if parts.scheme != "http" or parts.hostname is None:
                return None
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection

    def close(self) -> None:
        """Let go of the kept connection; the endpoint itself is not touched."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def traffic(self, weights: dict[str, float]) -> EndpointRecord:
        """Set the named variants' shares in percent; the others share the rest."""
        return self._serving.traffic(self.name, weights)

    def scale(self, replicas: int) -> EndpointRecord:
        return self._serving.scale(self.name, replicas)

    def delete(self) -> None:
        """Stop serving and remove everything."""
        self.close()
        self._serving.delete(self.name)


def error_of(answer: Invocation, endpoint: str) -> ToolboxError:
    """An HTTP error as one of ours, with the field the server named."""
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail") or problem.get("error") or f"HTTP status {answer.status}")
    kind = _BY_STATUS.get(answer.status, Invalid if answer.status < 500 else Unavailable)
    return kind(
        f"endpoint {endpoint}: {detail}",
        hint=str(problem.get("hint") or ""),
        field=str(problem.get("field") or ""),
        resource=endpoint,
    )
