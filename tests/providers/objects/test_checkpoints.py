"""Checkpoints on object storage: an attempt on one machine goes on from what an attempt on another saved."""

from __future__ import annotations

import time
from pathlib import Path

import boto3

from ml_toolbox.domain.jobs import Environment, JobSpec, JobState, Limits
from ml_toolbox.objects import open_store
from ml_toolbox.ports.jobs import JobObservation, Owner
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.jobs import LocalJobBackend
from tests.providers.objects.conftest import Server

SCRIPT = """
import os, pathlib, time
from ml_toolbox import runtime
done = 0
if found := runtime.latest_checkpoint():
    state, done = found
    print('resumed', done, (state / 'weights.bin').stat().st_size, (state / 'log' / 'text').read_text(), flush=True)
for step in range(done + 1, 7):
    state = pathlib.Path('state')
    (state / 'log').mkdir(parents=True, exist_ok=True)
    (state / 'weights.bin').write_bytes(bytes([step]) * 5_000_000)
    (state / 'log' / 'text').write_text(f'step {step}')
    runtime.checkpoint(state, step, keep=2)
    print('saved', step, flush=True)
    while step == 3 and not done:
        time.sleep(0.05)
"""
WAIT_S = 90.0


def attempt(home: Path, number: int, spec: JobSpec) -> tuple[LocalJobBackend, str]:
    backend = LocalJobBackend(ProviderContext(home=home, install="suite", settings={}))
    request = backend.build(spec, Owner(install="suite", row="row", attempt=number))
    return backend, backend.submit(request, request.name)


def until(backend: LocalJobBackend, job: str, line: str) -> JobObservation:
    """Observe until it has ended or printed the line."""
    deadline = time.monotonic() + WAIT_S
    while True:
        seen = backend.observe(job)
        if seen.state.is_final or line in printed(backend, job):
            return seen
        assert time.monotonic() < deadline, printed(backend, job)
        time.sleep(0.02)


def printed(backend: LocalJobBackend, job: str) -> list[str]:
    return [line.text for line in backend.logs(job).lines if line.stream != "system"]


def test_another_machine_goes_on_from_the_last_checkpoint(moto: Server, tmp_path: Path) -> None:
    client = boto3.client(
        "s3", "us-east-1", endpoint_url=moto.endpoint, aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket="checkpoints")
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    spec = JobSpec(
        name="job",
        script="train.py",
        source=str(source),
        checkpoints="s3://checkpoints/some/job",
        limits=Limits(max_duration_s=WAIT_S, stop_grace_s=1),
        environment=Environment(
            variables={
                "AWS_ENDPOINT_URL": moto.endpoint,
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
                "AWS_REGION": "us-east-1",
                "AWS_ALLOW_HTTP": "true",
            }
        ),
    )
    one, first = attempt(tmp_path / "one", 1, spec)
    until(one, first, "saved 3")
    one.preempt(first, notice_s=0)
    ended = until(one, first, "never")
    assert ended.failure is not None
    assert ended.failure.kind == "preempted", printed(one, first)
    assert ended.checkpoint is not None
    assert ended.checkpoint.step == 3
    assert ended.checkpoint.uri == "s3://checkpoints/some/job/manifests/step-000000000003-0001.json"

    two, second = attempt(tmp_path / "two", 2, spec)
    seen = until(two, second, "never")
    assert seen.state is JobState.SUCCEEDED, printed(two, second)
    assert printed(two, second) == ["resumed 3 5000000 step 3", "saved 4", "saved 5", "saved 6"]
    assert seen.checkpoint is not None
    assert seen.checkpoint.step == 6
    store = open_store("s3://checkpoints/some/job", settings=moto.settings)
    assert [meta.key for meta in store.list("manifests")] == [
        f"manifests/step-{step:012d}-0001.json" for step in (5, 6)
    ]
    assert len(list(store.list("data"))) == 4, "of what went, nothing stays"
    one.delete(first)
    two.delete(second)
    assert len(list(store.list("manifests"))) == 2, "a place that the user named stays"
