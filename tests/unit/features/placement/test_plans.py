from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from ml_toolbox.base.errors import BudgetExceeded, Unsupported
from ml_toolbox.domain.endpoints import EndpointSpec, Variant
from ml_toolbox.domain.jobs import JobSpec, Limits, Resources
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer
from ml_toolbox.features.placement import plan_endpoint, plan_job
from ml_toolbox.features.training import worst
from ml_toolbox.ports.endpoints import EndpointBackend, EndpointRequest
from ml_toolbox.ports.jobs import JobBackend, JobRequest, Owner


@dataclass
class Place:
    """Only what planning may call: anything that launches is an AttributeError."""

    name: str
    price: str = "0"
    reason: str | None = None
    body: dict[str, Any] = field(default_factory=dict)

    def refuses(self, spec: object) -> str | None:
        return self.reason

    def offers(self, spec: object) -> tuple[Offer, ...]:
        if self.reason:
            return ()
        return (
            Offer(backend=self.name, instance_type="x", price_hourly=Money.usd(self.price), price_as_of="2026-07-20"),
        )

    def build(self, spec: JobSpec | EndpointSpec, owner: Owner) -> Any:
        name = f"mlt-{spec.name}"
        if isinstance(spec, EndpointSpec):
            return EndpointRequest(name=name, body=self.body, tags={})
        return JobRequest(name=name, body=self.body, tags={}, max_run_s=spec.limits.max_duration_s)


def jobs(place: Place) -> JobBackend:
    return cast("JobBackend", place)


def endpoints(place: Place) -> EndpointBackend:
    return cast("EndpointBackend", place)


SPEC = JobSpec(name="churn", script="train.py", limits=Limits(max_duration_s=7200))


def test_a_plan_says_what_where_and_how_much_at_worst() -> None:
    plan = plan_job(SPEC, jobs(Place("cloud", price="1.5")), [], install="me", worst=worst)
    assert plan.backend == "cloud"
    assert plan.cost_per_hour == Money.usd("1.5")
    assert plan.max_cost == Money.usd("3")
    assert plan.offer.price_as_of == "2026-07-20"
    assert plan.requests[0].body == {}


def test_every_node_costs() -> None:
    spec = JobSpec(name="churn", script="train.py", resources=Resources(nodes=4))
    assert plan_job(spec, jobs(Place("cloud", price="1")), [], install="me", worst=worst).cost_per_hour == Money.usd(4)


def test_each_place_not_taken_has_its_reason() -> None:
    others = [jobs(Place("full", reason="no GPUs here")), jobs(Place("other", price="9"))]
    reasons = {
        a.name: a.reason for a in plan_job(SPEC, jobs(Place("cloud")), others, install="me", worst=worst).alternatives
    }
    assert reasons["full"] == "no GPUs here"
    assert "not asked for" in reasons["other"]


def test_cloud_instances_are_priced_with_their_date_for_comparison() -> None:
    plan = plan_job(SPEC, jobs(Place("local")), [], install="me", worst=worst)
    priced = [a for a in plan.alternatives if a.price_hourly is not None]
    assert len(priced) >= 3
    assert all(a.price_as_of for a in priced)


def test_a_refusal_is_an_error_before_anything_is_launched() -> None:
    with pytest.raises(Unsupported, match="no GPUs here"):
        plan_job(SPEC, jobs(Place("small", reason="no GPUs here")), [], install="me", worst=worst)


def test_a_job_is_cut_short_to_what_its_money_lasts_for() -> None:
    spec = JobSpec(name="churn", script="train.py", limits=Limits(max_duration_s=36000, max_cost_usd=5))
    plan = plan_job(spec, jobs(Place("cloud", price="1")), [], install="me", worst=worst)
    assert plan.max_duration_s == 5 * 3600
    assert plan.max_cost == Money.usd(5)
    assert "lasts for 18000 s of the 36000 s" in plan.warnings[0]


def test_money_that_lasts_for_less_than_a_minute_is_refused_with_the_arithmetic() -> None:
    spec = JobSpec(name="churn", script="train.py", limits=Limits(max_duration_s=36000, max_cost_usd=0.01))
    with pytest.raises(BudgetExceeded, match=r"\$0\.0100 left lasts 36 s at \$1\.00 an hour") as caught:
        plan_job(spec, jobs(Place("cloud", price="1")), [], install="me", worst=worst)
    assert caught.value.field == "limits.max_cost_usd"


def test_a_place_dearer_than_the_job_allows_is_refused() -> None:
    spec = JobSpec(name="churn", script="train.py", limits=Limits(max_cost_per_hour_usd=0.5))
    with pytest.raises(BudgetExceeded, match=r"costs \$1\.00 an hour, \$0\.5000 is the limit"):
        plan_job(spec, jobs(Place("cloud", price="1")), [], install="me", worst=worst)


def test_secrets_do_not_reach_a_plan() -> None:
    body = {
        "variables": {"API_TOKEN": "t0p", "AWS_SECRET_ACCESS_KEY": "s3cret", "EPOCHS": "3"},
        "list": [{"password": "p"}],
    }
    plan = plan_job(SPEC, jobs(Place("cloud", body=body)), [], install="me", worst=worst)
    assert plan.requests[0].body == {
        "variables": {"API_TOKEN": "***", "AWS_SECRET_ACCESS_KEY": "***", "EPOCHS": "3"},
        "list": [{"password": "***"}],
    }


def test_an_endpoint_costs_per_replica_until_it_is_deleted() -> None:
    spec = EndpointSpec(name="churn", variants=(Variant(name="v1", package="/p"),), replicas=3)
    plan = plan_endpoint(spec, endpoints(Place("cloud", price="0.5")), [endpoints(Place("local"))], install="me")
    assert plan.cost_per_hour == Money.usd("1.5")
    assert plan.max_cost is None
    assert plan.alternatives[0].name == "local"
