"""What a client does: operations drawn from a seed, run on a registry, recorded with what came back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Conflict, NotFound, ToolboxError, Unavailable
from ml_toolbox.features.registry import ModelVersion, RegisteredModel, Registry
from ml_toolbox.testing.linearizability import UNKNOWN, Operation
from tests.linearizability.model import CONFLICT, DONE, NOT_FOUND, REGISTERED, STAGES, Step

CLIENTS, OPERATIONS = 4, 50
MODELS = ("ant", "bee", "cat")
ALIASES = ("champion", "challenger")
WEIGHTS = {
    "register": 18,
    "get": 22,
    "versions": 7,
    "model": 5,
    "models": 2,
    "search": 2,
    "promote": 13,
    "promote-resolved": 3,
    "set-alias": 8,
    "delete-alias": 3,
    "set-tag": 8,
    "delete": 6,
    "restore": 3,
    "delete-model": 1,
    "restore-model": 3,
}

Now = Callable[[], float]
Log = Callable[[str, list[Operation]], None]
"""``(operation, steps)``: told before the call, with no outcome, and again after it."""


def plan(seed: int, client: int) -> Iterator[Step]:
    """The operations of one client. Numbers grow with the history, so that most of them exist by then, and some not."""
    generator = random.Random(f"{seed}/{client}")
    for turn in range(OPERATIONS):
        kind = generator.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        asked = Step(kind, generator.choice(MODELS), part_of=f"{client}.{turn}")
        expected = 1 + turn * CLIENTS * WEIGHTS["register"] // (len(MODELS) * sum(WEIGHTS.values()))
        number = generator.randint(max(1, expected - 6), expected)
        yield _with_arguments(generator, asked, number)


def _with_arguments(generator: random.Random, asked: Step, number: int) -> Step:
    alias, stage = generator.choice(ALIASES), generator.choice((REGISTERED, *STAGES))
    chance = generator.random()
    if asked.kind == "register":
        key = f"key-{generator.randint(1, 6)}" if chance < 0.25 else ""
        return replace(asked, mark=asked.part_of, key=key, alias=alias if chance > 0.8 else "")
    if asked.kind == "get":
        references = [{"number": number}, {"alias": alias}, {"stage": stage}, {}]
        return replace(asked, **generator.choice(references))  # type: ignore[arg-type]
    if asked.kind == "versions":
        return replace(asked, stage=stage if chance < 0.4 else "", archive=chance > 0.6)
    if asked.kind == "promote":
        stage = generator.choice((*STAGES, "Production"))
        return replace(asked, number=number, stage=stage, archive=chance < 0.7, alias=alias if chance > 0.6 else "")
    if asked.kind == "promote-resolved":
        return replace(asked, alias=alias, stage=generator.choice(STAGES), archive=chance < 0.5)
    if asked.kind == "set-alias":
        return replace(asked, alias=alias, number=number)
    if asked.kind == "delete-alias":
        return replace(asked, alias=alias)
    if asked.kind == "set-tag":
        value = asked.part_of if chance < 0.8 else None
        return replace(asked, number=number if chance > 0.2 else 0, tag=(generator.choice("xy"), value))
    if asked.kind in ("delete", "restore"):
        return replace(asked, number=number)
    return asked


class Client:
    """One client: its own registry, as another process would have."""

    def __init__(self, name: int, registry: Registry, package: Path, now: Now, log: Log) -> None:
        self._name = name
        self._registry = registry
        self._package = package
        self._now = now
        self._log = log

    def run(self, seed: int) -> None:
        for asked in plan(seed, self._name):
            self.perform(asked)

    def perform(self, asked: Step) -> None:
        called = self._now()
        self._log(asked.part_of, [self._open(step, called) for step in steps_of(asked, None)])
        answer: Any
        try:
            answer = getattr(self, f"_{asked.kind.replace('-', '_')}")(asked)
        except NotFound:
            answer = NOT_FOUND
        except Conflict:
            answer = CONFLICT
        except Unavailable:
            # The one error that says nothing about what happened: the operation stays open for ever.
            answer = UNKNOWN
        except ToolboxError as error:
            answer = error.code
        returned = self._now()
        if answer != UNKNOWN:
            self._log(asked.part_of, [
                self._open(step, called)
                if output == UNKNOWN
                else Operation(client=self._name, input=step, output=output, called=called, returned=returned)
                for step, output in steps_of(asked, answer).items()
            ])  # fmt: skip

    def _open(self, step: Step, called: float) -> Operation:
        return Operation(client=self._name, input=step, called=called)

    def _register(self, asked: Step) -> Any:
        version = self._registry.register(
            asked.model,
            self._package,
            description=asked.mark,
            alias=asked.alias or None,
            idempotency_key=asked.key or None,
        )
        return view(version)

    def _promote(self, asked: Step) -> Any:
        ref = f"{asked.model}:{asked.number}"
        return view(self._registry.promote(ref, asked.stage, archive_existing=asked.archive, alias=asked.alias or None))

    def _promote_resolved(self, asked: Step) -> Any:
        ref = f"{asked.model}@{asked.alias}"
        return view(self._registry.promote(ref, asked.stage, archive_existing=asked.archive))

    def _set_alias(self, asked: Step) -> Any:
        return view(self._registry.set_alias(f"{asked.model}:{asked.number}", asked.alias))

    def _delete_alias(self, asked: Step) -> Any:
        self._registry.delete_alias(asked.model, asked.alias)
        return DONE

    def _set_tag(self, asked: Step) -> Any:
        self._registry.set_tags(reference(asked), {asked.tag[0]: asked.tag[1]})
        return DONE

    def _delete(self, asked: Step) -> Any:
        self._registry.delete(reference(asked))
        return DONE

    def _restore(self, asked: Step) -> Any:
        self._registry.restore(reference(asked))
        return DONE

    _delete_model, _restore_model = _delete, _restore

    def _get(self, asked: Step) -> Any:
        return view(self._registry.get(reference(asked)))

    def _versions(self, asked: Step) -> Any:
        found = self._registry.versions(asked.model, stage=asked.stage or None, include_deleted=asked.archive)
        return tuple(view(version) for version in found)

    def _model(self, asked: Step) -> Any:
        return describe(self._registry.model(asked.model))

    def _models(self, asked: Step) -> Any:
        return {model.name: describe(model) for model in self._registry.models()}

    def _search(self, asked: Step) -> Any:
        found: dict[str, Any] = {}
        for version in self._registry.search(limit=1_000).items:
            found[version.name] = (*found.get(version.name, ()), view(version))
        return found


def reference(asked: Step) -> str:
    if asked.number:
        return f"{asked.model}:{asked.number}"
    pointer = asked.alias or asked.stage
    return f"{asked.model}@{pointer}" if pointer else asked.model


def steps_of(asked: Step, answer: Any) -> dict[Step, Any]:
    """The steps of an operation and what each answered; ``answer=None``: nothing is known yet. An unknown step may have
    happened, or may never."""
    if asked.kind == "register":
        return _registration(asked, answer)
    if asked.kind == "promote-resolved":
        resolve = Step("resolve", asked.model, alias=asked.alias, part_of=asked.part_of)
        promote = replace(asked, alias="")
        if answer in (None, NOT_FOUND):
            # Nothing to resolve, or the version was deleted after that: the two cannot be told apart, and change nothing.
            return {resolve: UNKNOWN, promote: UNKNOWN} if answer is None else {}
        return {resolve: DONE, promote: answer}
    if asked.kind in ("models", "search"):
        # Each model's part has its own moment within the call.
        kind, absent = ("listed", NOT_FOUND) if asked.kind == "models" else ("found", ())
        if answer is None:
            return {}
        # An error is nobody's answer: that of no model.
        return {Step(kind, name): answer.get(name, absent) if isinstance(answer, dict) else answer for name in MODELS}
    return {asked: UNKNOWN if answer is None else answer}


def _registration(asked: Step, answer: Any) -> dict[Step, Any]:
    check = Step("check", asked.model, part_of=asked.part_of)
    commit = replace(asked, kind="commit")
    point = Step("point", asked.model, alias=asked.alias, part_of=asked.part_of)
    if answer is None:
        return {check: UNKNOWN, commit: UNKNOWN, **({point: UNKNOWN} if asked.alias else {})}
    if answer == NOT_FOUND:
        # With an alias this may also come from the last step, the version being committed, and the alias not set.
        return {check: UNKNOWN, commit: UNKNOWN} if asked.alias else {check: NOT_FOUND}
    return {check: DONE, commit: (answer[0], answer[1]), **({point: answer} if asked.alias else {})}


def view(version: ModelVersion) -> tuple[Any, ...]:
    tags = tuple(sorted(version.tags.items()))
    return (version.number, version.description, version.stage.value, version.aliases, tags, version.deleted)


def describe(model: RegisteredModel) -> tuple[Any, ...]:
    aliases, stages = tuple(sorted(model.aliases.items())), tuple(sorted(model.stages.items()))
    tags = tuple(sorted(model.tags.items()))
    return (model.versions, model.latest, aliases, stages, tags, model.deleted)
