"""Money of endpoints: a day at a time, and none that a budget does not pay for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState
from ml_toolbox.domain.money import Money
from ml_toolbox.domain.offers import Offer
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.features.serving import Serving
from ml_toolbox.features.serving.life import CHECK_S, ENDING_S, PAID_AHEAD_S
from ml_toolbox.testing.clock import FakeClock
from ml_toolbox.testing.memory_store import MemoryStore
from tests.conformance.memory_endpoints import Cloud
from tests.unit.features.serving.test_serving import Flaky, World

DAY = Money.usd(24)


class Priced(Flaky):
    """A replica costs $1 an hour."""

    def offers(self, spec: EndpointSpec) -> tuple[Offer, ...]:
        return (Offer(backend=self.name, instance_type="memory", price_hourly=Money.usd(1)),)


class Market(World):
    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.backend = Priced(Cloud())

    def budget(self, usd: float) -> None:
        self.store.set_limit("all", "cost", "", Money.usd(usd).micros)

    def taken(self) -> tuple[int, int]:
        limit: Limit = self.store.limits()[0]
        return limit.held, limit.spent

    def later(self, serving: Serving, seconds: float) -> None:
        self.clock.advance(seconds)
        serving.tick()

    def lives(self, endpoint: str = "churn") -> bool:
        return endpoint in self.backend.cloud.wishes


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path)


def test_a_day_is_held_and_renewed_at_half_time(market: Market) -> None:
    market.budget(100)
    serving = market.serving()
    serving.deploy("churn:1", "churn", on="memory")
    assert market.taken() == (DAY.micros, 0)
    market.later(serving, PAID_AHEAD_S / 2)
    assert market.taken() == (DAY.micros, DAY.micros // 2), "half a day is spent, a whole one is held again"
    serving.delete("churn")
    assert market.taken() == (0, DAY.micros // 2)


def test_denied_before_anything_is_made(market: Market) -> None:
    market.budget(23)
    with pytest.raises(BudgetExceeded, match=r"\$24\.00 asked, \$23\.00 free"):
        market.serving().deploy("churn:1", "churn", on="memory")
    assert not market.lives()
    assert market.store.find("endpoint") == ()


def test_a_dearer_wish_is_paid_for_before_it_is_applied(market: Market) -> None:
    market.budget(50)
    serving = market.serving()
    serving.deploy("churn:1", "churn", on="memory")
    with pytest.raises(BudgetExceeded):
        serving.scale("churn", 3)
    assert serving.show("churn").spec.replicas == 1
    assert market.taken() == (DAY.micros, 0)
    serving.scale("churn", 2)
    assert market.taken() == (2 * DAY.micros, 0)


def test_what_no_budget_pays_for_any_more_is_announced_and_deleted_in_time(market: Market) -> None:
    market.budget(25)
    serving = market.serving()
    serving.deploy("churn:1", "churn", on="memory")
    market.later(serving, PAID_AHEAD_S / 2)
    alarms = [line.message for line in serving.history("churn") if line.level == "alarm"]
    assert "the next day is not paid for, it will be deleted at" in alarms[0]
    assert market.lives()
    market.later(serving, PAID_AHEAD_S / 2 - ENDING_S - CHECK_S)
    assert market.lives()
    market.later(serving, 2 * CHECK_S)
    assert not market.lives()
    held, spent = market.taken()
    assert (held, spent <= 25_000_000) == (0, True)


def test_a_budget_that_was_raised_meanwhile_saves_it(market: Market) -> None:
    market.budget(25)
    serving = market.serving()
    serving.deploy("churn:1", "churn", on="memory")
    market.later(serving, PAID_AHEAD_S / 2)
    market.budget(100)
    market.later(serving, CHECK_S)
    assert market.taken()[0] == DAY.micros
    market.later(serving, PAID_AHEAD_S / 2)
    assert market.lives()


def test_what_vanished_is_made_again_without_being_asked(market: Market) -> None:
    serving = market.serving()
    serving.deploy("churn:1", "churn", on="memory")
    market.backend.cloud.wishes.clear()
    market.backend.cloud.served.clear()
    market.later(serving, CHECK_S)
    assert market.lives()
    assert serving.show("churn").status.state is EndpointState.READY
