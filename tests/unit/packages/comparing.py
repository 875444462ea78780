"""Comparing answers whose dtype the type checker does not know."""

from __future__ import annotations

from typing import Any

import numpy as np


def close(actual: Any, expected: Any, *, atol: float = 0.0, rtol: float = 1e-7) -> None:
    """Assert equal shapes and values within the tolerances."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol, rtol=rtol)
