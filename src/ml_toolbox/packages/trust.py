"""How far the caller trusts a package. Distrust is the default everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What permits files that run code when loaded (pickle, joblib, Python source)."""

    explicit: bool = False
    """The user says so: these files come from a place they control."""
    public_key: str | Path | None = None
    """PEM file of an elliptic-curve public key. The package must carry a valid OpenSSF model signature by it, whether or not
    it contains code, and code in it is then permitted."""


NO_TRUST = Trust()
