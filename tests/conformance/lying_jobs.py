"""Job backends that lie, each in one way, bound to the suite. Not collected by itself: ``test_job_suite`` runs it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from ml_toolbox.base.errors import Conflict, NotFound
from ml_toolbox.base.ids import nonce
from ml_toolbox.domain.jobs import JobSpec, JobState
from ml_toolbox.ports.jobs import JobBackend, JobObservation, JobRequest, LogChunk, Owner
from ml_toolbox.ports.provider import ProviderContext
from ml_toolbox.providers.local.jobs import LocalJobBackend
from ml_toolbox.providers.local.machine import Machine
from ml_toolbox.testing.jobs import JobBackendTests


class Bound(JobBackendTests):
    """The suite on one liar, quick to give up."""

    timeout_s = 5.0
    liar: ClassVar[type[LocalJobBackend]] = LocalJobBackend

    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], JobBackend]:
        context = ProviderContext(home=tmp_path / "home", install="suite", settings={"max_concurrent_jobs": 16})
        return lambda: self.liar(context, machine=Machine(cpus=2, memory_gib=4.0))


class ForgetsTokens(LocalJobBackend):
    def submit(self, request: JobRequest, token: str) -> str:
        return super().submit(request, token + nonce())


class TakesAnyBody(LocalJobBackend):
    def submit(self, request: JobRequest, token: str) -> str:
        try:
            return super().submit(request, token)
        except Conflict as conflict:
            return conflict.resource


class AnswersALack(LocalJobBackend):
    def refuses(self, spec: JobSpec) -> str | None:
        return None if spec.resources.spot else super().refuses(spec)


class RefusesWithoutTheReason(LocalJobBackend):
    def refuses(self, spec: JobSpec) -> str | None:
        return "no" if spec.resources.spot else super().refuses(spec)


class NamesAtRandom(LocalJobBackend):
    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        return dataclasses.replace(super().build(spec, owner), name=f"job-{nonce()}")


class LosesLastLines(LocalJobBackend):
    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        chunk = super().logs(job_id, cursor)
        return dataclasses.replace(chunk, lines=chunk.lines[:-1]) if chunk.ended else chunk


class RepeatsLines(LocalJobBackend):
    def logs(self, job_id: str, cursor: str = "") -> LogChunk:
        return dataclasses.replace(super().logs(job_id), cursor="0")


class RemembersDeleted(LocalJobBackend):
    """Kills, and goes on listing what it was told to delete."""

    def delete(self, job_id: str) -> None:
        if self._root(job_id).exists():
            self._end_processes(self._root(job_id), self._record(job_id)["runtime"]["mark"])


class DeletesWithoutKilling(LocalJobBackend):
    def delete(self, job_id: str) -> None:
        root = self._root(job_id)
        if root.exists():
            root.rename(root.parent.parent / f"hidden-{job_id}-{nonce()}")


class CallsStopAFailure(LocalJobBackend):
    def observe(self, job_id: str) -> JobObservation:
        seen = super().observe(job_id)
        return dataclasses.replace(seen, state=JobState.FAILED) if seen.state is JobState.STOPPED else seen


class CallsPreemptionAStop(LocalJobBackend):
    def preempt(self, job_id: str, *, notice_s: float) -> None:
        super().stop(job_id, grace_s=notice_s)


class PreemptsWithoutNotice(LocalJobBackend):
    def preempt(self, job_id: str, *, notice_s: float) -> None:
        super().preempt(job_id, notice_s=0.0)


class CallsLeavingASuccess(LocalJobBackend):
    def observe(self, job_id: str) -> JobObservation:
        seen = super().observe(job_id)
        left = seen.state is JobState.FAILED and seen.exit_code == 0
        return dataclasses.replace(seen, state=JobState.SUCCEEDED, failure=None) if left else seen


class PreemptsTheEnded(LocalJobBackend):
    def observe(self, job_id: str) -> JobObservation:
        seen = super().observe(job_id)
        preempted = os.path.exists(self._root(job_id) / "told")
        return dataclasses.replace(seen, state=JobState.FAILED) if preempted else seen

    def preempt(self, job_id: str, *, notice_s: float) -> None:
        if self._root(job_id).exists():
            (self._root(job_id) / "told").touch()


class StopsTheEnded(LocalJobBackend):
    def observe(self, job_id: str) -> JobObservation:
        seen = super().observe(job_id)
        stopped = os.path.exists(self._root(job_id) / "stop")
        return dataclasses.replace(seen, state=JobState.STOPPED) if stopped else seen


class KillsAtOnce(LocalJobBackend):
    def stop(self, job_id: str, *, grace_s: float) -> None:
        super().stop(job_id, grace_s=0.0)


class IgnoresTheTimeLimit(LocalJobBackend):
    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        limits = dataclasses.replace(spec.limits, max_duration_s=3600.0)
        return super().build(dataclasses.replace(spec, limits=limits), owner)


class IgnoresTheMemoryLimit(LocalJobBackend):
    def build(self, spec: JobSpec, owner: Owner) -> JobRequest:
        resources = dataclasses.replace(spec.resources, memory_gib=None)
        return super().build(dataclasses.replace(spec, resources=resources), owner)


class ListsEverything(LocalJobBackend):
    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return super().list_by_tag({})


class HidesTheEnded(LocalJobBackend):
    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        for job_id, has in super().list_by_tag(tags):
            if not self.observe(job_id).state.is_final:
                yield job_id, has


class KnowsEverything(LocalJobBackend):
    def observe(self, job_id: str) -> JobObservation:
        try:
            return super().observe(job_id)
        except NotFound:
            return JobObservation(state=JobState.QUEUED)


class ReadsSourcesLate(LocalJobBackend):
    """Starts what it was given from where the user edits it."""

    def _start(self, root: Path) -> None:
        code = root / "ml" / "code"
        shutil.rmtree(code)
        code.symlink_to(root.parents[4] / "suite-source")
        super()._start(root)


class KeepsItToItself(LocalJobBackend):
    """Its jobs are known only to the object that started them."""

    _counter: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, context: ProviderContext, *, machine: Machine | None = None) -> None:
        home = context.home / str(next(self._counter))
        super().__init__(dataclasses.replace(context, home=home), machine=machine)


LIES: dict[type[LocalJobBackend], str] = {
    ForgetsTokens: "test_the_same_token_starts_once",
    TakesAnyBody: "test_the_same_token_with_another_body_is_a_conflict",
    AnswersALack: "test_a_declared_lack_is_refused_with_its_reason[spot]",
    RefusesWithoutTheReason: "test_a_declared_lack_is_refused_with_its_reason[spot]",
    NamesAtRandom: "test_build_is_deterministic_and_names_the_attempt",
    LosesLastLines: "test_a_log_read_in_pieces_is_whole_and_in_order",
    RepeatsLines: "test_a_log_can_be_followed_while_the_job_runs",
    RemembersDeleted: "test_delete_removes_a_running_job_for_good",
    DeletesWithoutKilling: "test_delete_removes_a_running_job_for_good",
    CallsStopAFailure: "test_stop_ends_it_and_keeps_what_it_printed",
    CallsPreemptionAStop: "test_preemption_gives_notice_kills_and_is_nobodys_fault",
    PreemptsWithoutNotice: "test_what_finishes_within_the_notice_has_succeeded",
    CallsLeavingASuccess: "test_what_leaves_at_the_notice_is_preempted_too",
    PreemptsTheEnded: "test_preemption_of_an_ended_or_unknown_job_is_silent",
    StopsTheEnded: "test_stop_of_an_ended_or_unknown_job_is_silent",
    KillsAtOnce: "test_stop_gives_time_to_save",
    IgnoresTheTimeLimit: "test_there_is_always_a_time_limit",
    IgnoresTheMemoryLimit: "test_a_memory_limit_holds_where_it_is_not_lacking",
    ListsEverything: "test_jobs_are_found_by_their_tags_running_or_not",
    HidesTheEnded: "test_jobs_are_found_by_their_tags_running_or_not",
    KnowsEverything: "test_an_unknown_job_is_not_found",
    ReadsSourcesLate: "test_editing_the_sources_after_submit_changes_nothing",
    KeepsItToItself: "test_another_process_sees_the_same_job",
}

for _liar in LIES:
    globals()[f"Test{_liar.__name__}"] = type(
        f"Test{_liar.__name__}", (Bound,), {"liar": _liar, "__module__": __name__}
    )
TestHonest = type("TestHonest", (Bound,), {"__module__": __name__})
