"""One of many processes that fight over the same budgets: ``python -m tests.races.client PLACE NUMBER RACES``.

Waits for a line on standard input, makes its calls, and prints one JSON document: how often it was granted and refused, and
every limit that it changed, with the numbers of the last line of the ledger that it saw before and after.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field, replace
from typing import Any

from ml_toolbox.base.errors import BudgetExceeded
from ml_toolbox.engine.charges import Charge, accrue, cost_of, reserve, settle
from ml_toolbox.engine.ledger import Meter, Period, Posting
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.state import open_store
from ml_toolbox.state.sql_store import SqlStore

LIMITED: tuple[tuple[str, Meter, Period], ...] = (
    ("all", "cost", ""),
    ("all", "cost-per-hour", ""),
    ("all", "running", ""),
    ("all", "cost", "month"),
    ("user:0", "cost", ""),
    ("user:1", "cost", "month"),
    ("user:2", "cost-per-hour", ""),
    ("user:3", "running", ""),
)
HOUR_S = 3600.0


def most_of(meter: Meter, chance: random.Random) -> int:
    """A limit that some of what the clients ask for fits under."""
    if meter == "running":
        return chance.randint(4, 24)
    return chance.randint(40, 240) if meter == "cost-per-hour" else chance.randint(500, 30_000)


@dataclass(slots=True)
class Client:
    """Its own rows, and the limits that it alone changes: so their changes are in a known order."""

    store: SqlStore
    number: int
    chance: random.Random
    open: list[tuple[Row, Charge]] = field(default_factory=list)
    granted: int = 0
    refused: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0

    def race(self, step: int) -> None:
        drawn = self.chance.random()
        if drawn < 0.03 and self.number < len(LIMITED):
            self.change_limit()
        elif drawn < 0.55 or not self.open:
            self.start(f"{self.number:02}-{step:06}")
        else:
            self.go_on()

    def start(self, row_id: str) -> None:
        hourly = self.chance.randint(1, 20)
        _, posting = charged = reserve(
            1, hourly=hourly, seconds=self.chance.uniform(0.2, 5.0) * HOUR_S, now=self.store.now()
        )
        row = Row(
            id=row_id,
            kind="race",
            name="r",
            phase="p",
            state="s",
            scopes=("all", f"user:{self.chance.randrange(4)}"),
        )
        try:
            written = self.store.insert(row, owner=f"client-{self.number}", lease_s=600.0, postings=[posting])
        except BudgetExceeded:
            self.refused += 1
        else:
            self.granted += 1
            self.open.append((written, charged[0]))

    def go_on(self) -> None:
        """Spend some of it, or end it; now and then two in one transaction."""
        batch: list[tuple[Row, Charge, bool]] = []
        writes = []
        for _ in range(min(len(self.open), self.chance.randint(1, 2))):
            row, charge = self.open.pop(self.chance.randrange(len(self.open)))
            ends = self.chance.random() < 0.75
            billed_s = charge.reserved / charge.hourly * HOUR_S * self.chance.uniform(0.0, 0.4)
            postings: tuple[Posting, ...]
            if ends:
                charge, postings = settle(1, charge, billed_s=billed_s, reason="ended")
            else:
                charge, postings = accrue(1, charge, billed_s=billed_s)
            assert charge.spent <= max(charge.reserved, cost_of(charge.hourly, billed_s))
            writes.append(Write(row=row, change=Change(phase="p", state="s", data={}, postings=postings), release=ends))
            batch.append((row, charge, ends))
        for (_, charge, ends), result in zip(batch, self.store.write(writes, lease_s=600.0), strict=True):
            assert isinstance(result, Row), f"nobody else has this row, and nothing is asked for: {result}"
            if not ends:
                self.open.append((result, charge))

    def change_limit(self) -> None:
        scope, meter, period = LIMITED[self.number]
        most = None if self.chance.random() < 0.1 else most_of(meter, self.chance)
        before = self.last_line()
        self.store.set_limit(scope, meter, period, most)
        self.changes.append({"key": [scope, meter, period], "most": most, "after": before, "until": self.last_line()})

    def last_line(self) -> int:
        while page := self.store.lines(after=self.seen, limit=1000):
            self.seen = page[-1].seq
        return self.seen

    def end(self) -> None:
        """Half of what is open is settled, so that balances of both kinds are left."""
        for row, charge in self.open[::2]:
            _, postings = settle(1, replace(charge), billed_s=0.0, reason="ended")
            change = Change(phase="p", state="s", data={}, postings=postings, ended=True)
            assert self.store.write([Write(row=row, change=change)], lease_s=1.0) != [None]


def main() -> None:
    place, number, races = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = Client(open_store(place), number, random.Random(number))
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(races):
        client.race(step)
    client.end()
    client.store.close()
    print(json.dumps({"granted": client.granted, "refused": client.refused, "changes": client.changes}))


if __name__ == "__main__":
    main()
