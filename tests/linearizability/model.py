"""The registry of one model as it would behave if its operations came one after the other.

Most operations are one step. Two kinds are documented as more than one, and are recorded as their steps, each of which
must find its moment between the call and the return:

- ``register`` looks whether the model is deleted, commits a number, and then sets the alias;
- ``promote`` of an alias or stage resolves it once, and then promotes the version found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml_toolbox.testing.linearizability import UNKNOWN, Model

NOT_FOUND = "NotFound"
CONFLICT = "Conflict"
_CHECKED = 0
"""What stands in ``under_way`` before there is a number."""
DONE = "done"
REGISTERED = "registered"
STAGES = ("Staging", "Production", "Archived")

Runs = frozenset[tuple[Any, Any]]
"""A mapping as a hashable value: its items."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step on one model, as a client asked for it. Numbers, stages and aliases that it does not need stay empty."""

    kind: str
    model: str
    number: int = 0
    alias: str = ""
    stage: str = ""
    archive: bool = False
    tag: tuple[str, str | None] = ("", None)
    mark: str = ""
    """Of a registration: what only this one says, so that a version that is somebody else's is noticed."""
    key: str = ""
    """Idempotency key."""
    part_of: str = ""
    """The operation that this is one of several steps of."""

    def __str__(self) -> str:
        facts = [f"{name}={getattr(self, name)!r}" for name in ("number", "alias", "stage", "archive", "mark", "key")]
        shown = [fact for fact in facts if not fact.endswith(("=0", "=''", "=False"))]
        if self.tag[0]:
            shown.append(f"{self.tag[0]}={self.tag[1]}")
        return f"{self.kind}({', '.join([self.model, *shown])})"


@dataclass(frozen=True, slots=True)
class One:
    """One registered model."""

    marks: tuple[str, ...] = ()
    """Of versions 1, 2, ..."""
    keys: Runs = frozenset()
    stages: Runs = frozenset()
    aliases: Runs = frozenset()
    tags: Runs = frozenset()
    """((number, key), value); number 0 is the model itself."""
    deleted: frozenset[int] = frozenset()
    model_deleted: bool = False
    under_way: Runs = frozenset()
    """(operation, what its former step found)."""

    @property
    def last(self) -> int:
        return len(self.marks)

    def stage(self, number: int) -> str:
        return next((stage for at, stage in self.stages if at == number), REGISTERED)

    def is_live(self, number: int) -> bool:
        return not self.model_deleted and 0 < number <= self.last and number not in self.deleted

    def pointing(self, number: int) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, target in self.aliases if target == number))

    def tags_of(self, number: int) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((key, value) for (at, key), value in self.tags if at == number))

    def view(self, number: int) -> tuple[Any, ...]:
        """What a client sees of a version."""
        mark = self.marks[number - 1]
        deleted = self.model_deleted or number in self.deleted
        return (number, mark, self.stage(number), self.pointing(number), self.tags_of(number), deleted)

    def latest(self, stage: str = "") -> int:
        """The highest live number, in that stage; 0 when there is none."""
        numbers = (n for n in range(self.last, 0, -1) if n not in self.deleted)
        return next((n for n in numbers if not stage or self.stage(n) == stage), 0)

    def target(self, step: Step) -> int:
        """The live version that number, alias or stage means; the latest when none is given; 0 when there is none."""
        aliased = dict(self.aliases).get(step.alias, 0)
        number = aliased if step.alias else step.number or self.latest(step.stage)
        return number if self.is_live(number) else 0


def with_(items: Runs, key: Any, value: Any) -> Runs:
    """``value=None`` removes."""
    kept = frozenset(item for item in items if item[0] != key)
    return kept if value is None else kept | {(key, value)}


Result = tuple[One, Any] | None
"""The state afterwards and the answer; ``None``: not possible here."""


def _check(one: One, step: Step) -> Result:
    if one.model_deleted:
        return one, NOT_FOUND
    return replace(one, under_way=with_(one.under_way, step.part_of, _CHECKED)), DONE


def _commit(one: One, step: Step) -> Result:
    if (step.part_of, _CHECKED) not in one.under_way:
        return None
    number = dict(one.keys).get(step.key, 0) if step.key else 0
    if not number:
        number = one.last + 1
        one = replace(one, marks=(*one.marks, step.mark))
        if step.key:
            one = replace(one, keys=with_(one.keys, step.key, number))
    following = number if step.alias else None
    return replace(one, under_way=with_(one.under_way, step.part_of, following)), (number, one.marks[number - 1])


def _point(one: One, step: Step) -> Result:
    """The last step of a registration with an alias."""
    number = dict(one.under_way).get(step.part_of, _CHECKED)
    if number == _CHECKED:
        return None
    one = replace(one, under_way=with_(one.under_way, step.part_of, None))
    return _set_alias(one, replace(step, number=number))


def _resolve(one: One, step: Step) -> Result:
    number = one.target(step)
    if not number:
        return one, NOT_FOUND
    return replace(one, under_way=with_(one.under_way, step.part_of, number)), DONE


def _promote_resolved(one: One, step: Step) -> Result:
    number = dict(one.under_way).get(step.part_of)
    if number is None:
        return None
    one = replace(one, under_way=with_(one.under_way, step.part_of, None))
    return _promote(one, replace(step, number=number))


def _promote(one: One, step: Step) -> Result:
    if not one.is_live(step.number):
        return one, NOT_FOUND
    stages = one.stages
    if step.archive and step.stage in ("Staging", "Production"):
        for other, stage in one.stages:
            if stage == step.stage and other != step.number:
                stages = with_(stages, other, "Archived")
    stages = with_(stages, step.number, None if step.stage == REGISTERED else step.stage)
    aliases = with_(one.aliases, step.alias, step.number) if step.alias else one.aliases
    one = replace(one, stages=stages, aliases=aliases)
    return one, one.view(step.number)


def _set_alias(one: One, step: Step) -> Result:
    if not one.is_live(step.number):
        return one, NOT_FOUND
    one = replace(one, aliases=with_(one.aliases, step.alias, step.number))
    return one, one.view(step.number)


def _delete_alias(one: One, step: Step) -> Result:
    if not one.last or one.model_deleted:
        return one, NOT_FOUND
    return replace(one, aliases=with_(one.aliases, step.alias, None)), DONE


def _set_tag(one: One, step: Step) -> Result:
    live = one.is_live(step.number) if step.number else one.last and not one.model_deleted
    if not live:
        return one, NOT_FOUND
    return replace(one, tags=with_(one.tags, (step.number, step.tag[0]), step.tag[1])), DONE


def _delete(one: One, step: Step) -> Result:
    if not 0 < step.number <= one.last:
        return one, NOT_FOUND
    if one.model_deleted or step.number in one.deleted:
        return one, DONE
    if one.pointing(step.number) or one.stage(step.number) == "Production":
        return one, CONFLICT
    return replace(one, deleted=one.deleted | {step.number}), DONE


def _restore(one: One, step: Step) -> Result:
    if not 0 < step.number <= one.last or one.model_deleted:
        return one, NOT_FOUND
    return replace(one, deleted=one.deleted - {step.number}), DONE


def _delete_model(one: One, step: Step) -> Result:
    return (replace(one, model_deleted=True), DONE) if one.last else (one, NOT_FOUND)


def _restore_model(one: One, step: Step) -> Result:
    return (replace(one, model_deleted=False), DONE) if one.last else (one, NOT_FOUND)


def _get(one: One, step: Step) -> Result:
    number = one.target(step)
    return one, one.view(number) if number else NOT_FOUND


def _versions(one: One, step: Step) -> Result:
    """``archive`` stands for ``include_deleted``."""
    if not one.last or (one.model_deleted and not step.archive):
        return one, NOT_FOUND
    numbers = [n for n in range(one.last, 0, -1) if step.archive or n not in one.deleted]
    return one, tuple(one.view(n) for n in numbers if not step.stage or one.stage(n) == step.stage)


def _describe(one: One, step: Step) -> Result:
    if not one.last:
        return one, NOT_FOUND
    stages = {stage: one.latest(stage) for stage in (REGISTERED, *STAGES)}
    found = tuple(sorted((stage, number) for stage, number in stages.items() if number))
    aliases = tuple(sorted(one.aliases))
    return one, (one.last, one.latest(), aliases, found, one.tags_of(0), one.model_deleted)


def _listed(one: One, step: Step) -> Result:
    """The model's line in the list of all models."""
    if not one.last or one.model_deleted:
        return one, NOT_FOUND
    return _describe(one, step)


def _found(one: One, step: Step) -> Result:
    """The model's versions in a search over all models."""
    if one.model_deleted:
        return one, ()
    return one, tuple(one.view(n) for n in range(one.last, 0, -1) if n not in one.deleted)


STEPS: Mapping[str, Callable[[One, Step], Result]] = {
    "check": _check,
    "commit": _commit,
    "point": _point,
    "resolve": _resolve,
    "promote-resolved": _promote_resolved,
    "promote": _promote,
    "set-alias": _set_alias,
    "delete-alias": _delete_alias,
    "set-tag": _set_tag,
    "delete": _delete,
    "restore": _restore,
    "delete-model": _delete_model,
    "restore-model": _restore_model,
    "get": _get,
    "versions": _versions,
    "model": _describe,
    "listed": _listed,
    "found": _found,
}


def step(one: One, asked: Step, answer: Any) -> One | None:
    result = STEPS[asked.kind](one, asked)
    if result is None:
        return None
    after, expected = result
    return after if answer in (UNKNOWN, expected) else None


REGISTRY = Model(initial=One(), step=step, key=lambda asked: asked.model)
