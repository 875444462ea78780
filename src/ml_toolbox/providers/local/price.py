"""What an hour of this machine costs: nothing, unless its owner says otherwise (``[providers.local] price_per_hour``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.money import Money


def price_per_hour(settings: Mapping[str, Any]) -> Money:
    """US dollars for an hour of one job, or of one replica of an endpoint. ``Invalid`` for anything but a number from 0."""
    value = settings.get("price_per_hour", 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= 0 and math.isfinite(value)):
        raise Invalid(f"price_per_hour must be US dollars from 0, not {value!r}", field="price_per_hour")
    return Money.usd(value)
