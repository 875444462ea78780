"""The endpoint suite passes an honest backend and catches every liar."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from ml_toolbox.base.errors import NotFound, NotYet, Unavailable
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from ml_toolbox.domain.offers import Offer
from ml_toolbox.ports.endpoints import EndpointRequest, Invocation
from ml_toolbox.ports.jobs import LogChunk, Owner
from ml_toolbox.ports.lacks import Lacking, Lacks
from ml_toolbox.testing.endpoints import BoundEndpoints, EndpointBackendTests, SampleModel
from tests.conformance.memory_endpoints import Cloud, MemoryEndpoints

REQUEST = b'{"instances": [[1.0]]}'


def sample(constant: float) -> SampleModel:
    return SampleModel(
        package=f"constant:{constant}",
        request=REQUEST,
        recognises=lambda body: json.loads(body) == {"predictions": [constant]},
    )


def bind(kind: type[MemoryEndpoints]) -> BoundEndpoints:
    cloud = Cloud()
    return BoundEndpoints(
        backend=kind(cloud),
        again=lambda: kind(cloud),
        first=sample(1.0),
        second=sample(2.0),
        broken="constant:broken",
    )


class TestHonest(EndpointBackendTests):
    port = 8765

    @pytest.fixture
    def bound(self) -> BoundEndpoints:
        return bind(MemoryEndpoints)


class TestHonestAboutWhatItLacks(EndpointBackendTests):
    """A backend with one replica, one variant and no choice of port passes by refusing."""

    @pytest.fixture
    def bound(self) -> BoundEndpoints:
        return bind(Modest)


class Modest(MemoryEndpoints):
    lacks: ClassVar[Lacking] = {
        "accelerators": Lacks("never", "none here"),
        "replicas": Lacks("never", "one place only"),
        "variants": Lacks("not-done", "one model only"),
        "fixed-port": Lacks("never", "ports are not ours"),
        "memory-limit": Lacks("never", "memory is not counted"),
        "logs": Lacks("never", "nothing is written down"),
    }

    def refuses(self, spec: EndpointSpec) -> str | None:
        asked = {
            "accelerators": spec.resources.accelerators is not None,
            "replicas": spec.replicas > 1,
            "variants": len(spec.variants) > 1,
            "fixed-port": spec.port is not None,
            "memory-limit": spec.resources.memory_gib is not None,
        }
        return next((self.lacks[name].reason for name, is_asked in asked.items() if is_asked), None)

    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        from ml_toolbox.base.errors import Unsupported

        if endpoint not in self.cloud.wishes:
            raise NotFound(endpoint)
        raise Unsupported(self.lacks["logs"].reason)


# -- liars ----------------------------------------------------------------------------------------------------------------


class LacksAndServes(MemoryEndpoints):
    lacks: ClassVar[Lacking] = {**MemoryEndpoints.lacks, "replicas": Lacks("never", "one place only")}


class LacksWithAnotherReason(MemoryEndpoints):
    def refuses(self, spec: EndpointSpec) -> str | None:
        return "no" if spec.resources.accelerators else None


class LacksSomethingUnknown(MemoryEndpoints):
    lacks: ClassVar[Lacking] = {**MemoryEndpoints.lacks, "patience": Lacks("never", "no time")}


class OffersWhatItRefuses(MemoryEndpoints):
    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="memory"),)


class BuildsSomethingElseEachTime(MemoryEndpoints):
    numbers = itertools.count()

    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        request = super().build(spec, owner)
        return replace(request, body={**request.body, "nonce": next(self.numbers)})


class SendsWhileBuilding(MemoryEndpoints):
    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        request = super().build(spec, owner)
        self.apply(request)
        return request


class ForgetsTheOwner(MemoryEndpoints):
    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        return replace(super().build(spec, owner), tags=dict(spec.tags))


class StartsAnewEachTime(MemoryEndpoints):
    ports = itertools.count(9000)

    def apply(self, request: EndpointRequest) -> None:
        super().apply(replace(request, body={**request.body, "port": next(self.ports)}))


class LoudAboutTheAbsent(MemoryEndpoints):
    def delete(self, endpoint: str) -> None:
        self._wish(endpoint)
        super().delete(endpoint)


class InventsTheAbsent(MemoryEndpoints):
    def observe(self, endpoint: str) -> EndpointStatus:
        try:
            return super().observe(endpoint)
        except NotFound:
            return EndpointStatus(state=EndpointState.DELETED)


class KeepsServingTheDeleted(MemoryEndpoints):
    def delete(self, endpoint: str) -> None:
        self.cloud.served.pop(endpoint, None)


class KnowsOnlyItsOwn(MemoryEndpoints):
    def __init__(self, cloud: Cloud) -> None:
        super().__init__(Cloud())


class FindsEverythingByAnyTag(MemoryEndpoints):
    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return super().list_by_tag({})


class FindsNothing(MemoryEndpoints):
    def list_by_tag(self, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        return iter(())


class RaisesHttpErrors(MemoryEndpoints):
    def invoke(self, endpoint: str, body: bytes, **options: Any) -> Invocation:
        answer = super().invoke(endpoint, body, **options)
        if answer.status >= 400:
            raise Unavailable("the server said no")
        return answer


class AnswersBeforeItIsReady(MemoryEndpoints):
    def invoke(self, endpoint: str, body: bytes, **options: Any) -> Invocation:
        try:
            return super().invoke(endpoint, body, **options)
        except NotYet:
            return Invocation(status=503, body=b"", content_type="")


class CallsBrokenReady(MemoryEndpoints):
    def observe(self, endpoint: str) -> EndpointStatus:
        return replace(super().observe(endpoint), state=EndpointState.READY)


class FailsWithoutAWord(MemoryEndpoints):
    def observe(self, endpoint: str) -> EndpointStatus:
        return replace(super().observe(endpoint), message="")


class RepeatsItsLog(MemoryEndpoints):
    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        return super().logs(endpoint)


class LogsNothing(MemoryEndpoints):
    def logs(self, endpoint: str, cursor: str = "") -> LogChunk:
        self._wish(endpoint)
        return LogChunk((), "", False)


class ChoosesItsOwnPort(MemoryEndpoints):
    def build(self, spec: EndpointSpec, owner: Owner) -> EndpointRequest:
        return super().build(replace(spec, port=None), owner)


class SharesEqually(MemoryEndpoints):
    def _next(self, endpoint: str, served: list[dict[str, Any]]) -> str:
        return super()._next(endpoint, [{**v, "weight": 100 / len(served)} for v in served])


class ReportsTheWishAsFact(MemoryEndpoints):
    """Shows the new weights and keeps serving the old ones."""

    def apply(self, request: EndpointRequest) -> None:
        before = self.cloud.served.get(request.name)
        super().apply(request)
        if before:
            self.cloud.served[request.name] = before

    def observe(self, endpoint: str) -> EndpointStatus:
        kept = self.cloud.served.get(endpoint)
        self.cloud.served[endpoint] = list(self._wish(endpoint).body["variants"])
        try:
            return super().observe(endpoint)
        finally:
            if kept is not None:
                self.cloud.served[endpoint] = kept


class IgnoresTheVariantAskedFor(MemoryEndpoints):
    def invoke(self, endpoint: str, body: bytes, **options: Any) -> Invocation:
        return super().invoke(endpoint, body, **{**options, "variant": ""})


class SaysTheWrongVariant(MemoryEndpoints):
    def invoke(self, endpoint: str, body: bytes, **options: Any) -> Invocation:
        return replace(super().invoke(endpoint, body, **options), variant="v1")


class DropsRequestsAtAChange(MemoryEndpoints):
    def apply(self, request: EndpointRequest) -> None:
        super().apply(request)
        self.cloud.debts.setdefault(request.name, {})["drop"] = 1.0

    def invoke(self, endpoint: str, body: bytes, **options: Any) -> Invocation:
        if self.cloud.debts.get(endpoint, {}).pop("drop", None) and len(self.cloud.logs[endpoint]) > 1:
            raise Unavailable("connection reset")
        return super().invoke(endpoint, body, **options)


class BreaksTheOldWithTheNew(MemoryEndpoints):
    def apply(self, request: EndpointRequest) -> None:
        super().apply(request)
        if any(variant["package"] == "constant:broken" for variant in request.body["variants"]):
            self.cloud.served.pop(request.name, None)


class CountsReplicasItHasNot(MemoryEndpoints):
    def observe(self, endpoint: str) -> EndpointStatus:
        return replace(super().observe(endpoint), replicas_ready=1)


LIARS: list[tuple[type[MemoryEndpoints], str]] = [
    (LacksAndServes, "test_what_it_lacks_it_refuses_with_the_declared_reason"),
    (LacksWithAnotherReason, "test_what_it_lacks_it_refuses_with_the_declared_reason"),
    (LacksSomethingUnknown, "test_it_is_the_port_and_lacks_only_known_things"),
    (OffersWhatItRefuses, "test_what_it_lacks_it_refuses_with_the_declared_reason"),
    (BuildsSomethingElseEachTime, "test_build_is_pure_and_says_who_owns_it"),
    (SendsWhileBuilding, "test_build_is_pure_and_says_who_owns_it"),
    (ForgetsTheOwner, "test_build_is_pure_and_says_who_owns_it"),
    (StartsAnewEachTime, "test_the_same_request_again_changes_nothing"),
    (LoudAboutTheAbsent, "test_what_is_absent_is_not_found_and_deleted_in_silence"),
    (InventsTheAbsent, "test_what_is_absent_is_not_found_and_deleted_in_silence"),
    (KeepsServingTheDeleted, "test_an_endpoint_comes_to_life_answers_and_goes"),
    (KnowsOnlyItsOwn, "test_another_process_sees_uses_and_deletes_it"),
    (FindsEverythingByAnyTag, "test_it_is_found_by_its_tags"),
    (FindsNothing, "test_it_is_found_by_its_tags"),
    (RaisesHttpErrors, "test_an_error_status_is_an_answer"),
    (AnswersBeforeItIsReady, "test_before_it_is_ready_it_says_not_yet"),
    (CallsBrokenReady, "test_a_package_that_cannot_serve_fails_with_a_message"),
    (FailsWithoutAWord, "test_a_package_that_cannot_serve_fails_with_a_message"),
    (RepeatsItsLog, "test_logs_go_on_from_their_cursor"),
    (LogsNothing, "test_logs_go_on_from_their_cursor"),
    (ChoosesItsOwnPort, "test_the_port_asked_for_is_the_port_in_the_url"),
    (SharesEqually, "test_traffic_follows_the_weights"),
    (ReportsTheWishAsFact, "test_traffic_follows_the_weights"),
    (SaysTheWrongVariant, "test_traffic_follows_the_weights"),
    (IgnoresTheVariantAskedFor, "test_a_variant_can_be_asked_for_by_name"),
    (DropsRequestsAtAChange, "test_weights_and_variants_change_without_a_lost_request"),
    (BreaksTheOldWithTheNew, "test_a_broken_new_variant_leaves_the_old_one_serving"),
    (CountsReplicasItHasNot, "test_replicas_come_and_go_without_a_lost_request"),
]


class _Impatient(EndpointBackendTests):
    wait_s: ClassVar[float] = 0.3
    port = 8765


@pytest.mark.parametrize(("liar", "test"), LIARS, ids=[kind.__name__ for kind, _ in LIARS])
def test_every_liar_is_caught(liar: type[MemoryEndpoints], test: str) -> None:
    check: Callable[[BoundEndpoints], None] = getattr(_Impatient(), test)
    with pytest.raises((AssertionError, pytest.fail.Exception, NotFound, NotYet, Unavailable)):
        check(bind(liar))


def test_every_test_of_the_suite_has_caught_somebody() -> None:
    tests = {
        name for name, _ in inspect.getmembers(EndpointBackendTests, inspect.isfunction) if name.startswith("test_")
    }
    unproven = tests - {test for _, test in LIARS} - {"test_it_offers_a_place_for_what_it_does_not_refuse"}
    assert unproven == set()


def test_a_backend_that_offers_nothing_is_caught() -> None:
    class OffersNothing(MemoryEndpoints):
        def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
            return ()

    with pytest.raises(AssertionError):
        _Impatient().test_it_offers_a_place_for_what_it_does_not_refuse(bind(OffersNothing))
