"""What exists and what is known, compared both ways. Part of correctness, not hygiene: where a platform honours neither a token
nor a name, a worker that was paused in the middle of a create call can still make a resource that no row will ever name.

Only what carries this installation's own tag is ever looked at. The list is read before the rows: whatever a row says after
that is newer, so a resource it does not know was not just being recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ml_toolbox.base.errors import NotFound, Throttled, ToolboxError
from ml_toolbox.base.ids import ulid_time
from ml_toolbox.engine.crash import crash_point
from ml_toolbox.engine.ledger import Books, Posting
from ml_toolbox.engine.owners import is_dead
from ml_toolbox.engine.pacing import Pacer
from ml_toolbox.engine.rows import Change, Row, Write
from ml_toolbox.engine.store import Store

T = TypeVar("T")

GRACE_S = 300.0
"""How old the row that a resource names must be before a resource without any row is collected: longer than any visibility
window, and long enough to notice that the wrong database was opened."""
_TOGETHER = 500
"""Rows read at once: one question for each of ten thousand resources held the loop up for seconds."""
EVERY_S = 300.0
"""How often everything is compared."""


class StoreWithBooks(Store, Books, Protocol):
    """One store's two sides."""


class Collectable(Protocol):
    """What a kind of work must tell besides its workflow, so that its strays can be found."""

    @property
    def kind(self) -> str: ...

    def resources(self, place: str) -> Iterable[tuple[str, Mapping[str, str]]]:
        """``(id, tags)`` of everything of this kind there that carries this installation's tag."""

    def owner_of(self, tags: Mapping[str, str]) -> tuple[str, int]:
        """Row id and attempt that the tags name; ``("", 0)`` when they name none."""

    def owns(self, row: Row, resource: str, attempt: int, now: float) -> bool:
        """Whether the row may have this resource: it names it, is just creating it, or has deleted it so recently that a list
        may still show it. Pure."""

    def stray(self, row: Row, resource: str, attempt: int, now: float) -> Posting:
        """What a resource that the row does not own has cost at most. Pure."""

    def remove(self, place: str, resource: str) -> None:
        """Delete it. Absent: silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A resource of ours that no row owns."""

    kind: str
    place: str
    resource: str
    row: str
    """Id of the row its tags name."""
    attempt: int
    why: str
    removed: bool = False
    problem: str = ""
    """Why it could not be removed; the next comparison tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found."""

    strays: tuple[Stray, ...]
    unseen: Mapping[str, str]
    """Places that could not be asked, and why: there may be strays."""


class Collector:
    """Compares, and removes what belongs to nobody. Several may work at once."""

    def __init__(
        self,
        store: StoreWithBooks,
        kinds: Iterable[Collectable],
        *,
        owner: str,
        lease_s: float = 60.0,
        pacer: Pacer | None = None,
        is_dead: Callable[[str], bool] = is_dead,
    ) -> None:
        self._store = store
        self._kinds = {kind.kind: kind for kind in kinds}
        self._owner = owner
        self._lease_s = lease_s
        self._pacer = pacer or Pacer()
        self._is_dead = is_dead
        self._first_seen: dict[tuple[str, str], float] = {}

    def compare(self) -> Comparison:
        """Look everywhere a row was ever written for. Removes nothing."""
        strays: list[Stray] = []
        unseen: dict[str, str] = {}
        for place in self._store.places():
            for kind in self._kinds.values():
                try:
                    strays += self._strays_if_any(kind, place)
                except ToolboxError as error:
                    unseen[place] = error.message
                except Exception as error:  # noqa: BLE001 - an adapter's defect: the other places are compared all the same
                    unseen[place] = f"{type(error).__name__}: {error}"
        return Comparison(strays=tuple(strays), unseen=unseen)

    def collect(self) -> Comparison:
        """Look, and remove the strays. What they have cost is charged to the row they came from, once."""
        found = self.compare()
        return Comparison(strays=tuple(self._collected(stray) for stray in found.strays), unseen=found.unseen)

    def living(self, place: str) -> int:
        """How many rows and resources there may still cost something. Raises what the platform raises: not knowing is no
        reason to forget a place."""
        rows = [row for row in self._store.find(None, place=place, limit=100_000) if row.ended_at is None]
        return len(rows) + sum(len(self._strays_if_any(kind, place)) for kind in self._kinds.values())

    def _strays_if_any(self, kind: Collectable, place: str) -> list[Stray]:
        """None where no such kind of work is done."""
        try:
            return self._strays(kind, place)
        except NotFound:
            return []

    def _paced(self, place: str, call: Callable[[], T]) -> T:
        """Comparing shares the platform's patience with the loop."""
        self._pacer.wait(place)
        try:
            answer = call()
        except Throttled as error:
            self._pacer.throttled(place, error.retry_after_s)
            raise
        self._pacer.passed(place)
        return answer

    def _strays(self, kind: Collectable, place: str) -> list[Stray]:
        now = self._store.now()  # what the list shows is judged by when it was asked for, however long we slept since
        listed = self._paced(place, lambda: list(kind.resources(place)))
        crash_point("collect:listed:before:compare")
        owned = [(resource, *kind.owner_of(tags)) for resource, tags in listed]
        strays: list[Stray] = []
        for part in (owned[start : start + _TOGETHER] for start in range(0, len(owned), _TOGETHER)):
            rows = self._rows({row_id for _, row_id, _ in part})
            for resource, row_id, attempt in part:
                strays += self._judged(kind, place, resource, rows.get(row_id), row_id, attempt, now)
        return strays

    def _judged(
        self, kind: Collectable, place: str, resource: str, row: Row | None, row_id: str, attempt: int, now: float
    ) -> Iterator[Stray]:
        if row is not None:
            if kind.owns(row, resource, attempt, now):
                return
            why = f"attempt {attempt} of {row.kind} {row.name} does not own it"
        else:
            if now - self._known_since(place, resource, row_id, now) < GRACE_S:
                return
            why = f"its row {row_id or '?'} does not exist"
        # Where resources go by name, a newer row may have taken the name over.
        for other in self._store.find(kind.kind, name=resource, limit=10):
            if kind.owns(other, resource, attempt, now):
                return
        yield Stray(kind=kind.kind, place=place, resource=resource, row=row_id, attempt=attempt, why=why)

    def _known_since(self, place: str, resource: str, row_id: str, now: float) -> float:
        """When the resource can have come up at the earliest: its row's id tells the time, else our own first sight does."""
        told = ulid_time(row_id)
        return told if told is not None else self._first_seen.setdefault((place, resource), now)

    def _rows(self, row_ids: Collection[str]) -> Mapping[str, Row]:
        return self._store.get_many(row_ids)

    def _row(self, row_id: str) -> Row | None:
        try:
            return self._store.get(row_id)
        except NotFound:
            return None

    def _collected(self, stray: Stray) -> Stray:
        kind = self._kinds[stray.kind]
        try:
            held = self._charged(kind, stray)
        except _HeldByAnother:
            return replace(stray, problem=f"{stray.row} is being worked on; next time")
        crash_point("collect:charged:before:remove")
        try:
            self._paced(stray.place, lambda: kind.remove(stray.place, stray.resource))
        except ToolboxError as error:
            done = replace(stray, problem=error.message)
        except Exception as error:  # noqa: BLE001 - as in compare
            done = replace(stray, problem=f"{type(error).__name__}: {error}")
        else:
            done = replace(stray, removed=True)
        crash_point("collect:removed:before:release")
        if held is not None:
            self._store.write([Write(row=held, change=None)], lease_s=self._lease_s)
        return done

    def _charged(self, kind: Collectable, stray: Stray) -> Row | None:
        """Charge the row under its lease for what the stray has cost until now, less what was charged when it could not be
        removed before; and keep the lease while it is removed."""
        if self._row(stray.row) is None:
            return None
        row = self._store.claim(stray.row, owner=self._owner, lease_s=self._lease_s, is_dead=self._is_dead)
        if row is None:
            raise _HeldByAnother
        posting = kind.stray(row, stray.resource, stray.attempt, self._store.now())
        lines = [line.posting for line in self._store.lines(work_id=row.id) if line.posting.kind == "collect"]
        charged = [line.spent for line in lines if line.reason == posting.reason]
        if charged and sum(charged) >= posting.spent:
            return row
        posting = replace(posting, spent=posting.spent - sum(charged))
        change = Change(
            phase=row.phase,
            state=row.state,
            data=row.data,
            due_at=row.due_at,
            ended=row.ended_at is not None,
            message="" if charged else f"removing {stray.resource}: {stray.why}",
            level="warning",
            postings=(posting,),
        )
        written = self._store.write(
            [Write(row=row, change=change, cause="collect", release=False)], lease_s=self._lease_s
        )[0]
        if not isinstance(written, Row):
            raise _HeldByAnother
        return written


class _HeldByAnother(Exception):
    """The row's lease is somebody else's now."""
