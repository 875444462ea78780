"""The embedded price table: a few dozen instance shapes that ML teams use, each price with its date."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from importlib import resources

from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.jobs import Accelerators, Resources
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer


@cache
def offers() -> tuple[Offer, ...]:
    """Every on-demand offer of the table, and a spot offer beside it where the spot price is known."""
    return tuple(_read())


def _read() -> Iterator[Offer]:
    table = resources.files("ml_toolbox.catalog").joinpath("data/prices.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        for column, spot in (("price_hourly", False), ("spot_price_hourly", True)):
            if row[column]:
                yield Offer(
                    backend=row["cloud"],
                    region=row["region"],
                    instance_type=row["instance_type"],
                    vcpus=float(row["vcpus"]),
                    memory_gib=float(row["memory_gib"]),
                    accelerator=row["accelerator"],
                    accelerator_count=int(row["accelerator_count"]),
                    spot=spot,
                    price_hourly=Money.usd(row[column]),
                    price_as_of=row["as_of"],
                )


def fits(offer: Offer, wanted: Resources) -> bool:
    """Whether one node with these resources fits the offer. No wish about accelerators takes none."""
    accelerator = Accelerators.parse(wanted.accelerators)
    if accelerator.count == 0 and offer.accelerator_count:
        return False
    if accelerator.count > offer.accelerator_count:
        return False
    if accelerator.kind and not offer.accelerator.lower().startswith(accelerator.kind.lower()):
        return False
    return (
        offer.spot == wanted.spot and offer.vcpus >= (wanted.cpus or 0) and offer.memory_gib >= (wanted.memory_gib or 0)
    )


def cheapest(wanted: Resources, *, per_cloud: int = 1) -> tuple[Offer, ...]:
    """The cheapest fitting offers of each cloud, cheapest first; empty where nothing in the table fits."""
    taken: dict[str, int] = {}
    chosen = []
    for offer in sorted((o for o in offers() if fits(o, wanted)), key=lambda o: (o.price_hourly, o.instance_type)):
        if taken.get(offer.backend, 0) < per_cloud:
            taken[offer.backend] = taken.get(offer.backend, 0) + 1
            chosen.append(offer)
    return tuple(chosen)


def find(instance_type: str) -> Offer:
    """The on-demand offer of one instance type. Raises ``Invalid`` with the nearest names."""
    for offer in offers():
        if offer.instance_type.lower() == instance_type.lower() and not offer.spot:
            return offer
    raise Invalid.choice("instance_type", instance_type, {o.instance_type for o in offers()})
