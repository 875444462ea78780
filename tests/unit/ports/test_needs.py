"""What a spec asks for, in the words in which a backend declares what it lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_toolbox.domain.endpoints import EndpointSpec, Variant
from ml_toolbox.domain.jobs import Environment, JobSpec, Limits, Resources
from ml_toolbox.ports import endpoints, jobs
from ml_toolbox.ports.jobs import TAG_EXPIRES, JobRequest, Owner
from ml_toolbox.ports.lacks import Lacks, declared_reason

JOB = JobSpec(name="job", script="train.py", tags={"team": "a"})
JOBS = {
    "spot": replace(JOB, resources=Resources(spot=True)),
    "accelerators": replace(JOB, resources=Resources(accelerators="gpu:1")),
    "multi-node": replace(JOB, resources=Resources(nodes=2)),
    "images": replace(JOB, environment=Environment(image="python:3.11")),
    "requirements": replace(JOB, environment=Environment(requirements=("six",))),
    "memory-limit": replace(JOB, resources=Resources(memory_gib=1.0)),
    "cpu-limit": replace(JOB, resources=Resources(cpus=1.0)),
}
ENDPOINT = EndpointSpec(name="endpoint", variants=(Variant(name="v1", package="/one"),))
ENDPOINTS = {
    "variants": ENDPOINT.with_variant(Variant(name="v2", package="/two"), weight=10),
    "replicas": replace(ENDPOINT, replicas=2),
    "accelerators": replace(ENDPOINT, resources=Resources(accelerators="T4:1")),
    "fixed-port": replace(ENDPOINT, port=8080),
    "memory-limit": replace(ENDPOINT, resources=Resources(memory_gib=1.0)),
}


@pytest.mark.parametrize("capability", JOBS)
def test_a_job_needs_what_it_asks_for_and_nothing_else(capability: str) -> None:
    assert jobs.needs(JOBS[capability]) == (capability,)


@pytest.mark.parametrize("capability", ENDPOINTS)
def test_an_endpoint_needs_what_it_asks_for_and_nothing_else(capability: str) -> None:
    assert endpoints.needs(ENDPOINTS[capability]) == (capability,)


def test_a_plain_spec_needs_nothing() -> None:
    assert jobs.needs(JOB) == ()
    assert endpoints.needs(ENDPOINT) == ()


def test_every_capability_that_a_spec_can_ask_for_is_known() -> None:
    assert set(jobs.CAPABILITIES) - JOBS.keys() == {"detach"}, "asked for by the way of starting"
    assert set(endpoints.CAPABILITIES) - ENDPOINTS.keys() == {"scale-to-zero", "logs"}, (
        "no field of the spec asks for them"
    )


def test_the_reason_is_that_of_the_first_declared_lack() -> None:
    lacks = {"spot": Lacks("never", "no market"), "images": Lacks("not-done", "no containers")}
    assert declared_reason(lacks, ("cpu-limit", "images", "spot")) == "no containers"
    assert declared_reason(lacks, ("cpu-limit",)) is None
    assert declared_reason({}, jobs.needs(JOBS["spot"])) is None


def test_a_request_says_whose_attempt_it_is_and_when_it_ends_at_the_latest() -> None:
    spec = replace(JOB, limits=Limits(max_duration_s=10.2, stop_grace_s=5.0))
    request = JobRequest.of(spec, Owner(install="i", row="r", attempt=2), {"any": "body"})
    assert request.name == "mlt-i-job-r-a2"
    assert request.body == {"any": "body"}
    assert request.tags["team"] == "a"
    assert request.tags[TAG_EXPIRES] == "start+11s", "never before the job's own limit"
    assert request.max_run_s == pytest.approx(15.2)
