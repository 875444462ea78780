"""The conformance suite of the port ``EndpointBackend``. Bind it with one fixture::

    class TestMyEndpoints(EndpointBackendTests):
        @pytest.fixture
        def bound(self, ...) -> Iterator[BoundEndpoints]:
            yield BoundEndpoints(backend=..., again=lambda: ..., first=..., second=..., broken=...)
            ...  # delete what is left

The two models answer the same request differently, so that the suite sees who answered without believing the platform.
Requires pytest.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest

from ml_toolbox.base.errors import NotFound, NotYet, ToolboxError, Unsupported
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus, Variant
from ml_toolbox.domain.jobs import Resources
from ml_toolbox.ports.endpoints import CAPABILITIES, EndpointBackend, Invocation
from ml_toolbox.ports.jobs import TAG_ATTEMPT, TAG_INSTALL, TAG_OWNER, LogLine, Owner

OWNER = Owner(install="suite", row="01endpoint", attempt=1)
NAME = "suite-endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleModel:
    """A package, and how to know its answers."""

    package: str
    """URI, as the backend takes it."""
    request: bytes
    """A body both models accept."""
    recognises: Callable[[bytes], bool]
    """Whether an answer to ``request`` is this model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundEndpoints:
    """One backend with nothing of the suite's in it, and what to serve on it."""

    backend: EndpointBackend
    again: Callable[[], EndpointBackend]
    """The same place as another process would open it."""
    first: SampleModel
    second: SampleModel
    broken: str
    """URI of a package that is there and cannot be served."""


class EndpointBackendTests:
    """Every promise of the port, once."""

    wait_s: ClassVar[float] = 60.0
    """Longest time a change may take to come into force."""
    prompt_s: ClassVar[float] = 10.0
    """Longest time a call may take that the port wants to return at once."""
    share_tolerance: ClassVar[float] = 0.01
    """How far a measured share may be off; wider where the platform throws dice."""
    port: ClassVar[int | None] = None
    """A free port, for backends that let the user choose one."""

    @pytest.fixture
    def bound(self) -> BoundEndpoints:
        raise NotImplementedError("bind the suite: return the backend and two models for it")

    # -- without a platform ------------------------------------------------------------------------------------------

    def test_it_is_the_port_and_lacks_only_known_things(self, bound: BoundEndpoints) -> None:
        assert isinstance(bound.backend, EndpointBackend)
        assert bound.backend.name
        for capability, lack in bound.backend.lacks.items():
            assert capability in CAPABILITIES, f"{capability} is not a capability of the port"
            assert lack.reason, f"{capability} is lacking without a reason"
        assert bound.backend.idempotency.kind == "name", "apply goes by the endpoint's name"
        assert bound.backend.idempotency.visibility_window_s >= 0

    def test_build_is_pure_and_says_who_owns_it(self, bound: BoundEndpoints) -> None:
        spec = _spec(bound)
        request, again = bound.backend.build(spec, OWNER), bound.again().build(spec, OWNER)
        assert request == again
        assert request.name == NAME
        json.dumps(dict(request.body))  # data only
        assert request.tags.get(TAG_INSTALL) == OWNER.install
        assert request.tags.get(TAG_OWNER) == OWNER.row
        assert request.tags.get(TAG_ATTEMPT) == "1"
        assert request.tags.get("team") == "a"
        with pytest.raises(NotFound):
            bound.backend.observe(NAME)  # nothing was sent

    def test_what_it_lacks_it_refuses_with_the_declared_reason(self, bound: BoundEndpoints) -> None:
        backend, spec = bound.backend, _spec(bound)
        wishes = {
            "accelerators": replace(spec, resources=Resources(accelerators="T4:1")),
            "replicas": replace(spec, replicas=2),
            "variants": _two(bound, 50),
            "fixed-port": replace(spec, port=45123),
            "memory-limit": replace(spec, resources=Resources(memory_gib=1.0)),
        }
        for capability, wish in wishes.items():
            if capability not in backend.lacks:
                continue
            reason = backend.refuses(wish)
            assert reason is not None, f"{capability} is declared lacking and not refused"
            assert backend.lacks[capability].reason in reason
            assert backend.offers(wish) == ()
            with pytest.raises(Unsupported):
                backend.build(wish, OWNER)

    def test_it_offers_a_place_for_what_it_does_not_refuse(self, bound: BoundEndpoints) -> None:
        spec = _spec(bound)
        assert bound.backend.refuses(spec) is None
        offers = bound.backend.offers(spec)
        assert offers
        assert all(offer.backend == bound.backend.name for offer in offers)
        assert list(offers) == sorted(offers, key=lambda offer: offer.price_hourly)

    # -- absence -----------------------------------------------------------------------------------------------------

    def test_what_is_absent_is_not_found_and_deleted_in_silence(self, bound: BoundEndpoints) -> None:
        with pytest.raises(NotFound):
            bound.backend.observe(NAME)
        with pytest.raises(NotFound):
            bound.backend.invoke(NAME, bound.first.request)
        if "logs" not in bound.backend.lacks:
            with pytest.raises(NotFound):
                bound.backend.logs(NAME)
        bound.backend.delete(NAME)
        bound.backend.delete(NAME)
        assert NAME not in dict(bound.backend.list_by_tag({TAG_INSTALL: OWNER.install}))

    # -- life --------------------------------------------------------------------------------------------------------

    def test_an_endpoint_comes_to_life_answers_and_goes(self, bound: BoundEndpoints) -> None:
        backend = bound.backend
        status = self._serve(bound, _spec(bound))
        assert status.url.startswith("http")
        assert (status.replicas_ready, status.replicas_wanted) == (1, 1)
        assert [(v.name, v.weight, v.healthy) for v in status.variants] == [("v1", 100.0, True)]
        answer = backend.invoke(NAME, bound.first.request)
        assert answer.status == 200
        assert bound.first.recognises(answer.body)
        self._delete(bound)
        with pytest.raises(NotFound):
            backend.observe(NAME)
        with pytest.raises(NotFound):
            backend.invoke(NAME, bound.first.request)
        assert self._serve(bound, _spec(bound)).state is EndpointState.READY  # the name is free again

    def test_the_same_request_again_changes_nothing(self, bound: BoundEndpoints) -> None:
        before = self._serve(bound, _spec(bound))
        for backend in (bound.backend, bound.again()):
            request = backend.build(_spec(bound), OWNER)
            _timed(partial(backend.apply, request), self.prompt_s)
            after = backend.observe(NAME)
            assert (after.state, after.url) == (EndpointState.READY, before.url)
        assert [name for name, _ in bound.backend.list_by_tag({TAG_OWNER: OWNER.row})] == [NAME]

    def test_another_process_sees_uses_and_deletes_it(self, bound: BoundEndpoints) -> None:
        self._serve(bound, _spec(bound))
        other = bound.again()
        assert other.observe(NAME).state is EndpointState.READY
        assert bound.first.recognises(other.invoke(NAME, bound.first.request).body)
        self._delete(replace(bound, backend=other))
        with pytest.raises(NotFound):
            bound.backend.observe(NAME)

    def test_it_is_found_by_its_tags(self, bound: BoundEndpoints) -> None:
        self._serve(bound, _spec(bound))
        found = dict(bound.backend.list_by_tag({TAG_INSTALL: OWNER.install, "team": "a"}))
        assert NAME in found
        assert found[NAME].get(TAG_OWNER) == OWNER.row
        assert NAME not in dict(bound.backend.list_by_tag({TAG_INSTALL: OWNER.install, "team": "b"}))
        self._delete(bound)
        assert NAME not in dict(bound.backend.list_by_tag({TAG_INSTALL: OWNER.install}))

    def test_an_error_status_is_an_answer(self, bound: BoundEndpoints) -> None:
        self._serve(bound, _spec(bound))
        assert 400 <= bound.backend.invoke(NAME, b"{no json").status < 500

    def test_before_it_is_ready_it_says_not_yet(self, bound: BoundEndpoints) -> None:
        bound.backend.apply(bound.backend.build(_spec(bound, package=bound.broken), OWNER))
        with pytest.raises(NotYet):
            bound.backend.invoke(NAME, bound.first.request)

    def test_a_package_that_cannot_serve_fails_with_a_message(self, bound: BoundEndpoints) -> None:
        bound.backend.apply(bound.backend.build(_spec(bound, package=bound.broken), OWNER))
        status = self._until(bound, lambda status: status.state is EndpointState.FAILED)
        assert status.message
        assert not any(variant.healthy for variant in status.variants)

    def test_logs_go_on_from_their_cursor(self, bound: BoundEndpoints) -> None:
        self._serve(bound, _spec(bound))
        if "logs" in bound.backend.lacks:
            with pytest.raises(Unsupported):
                bound.backend.logs(NAME)
            return
        lines: list[LogLine] = []
        cursor = ""
        deadline = time.monotonic() + self.wait_s
        while not lines:
            assert time.monotonic() < deadline, "an endpoint that came to life has logged nothing"
            chunk = bound.backend.logs(NAME, cursor)
            lines += chunk.lines
            cursor = chunk.cursor
        again = bound.backend.logs(NAME, cursor)
        assert not set(again.lines) & set(lines), "lines before the cursor came again"
        assert bound.backend.logs(NAME).lines[: len(lines)] == tuple(lines)

    def test_the_port_asked_for_is_the_port_in_the_url(self, bound: BoundEndpoints) -> None:
        if "fixed-port" in bound.backend.lacks or self.port is None:
            pytest.skip("the user chooses no port here")
        assert self._serve(bound, replace(_spec(bound), port=self.port)).url.endswith(f":{self.port}")

    # -- traffic -----------------------------------------------------------------------------------------------------

    def test_traffic_follows_the_weights(self, bound: BoundEndpoints) -> None:
        self._need(bound, "variants")
        self._serve(bound, _two(bound, 10))
        assert abs(self._share_of_second(bound, 200) - 0.10) <= self.share_tolerance
        status = self._serve(bound, _two(bound, 75))
        assert {v.name: v.weight for v in status.variants} == {"v1": 25.0, "v2": 75.0}
        assert abs(self._share_of_second(bound, 200) - 0.75) <= self.share_tolerance

    def test_a_variant_can_be_asked_for_by_name(self, bound: BoundEndpoints) -> None:
        self._need(bound, "variants")
        self._serve(bound, _two(bound, 0))
        answer = bound.backend.invoke(NAME, bound.first.request, variant="v2")
        assert bound.second.recognises(answer.body)
        assert answer.variant in ("", "v2")
        assert self._share_of_second(bound, 20) == 0.0

    def test_weights_and_variants_change_without_a_lost_request(self, bound: BoundEndpoints) -> None:
        self._need(bound, "variants")
        self._serve(bound, _spec(bound))
        with _Asking(bound) as asking:
            self._serve(bound, _two(bound, 50))
            asking.until_answered_by(bound.second, self.wait_s)
            self._serve(bound, _two(bound, 0))
            self._serve(bound, _two(bound, 100))
            self._serve(bound, _two(bound, 100).without_variant("v1"))
            asking.until_answered_by(bound.second, self.wait_s)
        assert asking.faults == []
        assert self._share_of_second(bound, 20) == 1.0

    def test_a_broken_new_variant_leaves_the_old_one_serving(self, bound: BoundEndpoints) -> None:
        self._need(bound, "variants")
        self._serve(bound, _spec(bound))
        with _Asking(bound) as asking:
            spec = _spec(bound).with_variant(Variant(name="v2", package=bound.broken), weight=50)
            bound.backend.apply(bound.backend.build(spec, OWNER))
            status = self._until(bound, lambda status: bool(status.message))
            asking.until_answered_by(bound.first, self.wait_s)
            assert status.state in (EndpointState.DEGRADED, EndpointState.FAILED)
            assert {v.name: v.healthy for v in status.variants} == {"v1": True, "v2": False}
            assert {v.name: v.weight for v in status.variants}["v2"] == 0.0
            self._serve(bound, _two(bound, 50))  # mended
        assert asking.faults == []

    def test_replicas_come_and_go_without_a_lost_request(self, bound: BoundEndpoints) -> None:
        self._need(bound, "replicas")
        self._serve(bound, _spec(bound))
        with _Asking(bound) as asking:
            for replicas in (3, 1):
                status = self._serve(bound, replace(_spec(bound), replicas=replicas))
                assert (status.replicas_ready, status.replicas_wanted) == (replicas, replicas)
                asking.until_answered_by(bound.first, self.wait_s)
        assert asking.faults == []

    # -- tools -------------------------------------------------------------------------------------------------------

    def _need(self, bound: BoundEndpoints, capability: str) -> None:
        if capability in bound.backend.lacks:
            pytest.skip(f"declared lacking: {bound.backend.lacks[capability].reason}")

    def _serve(self, bound: BoundEndpoints, spec: EndpointSpec) -> EndpointStatus:
        """Apply and wait until exactly this is in force."""
        _timed(lambda: bound.backend.apply(bound.backend.build(spec, OWNER)), self.prompt_s)
        wanted = {variant.name: variant.weight for variant in spec.variants}

        def in_force(status: EndpointStatus) -> bool:
            seen = {variant.name: variant.weight for variant in status.variants if variant.healthy}
            return status.state is EndpointState.READY and seen == wanted and status.replicas_wanted == spec.replicas

        return self._until(bound, in_force)

    def _until(self, bound: BoundEndpoints, condition: Callable[[EndpointStatus], bool]) -> EndpointStatus:
        deadline = time.monotonic() + self.wait_s
        while True:
            status = bound.backend.observe(NAME)
            if condition(status):
                return status
            assert time.monotonic() < deadline, f"it did not happen in {self.wait_s:g} s; last seen: {status}"
            time.sleep(0.02)

    def _delete(self, bound: BoundEndpoints) -> None:
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                bound.backend.delete(NAME)
                return
            except NotYet:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def _share_of_second(self, bound: BoundEndpoints, count: int) -> float:
        answers: Counter[str] = Counter()
        for _ in range(count):
            answer = bound.backend.invoke(NAME, bound.first.request)
            assert answer.status == 200
            who = _who(bound, answer)
            assert answer.variant in ("", who), "the platform says another variant than the answer shows"
            answers[who] += 1
        return answers["v2"] / count


class _Asking:
    """Threads that ask all the time; everything but a right answer is a fault."""

    def __init__(self, bound: BoundEndpoints, threads: int = 3) -> None:
        self.faults: list[object] = []
        self.answers: Counter[str] = Counter()
        self._bound = bound
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(threads)]

    def __enter__(self) -> _Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._bound.backend.invoke(NAME, self._bound.first.request)
            except ToolboxError as error:
                self.faults.append(error)
                continue
            if answer.status == 200:
                self.answers[_who(self._bound, answer)] += 1
            else:
                self.faults.append(answer)

    def until_answered_by(self, model: SampleModel, within_s: float) -> None:
        """Wait until the model has answered some more requests."""
        name = "v1" if model is self._bound.first else "v2"
        goal, deadline = self.answers[name] + 10, time.monotonic() + within_s
        while self.answers[name] < goal:
            assert time.monotonic() < deadline, f"{name} does not answer; faults: {self.faults[:3]}"
            time.sleep(0.01)


def _who(bound: BoundEndpoints, answer: Invocation) -> str:
    if bound.first.recognises(answer.body):
        return "v1"
    assert bound.second.recognises(answer.body), f"nobody's answer: {answer.body[:200]!r}"
    return "v2"


def _spec(bound: BoundEndpoints, *, package: str | None = None) -> EndpointSpec:
    first = Variant(name="v1", package=bound.first.package if package is None else package, model="sample:1")
    return EndpointSpec(name=NAME, variants=(first,), tags={"team": "a"})


def _two(bound: BoundEndpoints, weight: float) -> EndpointSpec:
    second = Variant(name="v2", package=bound.second.package, model="sample:2")
    return _spec(bound).with_variant(second, weight=weight)


def _timed(action: Callable[[], object], limit_s: float) -> None:
    began = time.monotonic()
    action()
    assert time.monotonic() - began <= limit_s, "a call that should return at once took too long"
