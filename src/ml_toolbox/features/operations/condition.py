"""What is not as it should be, judged from what the store holds. Looks only: even the loop itself is not driven."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ml_toolbox.base.clock import iso
from ml_toolbox.engine.collection import Comparison
from ml_toolbox.engine.ledger import Limit
from ml_toolbox.engine.rows import Row
from ml_toolbox.engine.store import Store
from ml_toolbox.features.operations.events import Event

State = Literal["ok", "note", "error"]

UNKNOWN_PHASE = "unknown"
"""What every kind of work calls the phase in which a create call may or may not have had its effect."""
SKEW_NOTE_S, SKEW_ERROR_S = 1.0, 30.0
"""Only the store's time counts for leases; a host that is off shows wrong times to its users, and its platform refuses to
sign calls (AWS documents five minutes for Signature Version 4)."""
_PAGE = 5000
OVERDUE_S = 600.0
"""A row that has been due for so long is driven by nobody."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``error`` stops something from working or costs money, ``note`` may matter."""

    state: State
    subject: str
    finding: str
    remedy: str = ""


def living(store: Store, *, place: str | None = None) -> Iterator[Row]:
    """Every row that has not ended, newest first."""
    before = None
    while page := store.find(None, place=place, before=before, limit=_PAGE):
        yield from (row for row in page if row.ended_at is None)
        before = page[-1].id


def condition(
    *,
    rows: Sequence[Row],
    limits: Iterable[Limit],
    events: Iterable[Event],
    comparison: Comparison,
    places: Iterable[str],
    installed: Collection[str],
    store_now: float,
    host_now: float,
    is_dead: Callable[[str], bool],
) -> Iterator[Finding]:
    """All findings about the loop.

    Args:
        rows: those that have not ended.
        events: of the last day.
        comparison: what exists against what is known; made without removing anything.
        places: everywhere a row was ever written for.
        installed: names of the backends that are installed.
        host_now: the host's time when ``store_now`` was read from the store.
    """
    checks: Sequence[tuple[str, str, Iterator[Finding]]] = (
        ("orphans", "nothing of ours exists that no row owns", orphans(comparison)),
        ("leases", "no lease is held by anybody who is gone", stale_leases(rows, store_now, is_dead)),
        ("outcomes", "every create call's outcome is known", unknown_outcomes(rows, store_now)),
        ("overdue", "nothing waits to be driven", overdue(rows, store_now, is_dead)),
        ("alarms", "no alarm in the last day", alarms(events)),
        ("budgets", "no limit is overdrawn", overdrawn(limits)),
        ("places", "every place's backend is installed", unserved(rows, places, installed)),
        ("clock", f"{abs(host_now - store_now):.1f} s between this host and the state", skew(store_now, host_now)),
    )
    for subject, fine, found in checks:
        findings = list(found)
        yield from findings or [Finding("ok", subject, fine)]


def orphans(comparison: Comparison) -> Iterator[Finding]:
    for stray in comparison.strays:
        remedy = "mltoolbox doctor --fix removes it and charges what it cost; so does the agent"
        if stray.removed:
            yield Finding("note", "orphans", f"{stray.kind} {stray.resource} on {stray.place} is removed: {stray.why}")
        else:
            problem = f" (could not be removed: {stray.problem})" if stray.problem else ""
            text = f"{stray.kind} {stray.resource} on {stray.place}: {stray.why}{problem}"
            yield Finding("error", "orphans", text, remedy)
    for place, why in sorted(comparison.unseen.items()):
        remedy = f"mltoolbox backends check; what may live there is not known until it can be asked ({place})"
        yield Finding("note", "orphans", f"{place} could not be asked: {why}", remedy)


def stale_leases(rows: Iterable[Row], now: float, is_dead: Callable[[str], bool]) -> Iterator[Finding]:
    for row in rows:
        if not row.lease_owner:
            continue
        gone = is_dead(row.lease_owner)
        if gone or row.lease_until < now:
            why = "whose process is gone" if gone else f"that ran out {now - row.lease_until:.0f} s ago"
            text = f"{row.kind} {row.name} ({row.id}) is leased by {row.lease_owner}, {why}"
            yield Finding("note", "leases", text, _TAKEN_UP)


def unknown_outcomes(rows: Iterable[Row], now: float) -> Iterator[Finding]:
    for row in rows:
        if row.phase == UNKNOWN_PHASE:
            since = float(row.data.get("since") or row.updated_at)
            problem = row.data.get("problem") or "the call was not answered"
            text = f"{row.kind} {row.name} ({row.id}): for {now - since:.0f} s not known whether it exists ({problem})"
            looked = f"at {iso(row.due_at)}" if row.due_at is not None and row.due_at > now else "by the next look"
            yield Finding("note", "outcomes", text, f"it is looked for again {looked}; its money stays held until then")


def overdue(rows: Iterable[Row], now: float, is_dead: Callable[[str], bool]) -> Iterator[Finding]:
    waiting = [
        row
        for row in rows
        if row.due_at is not None
        and now - row.due_at > OVERDUE_S
        and (not row.lease_owner or row.lease_until < now or is_dead(row.lease_owner))
    ]
    if waiting:
        longest = max(now - (row.due_at or now) for row in waiting)
        text = f"{len(waiting)} rows are due and driven by nobody, the longest for {longest:.0f} s"
        yield Finding("note", "overdue", text, _TAKEN_UP)


def alarms(events: Iterable[Event]) -> Iterator[Finding]:
    newest: dict[str, Event] = {}
    counts: dict[str, int] = {}
    for event in events:
        if event.level == "alarm":
            newest[event.id] = event
            counts[event.id] = counts.get(event.id, 0) + 1
    for row_id, event in newest.items():
        often = f" ({counts[row_id]} in the last day)" if counts[row_id] > 1 else ""
        text = f"{event.kind} {event.name} at {iso(event.at)}: {event.message}{often}"
        yield Finding("note", "alarms", text, f"mltoolbox {event.kind}s show {event.name}")


def overdrawn(limits: Iterable[Limit]) -> Iterator[Finding]:
    for limit in limits:
        if limit.taken > limit.most:
            text = f"{limit.name}: {limit.show(limit.taken)} taken of {limit.show(limit.most)}"
            what = (
                "what holds it is being stopped, the newest first" if limit.meter == "cost" else "others wait in line"
            )
            yield Finding("note", "budgets", text, f"{what}; mltoolbox budgets show {limit.scope}")


def unserved(rows: Iterable[Row], places: Iterable[str], installed: Collection[str]) -> Iterator[Finding]:
    living = list(rows)
    for place in places:
        backend = place.partition("@")[0]
        if backend in installed:
            continue
        count = sum(row.place == place for row in living)
        text = f"the backend of {place} is not installed any more; {count} rows live there"
        remedy = f"install its provider again; then, once nothing lives there: mltoolbox backends forget {backend}"
        yield Finding("error" if count else "note", "places", text, remedy)


def skew(store_now: float, host_now: float) -> Iterator[Finding]:
    ahead = host_now - store_now
    if abs(ahead) <= SKEW_NOTE_S:
        return
    word = "ahead of" if ahead > 0 else "behind"
    state: State = "error" if abs(ahead) > SKEW_ERROR_S else "note"
    text = f"this host is {abs(ahead):.1f} s {word} the state's clock"
    yield Finding(state, "clock", text, "set its clock (NTP); leases and due times follow the state's clock alone")


_TAKEN_UP = "taken up by the next command that looks, by the agent, or now: mltoolbox doctor --fix"
