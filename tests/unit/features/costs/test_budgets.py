"""Limits on both stores: shown with what takes of them, lowered below it, removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from ml_toolbox.base.errors import BudgetExceeded, NotFound
from ml_toolbox.domain.money import Money
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.features.costs import Budgets, Reservation, outlook, wanted_limits
from ml_toolbox.features.costs.outlook import held_by
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.unit.features.costs.books import begin, end, stores

Store = MemoryStore | SqliteStore


class Scene:
    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store, self.clock = store, clock
        self.enforced = 0
        self.asked: list[Limit] = []
        self.budgets = Budgets(store, overdrawn=self._overdrawn, enforce=self._enforce, now=store.now)

    def _overdrawn(self, limits: Iterable[Limit]) -> Mapping[str, str]:
        self.asked = list(limits)
        return {"a": "why"} if any(limit.taken > limit.most for limit in self.asked) else {}

    def _enforce(self) -> int:
        self.enforced += 1
        return 1

    def set(self, scope: str, **limits: object) -> Limit:
        (wanted,) = wanted_limits(scope, **limits)  # type: ignore[arg-type]
        return self.budgets.set(wanted)


@pytest.fixture(params=[0, 1], ids=["memory", "sqlite"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    clock = FakeClock()
    return Scene(stores(tmp_path, clock)[request.param], clock)


def test_a_new_limit_knows_what_is_taken_already(scene: Scene) -> None:
    end(scene.store, "done", begin(scene.store, "done", ("all", "project:x"), hours=2), hours=1)
    begin(scene.store, "lives", ("all", "project:x"), hours=3)
    begin(scene.store, "other", ("all",), hours=5)
    (wanted,) = wanted_limits("project:x", cost="10")
    foreseen = scene.budgets.lowered(wanted)
    assert scene.store.limits() == ()
    made = scene.budgets.set(wanted)
    assert foreseen.limit == made
    assert (made.spent, made.held) == (1_000_000, 3_000_000)
    assert scene.budgets.show("project:x") == (made,)
    assert scene.enforced == 0


@pytest.mark.parametrize(
    ("limits", "taken"),
    [({"cost_per_hour": "9"}, 2_000_000), ({"running": "9"}, 2), ({"cost": "9", "month": True}, 4_000_000)],
)
def test_every_meter_foresees_what_it_will_be(scene: Scene, limits: dict[str, object], taken: int) -> None:
    begin(scene.store, "a", hours=3)
    begin(scene.store, "b", hours=1)
    end(scene.store, "c", begin(scene.store, "c", hours=1), hours=0)
    (wanted,) = wanted_limits("all", **limits)  # type: ignore[arg-type]
    foreseen = scene.budgets.lowered(wanted).limit
    assert foreseen == scene.budgets.set(wanted)
    assert foreseen.taken == taken


def test_a_limit_below_what_is_taken_says_what_it_stops_and_is_enforced_at_once(scene: Scene) -> None:
    begin(scene.store, "a", hours=3)
    scene.set("all", cost="10")
    (wanted,) = wanted_limits("all", cost="2")
    lowered = scene.budgets.lowered(wanted)
    assert (lowered.limit.taken, lowered.limit.most, lowered.stops) == (3_000_000, 2_000_000, {"a": "why"})
    assert scene.enforced == 0
    assert scene.budgets.list()[0].most == 10_000_000
    scene.budgets.set(wanted)
    assert scene.enforced == 1


def test_who_takes_part_of_a_budget_now(scene: Scene) -> None:
    begin(scene.store, "small", ("all", "project:x"), hours=1)
    begin(scene.store, "large", ("all", "project:x"), hours=4)
    end(scene.store, "gone", begin(scene.store, "gone", ("all", "project:x"), hours=1), hours=1)
    begin(scene.store, "other", ("all",), hours=1)
    assert [(t.work_id, t.held) for t in scene.budgets.takers("project:x")] == [
        ("large", Money.usd(4)),
        ("small", Money.usd(1)),
    ]


def test_limits_are_removed_one_by_one_or_all(scene: Scene) -> None:
    for limits in ({"cost": "5"}, {"cost": "5", "month": True}, {"running": "2"}):
        scene.set("all", **limits)
    assert [limit.name for limit in scene.budgets.remove("all", meter="cost", period="month")] == ["all cost a month"]
    with pytest.raises(NotFound):
        scene.budgets.remove("all", meter="cost-per-hour")
    assert len(scene.budgets.remove("all")) == 2
    with pytest.raises(NotFound):
        scene.budgets.remove("all")
    assert scene.budgets.list() == ()


def test_the_outlook_says_what_the_reservation_will_meet(scene: Scene) -> None:
    scene.set("all", cost="10")
    scene.set("project:x", running="1")
    scene.set("backend:elsewhere", cost="0.01")
    ask = Reservation(scopes=("all", "project:x"), hourly=Money.usd(1), seconds=2 * 3600)
    said = outlook(scene.store.limits(), ask, scene.store.now())
    assert str(ask) == "at most $2.00 ($1.00/h x 2 h)"
    assert said.reserves == ("budget all $10.00, $10.00 free",)
    assert said.waits == ()
    begin(scene.store, "a", ("all", "project:x"), hours=7)
    assert held_by(scene.store.limits(), ask.scopes) == ("budget all $10.00, $3.00 free",)
    said = outlook(scene.store.limits(), ask, scene.store.now())
    assert len(said.waits) == 1
    assert said.warnings == ("90% of budget all cost is taken: $9.00 of $10.00",)
    with pytest.raises(
        BudgetExceeded, match=r"\$4\.00 asked, \$3\.00 free \(\$10\.00 limit - \$0\.00 spent - \$7\.00 held\)"
    ):
        outlook(
            scene.store.limits(), Reservation(scopes=("all",), hourly=Money.usd(1), seconds=4 * 3600), scene.store.now()
        )


def test_a_month_begins_empty(scene: Scene) -> None:
    scene.set("all", cost="2", month=True)
    end(scene.store, "a", begin(scene.store, "a", hours=2), hours=2)
    ask = Reservation(scopes=("all",), hourly=Money.usd(1), seconds=3600)
    with pytest.raises(BudgetExceeded):
        outlook(scene.store.limits(), ask, scene.store.now())
    scene.clock.advance(32 * 86400)
    assert outlook(scene.store.limits(), ask, scene.store.now()).reserves == ("budget all $2.00 a month, $2.00 free",)
