from __future__ import annotations

import re

import pytest

from ml_toolbox.base.errors import Invalid
from ml_toolbox.catalog import prices
from ml_toolbox.domain.jobs import Accelerators, Resources
from ml_toolbox.domain.money import Money


def test_every_price_has_its_date_and_its_shape() -> None:
    for offer in prices.offers():
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", offer.price_as_of)
        assert offer.price_hourly > Money(0)
        assert offer.vcpus > 0
        assert offer.memory_gib > 0
        assert (offer.accelerator != "") == (offer.accelerator_count > 0)


def test_the_cheapest_that_fits_one_per_cloud_cheapest_first() -> None:
    found = prices.cheapest(Resources(cpus=4, memory_gib=16))
    assert {offer.backend for offer in found} == {"aws", "gcp", "azure"}
    assert list(found) == sorted(found, key=lambda offer: offer.price_hourly)
    for offer in found:
        assert offer.vcpus >= 4
        assert offer.memory_gib >= 16
        assert not offer.accelerator_count
        cheaper = [
            o
            for o in prices.offers()
            if o.backend == offer.backend
            and prices.fits(o, Resources(cpus=4, memory_gib=16))
            and o.price_hourly < offer.price_hourly
        ]
        assert cheaper == []


def test_accelerators_are_matched_by_type_and_count() -> None:
    eight = prices.cheapest(Resources(accelerators="H100:8"))
    assert eight
    assert all(offer.accelerator == "H100" and offer.accelerator_count >= 8 for offer in eight)


def test_spot_prices_are_offered_only_where_they_are_known() -> None:
    assert {offer.backend for offer in prices.cheapest(Resources(spot=True))} == {"gcp"}


@pytest.mark.parametrize("text", ["T4:0", "T4:x", ":1", "T4:-1"])
def test_a_malformed_accelerator_names_the_field(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        Accelerators.parse(text)
    assert caught.value.field == "resources.accelerators"


def test_an_unknown_instance_type_suggests_the_nearest() -> None:
    with pytest.raises(Invalid, match=r"m5\.xlarge"):
        prices.find("m5.xlargee")
