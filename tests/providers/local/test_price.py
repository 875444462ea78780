"""This machine costs what its owner says it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.endpoints import EndpointSpec, Variant
from ml_toolbox.domain.jobs import JobSpec
from ml_toolbox.domain.money import Money
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local import PROVIDER

JOB = JobSpec(name="churn", script="train.py")
ENDPOINT = EndpointSpec(name="churn", variants=(Variant(name="v1", package="/p"),))


def context(home: Path, **settings: Any) -> ProviderContext:
    return ProviderContext(home=home, install="me", settings=settings)


@pytest.mark.parametrize(
    ("settings", "price"), [({}, "0"), ({"price_per_hour": 2}, "2"), ({"price_per_hour": 0.5}, "0.5")]
)
def test_jobs_and_endpoints_have_the_price(tmp_path: Path, settings: dict[str, Any], price: str) -> None:
    of = context(tmp_path, **settings)
    for offers in (
        PROVIDER.job_backend("local", of).offers(JOB),
        PROVIDER.endpoint_backend("local", of).offers(ENDPOINT),
    ):
        assert [offer.price_hourly for offer in offers] == [Money.usd(price)]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "cheap", True, None])
def test_what_is_no_price_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        PROVIDER.job_backend("local", context(tmp_path, price_per_hour=value))
    assert caught.value.field == "price_per_hour"
