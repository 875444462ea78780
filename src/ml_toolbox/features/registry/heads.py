"""The head of a model: the one object that changes, swapped whole.

Every change - a stage move with the alias that goes with it - and its audit line are one compare-and-swap, so a reader
sees both or neither. The head stays small: audit lines and notes that have aged move to immutable objects, written
*before* the swap that stops mentioning them in the head, so that no crash can lose one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ml_toolbox.base.clock import Clock
from ml_toolbox.base.errors import Conflict, NotFound, ToolboxError, Unavailable
from ml_toolbox.base.ids import nonce as new_nonce
from ml_toolbox.features.registry import layout
from ml_toolbox.features.registry.records import AuditSegment, Head, HeadLine, Note, decode, decode_notes, encode
from ml_toolbox.ports.objects import CreateOnly, IfMatch, ObjectStore, Version

AUDIT_TAIL = 64
"""Lines kept in the head, about 150 bytes each; one more moves them all to a segment."""
NOTES_TAIL = 64
"""Versions with notes kept in the head; one more moves them all to their buckets."""
_SWAP_DEADLINE_S = 60.0
_BASE_PAUSE_S = 0.0005
_CAP_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new head and how the audit trail tells it."""

    head: Head
    action: str
    version: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


Decide = Callable[[Head], Change | None]
"""Pure: what to change in this head; ``None`` when it already is as wished. Raises to refuse. Called again after each lost
race."""


class Heads:
    """Reads and swaps heads."""

    def __init__(self, store: ObjectStore, actor: str, clock: Clock) -> None:
        self._store = store
        self._actor = actor
        self._clock = clock

    def read(self, name: str) -> Head:
        """The head now; an empty one when the model has none yet."""
        return self._read(name)[0]

    def swap(self, name: str, decide: Decide) -> Head:
        """Apply ``decide`` to the newest head and return the head it led to, without what others did after it.

        The change happens exactly once: when the answer to a swap was lost, the audit line with our sequence number says
        whether it was ours. ``Conflict`` when others kept winning for a minute,
        ``Unavailable`` when the store did not answer for as long.
        """
        op = new_nonce()
        give_up_at = self._clock.monotonic() + _SWAP_DEADLINE_S
        attempt = 0
        failed: _Failed | None = None
        while True:
            head, version = self._read(name)
            if failed is not None:
                # Before anything is decided on this head: a write of ours that seemed to fail may be in it, and others'
                # changes on top, which deciding again would undo.
                if self._holds(name, head, failed.base.seq + 1, op):
                    self._discard(failed.garbage.replaced)
                    return failed.written or head
                if self._clock.monotonic() > give_up_at:
                    raise self._contended(name, failed.error) from failed.error
                if head.nonce != failed.base.nonce:
                    # Only now is it certain that no delayed write of ours can still succeed and need them.
                    self._discard(failed.garbage.written)
                    failed = None
            change = decide(head)
            if change is None:
                return head
            garbage = _Garbage(written=failed.garbage.written if failed else [])
            written = failed.written if failed else None
            try:
                written = self._prepare(name, head, change, op, garbage)
                self._put(name, written, version)
            except (Conflict, Unavailable, NotFound) as error:
                # NotFound: a newer head has replaced a notes bucket that this one still names.
                failed = _Failed(base=head, written=written, garbage=garbage, error=error)
                attempt += 1
                self._clock.sleep(random.uniform(0.0, min(_CAP_PAUSE_S, _BASE_PAUSE_S * 2.0**attempt)))  # noqa: S311
                continue
            self._discard(garbage.replaced)
            return written

    def advance(self, name: str, last: int) -> None:
        """Raise the ``last`` hint; leaves no audit line. A lost race is no loss: the hint may lag."""
        head, version = self._read(name)
        if head.last >= last:
            return
        try:
            self._put(name, msgspec.structs.replace(head, last=last, nonce=new_nonce()), version)
        except (Conflict, Unavailable):
            return

    def audit(self, name: str) -> tuple[HeadLine, ...]:
        """Every line, oldest first."""
        head = self.read(name)
        parts = [head.audit, *(segment.lines for segment in self._segments(name, head.audit_previous))]
        return tuple(line for part in reversed(parts) for line in part)

    def note(self, name: str, head: Head, number: int) -> Note:
        """What was said about the version after its registration, as of ``head``."""
        recent = head.notes.get(number, Note())
        bucket = number // layout.NOTES_PER_BUCKET
        if bucket not in head.note_buckets:
            return recent
        return merge_notes(self._bucket(name, head, bucket).get(number, Note()), recent)

    def notes(self, name: str, head: Head) -> dict[int, Note]:
        """All of them, as of ``head``."""
        merged: dict[int, Note] = {}
        for bucket in sorted(head.note_buckets):
            merged.update(self._bucket(name, head, bucket))
        for number, note in head.notes.items():
            merged[number] = merge_notes(merged.get(number, Note()), note)
        return merged

    def _read(self, name: str) -> tuple[Head, Version | None]:
        key = layout.head(name)
        try:
            found = self._store.get(key)
        except NotFound:
            return Head(), None
        return decode(Head, found.data, resource=f"{self._store.uri}/{key}"), found.meta.version

    def _put(self, name: str, head: Head, version: Version | None) -> None:
        mode = CreateOnly() if version is None else IfMatch(version)
        self._store.put(layout.head(name), encode(head), mode=mode)

    def _prepare(self, name: str, head: Head, change: Change, op: str, garbage: _Garbage) -> Head:
        """The head to write, with what it no longer holds already stored elsewhere."""
        line = HeadLine(head.seq + 1, self._clock.now(), self._actor, change.action, op, change.version, change.detail)
        new = msgspec.structs.replace(change.head, nonce=new_nonce(), seq=line.seq, audit=(*head.audit, line))
        if len(new.audit) > AUDIT_TAIL:
            segment = f"{head.audit[0].seq:010d}-{new.nonce}"
            key = layout.audit_segment(name, segment)
            self._store.put(key, encode(AuditSegment(head.audit, head.audit_previous)))
            garbage.written.append(key)
            new = msgspec.structs.replace(new, audit=(line,), audit_previous=segment)
        if len(new.notes) > NOTES_TAIL:
            new = self._spill_notes(name, new, garbage)
        return new

    def _spill_notes(self, name: str, head: Head, garbage: _Garbage) -> Head:
        buckets = dict(head.note_buckets)
        for bucket in sorted({number // layout.NOTES_PER_BUCKET for number in head.notes}):
            notes = self._bucket(name, head, bucket) if bucket in buckets else {}
            for number, note in head.notes.items():
                if number // layout.NOTES_PER_BUCKET == bucket:
                    notes[number] = merge_notes(notes.get(number, Note()), note)
            if bucket in buckets:
                garbage.replaced.append(layout.notes_bucket(name, bucket, buckets[bucket]))
            key = layout.notes_bucket(name, bucket, head.nonce)
            self._store.put(key, encode(notes))
            garbage.written.append(key)
            buckets[bucket] = head.nonce
        return msgspec.structs.replace(head, notes={}, note_buckets=buckets)

    def _bucket(self, name: str, head: Head, bucket: int) -> dict[int, Note]:
        """``NotFound`` when a newer head has replaced it; readers then begin again."""
        key = layout.notes_bucket(name, bucket, head.note_buckets[bucket])
        return decode_notes(self._store.get(key).data, resource=f"{self._store.uri}/{key}")

    def _segments(self, name: str, newest: str) -> Iterator[AuditSegment]:
        while newest:
            key = layout.audit_segment(name, newest)
            segment = decode(AuditSegment, self._store.get(key).data, resource=f"{self._store.uri}/{key}")
            yield segment
            newest = segment.previous

    def _holds(self, name: str, head: Head, sequence: int, op: str) -> bool:
        """Whether the audit line of that sequence number is the operation's own."""
        lines = head.audit
        segments = self._segments(name, head.audit_previous)
        while lines and lines[0].seq > sequence:
            lines = next(segments).lines
        return any(line.seq == sequence and line.op == op for line in lines)

    def _discard(self, keys: list[str]) -> None:
        for key in keys:
            try:
                self._store.delete(key)
            except ToolboxError:
                # Nothing refers to the object any more; it costs a few hundred bytes and no correctness.
                continue

    def _contended(self, name: str, cause: ToolboxError) -> ToolboxError:
        if not isinstance(cause, Conflict):
            return cause
        return Conflict(
            f"model {name!r} was changed by others for {_SWAP_DEADLINE_S:.0f} s without a gap",
            hint="try again; if it persists, look for a program that changes this model in a loop",
            resource=name,
        )


@dataclass(slots=True)
class _Garbage:
    """Objects that one of the two outcomes of a swap leaves without a reader."""

    written: list[str] = field(default_factory=list)
    """To remove when the swap is lost."""
    replaced: list[str] = field(default_factory=list)
    """To remove when it is won."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """A swap whose outcome only a later head can tell."""

    base: Head
    """What it was to replace."""
    written: Head | None
    """What was last sent to replace it, if anything was: whatever had been sent before differs in nonce and time only."""
    garbage: _Garbage
    error: ToolboxError


def merge_notes(older: Note, newer: Note) -> Note:
    return Note(
        tags={**older.tags, **newer.tags},
        description=older.description if newer.description is None else newer.description,
    )
