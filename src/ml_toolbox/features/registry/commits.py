"""Version numbers: who gets which, exactly once, without gaps.

A version exists from the moment its object is created, and creating it is refused when it exists: that create *is* the
commit. Number n + 1 is only tried after n was seen, and versions are never removed, so "exists" is monotone in the
number and the end is found by doubling steps and bisection instead of listing.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from ml_toolbox.base.clock import Clock
from ml_toolbox.base.errors import Conflict, NotFound, Unavailable
from ml_toolbox.base.ids import nonce as new_nonce
from ml_toolbox.features.registry import layout
from ml_toolbox.features.registry.records import KeyRecord, VersionRecord, decode, encode
from ml_toolbox.ports.objects import CreateOnly, IfMatch, ObjectStore, Version

MakeRecord = Callable[[int, str], VersionRecord]
"""``(number, nonce) -> record``: the number is known only when it is won."""

UNCLEAR_ATTEMPTS = 5
"""How often a write of unknown outcome is read back and repeated before its error is passed on."""
_PAUSE_S = 0.05
_CACHED_RECORDS = 512
_MAX_CROWD = 4
"""Attempts are spread over at most 2**4 writes: with more, 16 writers waited longer than they gained."""


class Commits:
    """The immutable version objects of a registry."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._guard = threading.Lock()
        self._known: dict[str, int] = {}
        self._turns: dict[str, _Turn] = {}
        self._records: OrderedDict[str, VersionRecord] = OrderedDict()

    def read(self, name: str, number: int) -> VersionRecord:
        """``NotFound`` when the number was never given."""
        key = layout.version(name, number)
        with self._guard:
            if (cached := self._records.get(key)) is not None:
                return cached
        try:
            data = self._store.get(key).data
        except NotFound as error:
            raise NotFound(f"model {name!r} has no version {number}", resource=f"{name}:{number}") from error
        record = decode(VersionRecord, data, resource=f"{self._store.uri}/{key}")
        self._remember(record)
        return record

    def known(self, name: str) -> int:
        """A number that exists, from memory; 0 when none was seen yet."""
        with self._guard:
            return self._known.get(name, 0)

    def last(self, name: str, hint: int = 0) -> int:
        """The highest number given so far; 0 when there is none. ``hint``: a number known to exist."""
        with self._guard:
            low = max(hint, self._known.get(name, 0))
        step = 1
        while self._exists(name, low + step):
            low += step
            step *= 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if self._exists(name, middle):
                low = middle
            else:
                high = middle
        self._learn(name, low)
        return low

    def append(self, name: str, make: MakeRecord, *, hint: int = 0) -> VersionRecord:
        """Commit under the next number."""
        mark = new_nonce()
        with self._one_at_a_time(name) as turn:
            with self._guard:
                number = max(hint, self._known.get(name, 0)) + 1
            lost = 0
            while True:
                if turn.crowd:
                    # Wait for a moment of one's own, and look before writing: a look costs a tenth of a refused write.
                    self._clock.sleep(turn.pause_s(lost))
                    number = self.last(name, number - 1) + 1
                standing = self._attempt(turn, make(number, mark))
                if standing.nonce == mark:
                    return standing
                number += 1
                lost += 1

    def append_once(self, name: str, key: str, content: str, make: MakeRecord, *, hint: int = 0) -> VersionRecord:
        """Commit under the next number, or return what this ``key`` committed before.

        The key's object names the only number that its version may be created under, and moves on to another only after
        the former was seen taken by somebody else - which is for ever. So any number of processes, alive or crashed
        anywhere, create at most one version. ``Conflict`` when the key was used for other ``content``.
        """
        path = layout.idempotency(name, hashlib.sha256(key.encode()).hexdigest())
        lost = failures = 0
        with self._one_at_a_time(name) as turn:
            while True:
                claim, version = self._claim(path, name, content, hint)
                if claim.content != content:
                    raise Conflict(
                        f"idempotency key {key!r} of model {name!r} was used for a package with other files",
                        hint="use a new key for a new package",
                        field="idempotency_key",
                        resource=f"{name}:{claim.candidate}",
                    )
                standing = self._standing(name, claim.candidate)
                if standing is None:
                    standing = self._attempt(turn, make(claim.candidate, claim.nonce))
                if standing.nonce == claim.nonce:
                    return standing
                self._clock.sleep(turn.pause_s(lost))
                lost += 1
                moved = msgspec.structs.replace(claim, candidate=self.last(name, claim.candidate) + 1)
                try:
                    self._store.put(path, encode(moved), mode=IfMatch(version))
                    failures = 0
                except (Conflict, Unavailable) as error:
                    # Moved by another process, or by this one unawares: the next reading tells.
                    failures += isinstance(error, Unavailable)
                    if failures >= UNCLEAR_ATTEMPTS:
                        raise
                    self._pause()

    def _attempt(self, turn: _Turn, record: VersionRecord) -> VersionRecord:
        started = self._clock.monotonic()
        standing = self._create(record)
        turn.took(self._clock.monotonic() - started, won=standing.nonce == record.nonce)
        return standing

    def _claim(self, path: str, name: str, content: str, hint: int) -> tuple[KeyRecord, Version]:
        for _ in range(UNCLEAR_ATTEMPTS):
            try:
                found = self._store.get(path)
                return decode(KeyRecord, found.data, resource=f"{self._store.uri}/{path}"), found.meta.version
            except NotFound:
                fresh = KeyRecord(nonce=new_nonce(), candidate=self.last(name, hint) + 1, content=content)
            try:
                return fresh, self._store.put(path, encode(fresh), mode=CreateOnly())
            except (Conflict, Unavailable):
                # Somebody else's, or ours with a lost answer: either way the object says who we are.
                self._pause()
        raise Unavailable(f"{self._store.uri}/{path} could not be written", hint="try again", resource=path)

    def _create(self, record: VersionRecord) -> VersionRecord:
        """Create the record's object and return what stands there: ``record``, or somebody else's."""
        key, body = layout.version(record.model, record.number), encode(record)
        failures = 0
        while True:
            try:
                self._store.put(key, body, mode=CreateOnly())
                standing: VersionRecord | None = record
            except (Conflict, Unavailable) as error:
                # Unknown outcome, or a conflict: with a foreign object, with our own whose answer was lost, or (409 from
                # racing creators) with nothing stored. The object tells; its nonce says whose it is.
                standing = self._standing(record.model, record.number)
                if standing is None:
                    failures += 1
                    if failures >= UNCLEAR_ATTEMPTS:
                        raise
                    if isinstance(error, Unavailable):
                        self._pause()
            if standing is not None:
                self._learn(record.model, record.number)
                if standing.nonce == record.nonce:
                    self._remember(standing)
                return standing

    def _standing(self, name: str, number: int) -> VersionRecord | None:
        try:
            return self.read(name, number)
        except NotFound:
            return None

    def _exists(self, name: str, number: int) -> bool:
        try:
            self._store.head(layout.version(name, number))
        except NotFound:
            return False
        return True

    def _learn(self, name: str, number: int) -> None:
        with self._guard:
            self._known[name] = max(number, self._known.get(name, 0))

    def _remember(self, record: VersionRecord) -> None:
        with self._guard:
            self._records[layout.version(record.model, record.number)] = record
            while len(self._records) > _CACHED_RECORDS:
                self._records.popitem(last=False)

    def _pause(self) -> None:
        self._clock.sleep(random.uniform(0.0, _PAUSE_S))  # noqa: S311 - jitter, not a secret

    @contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[_Turn]:
        # Threads of one process would only take numbers from each other; between processes the store decides.
        with self._guard:
            turn = self._turns.setdefault(name, _Turn())
        with turn.lock:
            yield turn


@dataclass(slots=True)
class _Turn:
    """How crowded the end of one model is, as seen from here.

    Writers that lose a number at the same moment would all try the next one at the same moment, and all but one would
    have made their bytes durable for nothing. So a refusal doubles the stretch of time over which the next attempt is
    spread, and a first-time success halves it; the unit is what a write takes on this store. Who has lost before goes
    sooner than who has just come, or the slowest percent would wait several times as long.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    crowd: int = 0
    write_s: float = 0.0

    def pause_s(self, lost: int) -> float:
        return random.uniform(0.0, self.write_s * 2.0**self.crowd / (1 + lost))  # noqa: S311 - jitter, not a secret

    def took(self, seconds: float, *, won: bool) -> None:
        self.write_s = seconds if not self.write_s else 0.8 * self.write_s + 0.2 * seconds
        self.crowd = max(0, self.crowd - 1) if won else min(_MAX_CROWD, self.crowd + 1)
