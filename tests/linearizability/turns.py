"""Threads that run one at a time and change at every request to the store, as a seed decides: any interleaving of
requests can come up, and the same seed brings the same one again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence


class Turns:
    """``run`` the clients; each calls ``pass_on`` wherever another may overtake it.

    One seed favours all clients alike, another lets one lag behind the rest for long: a request that comes very late finds
    other bugs than many that come at once.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"turns {seed}")
        self._own = threading.local()
        self._gates: dict[int, threading.Semaphore] = {}
        self._weights: dict[int, int] = {}
        self._moment = 0

    def tick(self) -> float:
        """The next moment; no two are the same."""
        self._moment += 1
        return float(self._moment)

    def pass_on(self) -> None:
        """Let the seed decide who goes on. Threads that are no clients are not held up."""
        me = getattr(self._own, "name", None)
        self._moment += 1
        if me is None:
            return
        following = self._choose()
        if following != me:
            self._gates[following].release()
            self._gates[me].acquire()

    def run(self, clients: Sequence[Callable[[], None]]) -> None:
        """Until all have ended. The first error of a client is raised."""
        errors: list[BaseException] = []
        for name in range(len(clients)):
            self._gates[name] = threading.Semaphore(0)
            self._weights[name] = self._random.choice((1, 3, 10))

        def work(name: int) -> None:
            self._own.name = name
            self._gates[name].acquire()
            try:
                clients[name]()
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                errors.append(error)
            del self._weights[name]
            if self._weights:
                self._gates[self._choose()].release()

        threads = [threading.Thread(target=work, args=(name,)) for name in range(len(clients))]
        for thread in threads:
            thread.start()
        self._gates[self._choose()].release()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _choose(self) -> int:
        if self._random.random() < 0.02:
            self._weights = {name: self._random.choice((1, 3, 10)) for name in self._weights}
        return self._random.choices(list(self._weights), weights=list(self._weights.values()))[0]


class TurnsClock:
    """Waiting is letting others go first."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def now(self) -> float:
        return 1_700_000_000.0 + self._turns.tick() / 1_000

    def monotonic(self) -> float:
        return self._turns.tick() / 1_000

    def sleep(self, seconds: float) -> None:
        self._turns.pass_on()
