"""Endpoints on any backend: deploy a model, shift traffic, scale, ask for predictions, delete.

Here belongs what is the same on every platform: an endpoint's desired state, kept durably before anything is done, and the
handle users predict with. What a platform does with that state is its backend's matter; the server that answers is
``ml_toolbox.runtime.serve``.
"""

from __future__ import annotations

from ml_toolbox.features.serving.endpoint import Endpoint
from ml_toolbox.features.serving.records import EndpointRecord
from ml_toolbox.features.serving.serving import Serving
from ml_toolbox.features.serving.wishes import ResolvedModel

__all__ = ["Endpoint", "EndpointRecord", "ResolvedModel", "Serving"]
