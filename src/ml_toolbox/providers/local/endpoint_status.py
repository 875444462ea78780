"""What an endpoint's files mean, as pure functions: wish and observation in, status out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_toolbox.domain.endpoints import EndpointState, EndpointStatus, VariantStatus
from ml_toolbox.runtime.served import variant_statuses

GIVE_UP_AFTER = 3
"""Starts in a row that never became ready after which an endpoint is called failed. It is tried further, ever more slowly."""


def status_of(
    request: Mapping[str, Any], observed: Mapping[str, Any], *, supervised: bool, deleting: bool
) -> EndpointStatus:
    """The status users see. ``observed`` may be empty (the supervisor has not written yet) or of an older wish."""
    body = request["body"]
    replicas: Sequence[Mapping[str, Any]] = observed.get("replicas", ()) if supervised else ()
    ready = [replica for replica in replicas if replica["ready"]]
    current = [replica for replica in ready if replica["revision"] == request["revision"]]
    wanted = int(body["replicas"])
    port = observed.get("port")
    state = _state(request, observed, wanted, ready, current, supervised=supervised, deleting=deleting)
    return EndpointStatus(
        state=state,
        url=f"http://127.0.0.1:{port}" if port else "",
        variants=_variants(body, ready, current),
        replicas_ready=len(ready),
        replicas_wanted=wanted,
        message=_message(observed, replicas, state, supervised=supervised),
    )


def _state(
    request: Mapping[str, Any],
    observed: Mapping[str, Any],
    wanted: int,
    ready: Sequence[Mapping[str, Any]],
    current: Sequence[Mapping[str, Any]],
    *,
    supervised: bool,
    deleting: bool,
) -> EndpointState:
    if deleting:
        return EndpointState.DELETING
    served_before = bool(observed.get("served"))
    if not supervised:
        return EndpointState.DEGRADED if served_before else EndpointState.CREATING
    if not ready:
        if _hopeless(observed):
            return EndpointState.FAILED
        return EndpointState.DEGRADED if served_before else EndpointState.CREATING
    if len(current) == wanted == len(observed.get("replicas", ())):
        return EndpointState.READY
    refused = any(replica["error"] and replica["wanted"] == request["revision"] for replica in ready)
    restarting = any(not replica["ready"] and replica["failures"] for replica in observed.get("replicas", ()))
    return EndpointState.DEGRADED if refused or restarting else EndpointState.UPDATING


def _hopeless(observed: Mapping[str, Any]) -> bool:
    replicas = observed.get("replicas", ())
    return bool(observed.get("error")) or (
        bool(replicas) and all(replica["failures"] >= GIVE_UP_AFTER for replica in replicas)
    )


def _variants(
    body: Mapping[str, Any], ready: Sequence[Mapping[str, Any]], current: Sequence[Mapping[str, Any]]
) -> tuple[VariantStatus, ...]:
    """The weights really in force: those of the replica that lags behind most, as some requests still meet it."""
    lagging = [replica for replica in ready if replica not in current]
    speaker = (lagging or list(ready) or [{"variants": (), "error": ""}])[0]
    return variant_statuses(body["variants"], speaker["variants"], str(speaker["error"]))


def _message(
    observed: Mapping[str, Any], replicas: Sequence[Mapping[str, Any]], state: EndpointState, *, supervised: bool
) -> str:
    if state is EndpointState.READY:
        return ""
    if not supervised:
        return "its supervisor is not running and has been started again"
    errors = [str(observed.get("error") or ""), *(str(replica["error"]) for replica in replicas)]
    return next((error for error in errors if error), "")
