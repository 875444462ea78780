"""What may change in a head, as pure functions: head in, change out. ``None``: it already is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches

from msgspec.structs import replace

from ml_toolbox.base.errors import Conflict, Invalid, NotFound
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.models import Stage
from ml_toolbox.features.registry.heads import Change, merge_notes
from ml_toolbox.features.registry.records import Head, Note
from ml_toolbox.features.registry.runs import Runs

LATEST = "latest"
_RESERVED_ALIASES = {LATEST, *(stage.value.lower() for stage in Stage)}
_MAX_TAG_KEY, _MAX_TAG_VALUE, _MAX_DESCRIPTION = 256, 4_096, 16_384
"""Characters. Notes travel with every swap of the head until they are spilled, so they stay short."""


def stage_of(head: Head, number: int) -> Stage:
    for stage, runs in head.stages.items():
        if number in Runs.parse(runs):
            return Stage(stage)
    return Stage.REGISTERED


def stage_table(head: Head) -> Callable[[int], Stage]:
    """Like ``stage_of`` for many numbers of one head."""
    table = [(Stage(stage), Runs.parse(runs)) for stage, runs in head.stages.items()]

    def find(number: int) -> Stage:
        for stage, runs in table:
            if number in runs:
                return stage
        return Stage.REGISTERED

    return find


def deleted_runs(head: Head) -> Runs:
    return Runs.parse(head.deleted)


def latest_in(head: Head, stage: Stage, last: int) -> int:
    """The highest version in ``stage`` that is not deleted; 0 when there is none. ``last``: the highest of all, needed only
    for ``registered``, which is where every version is that the head says nothing of."""
    deleted = deleted_runs(head)
    if stage is not Stage.REGISTERED:
        numbers: Iterator[int] = Runs.parse(head.stages.get(stage.value, "")).descending()
        return next((number for number in numbers if number not in deleted), 0)
    find = stage_table(head)
    below = range(last, 0, -1)
    return next((number for number in below if number not in deleted and find(number) is stage), 0)


def alias_target(head: Head, name: str, alias: str) -> int:
    """``NotFound`` with the nearest aliases."""
    if alias not in head.aliases:
        near = get_close_matches(alias, head.aliases)
        known = ", ".join(sorted(head.aliases)) or "none"
        hint = f"did you mean {' or '.join(near)}?" if near else f"aliases of {name!r}: {known}"
        raise NotFound(f"model {name!r} has no alias {alias!r}", hint=hint, resource=f"{name}@{alias}")
    return head.aliases[alias]


def require_live(head: Head, name: str, number: int = 0) -> None:
    """``NotFound`` when the model, or this version of it, is deleted."""
    if head.model_deleted:
        raise NotFound(f"model {name!r} is deleted", hint=f"mltoolbox models restore {name}", resource=name)
    if number and number in deleted_runs(head):
        ref = f"{name}:{number}"
        raise NotFound(f"{ref} is deleted", hint=f"mltoolbox models restore {ref}", resource=ref)


def promote(
    head: Head, name: str, number: int, stage: Stage, *, archive_existing: bool = False, alias: str = ""
) -> Change | None:
    require_live(head, name, number)
    before = stage_of(head, number)
    stages = {key: Runs.parse(runs) for key, runs in head.stages.items()}
    retired: list[int] = []
    if archive_existing and stage in (Stage.STAGING, Stage.PRODUCTION):
        retired = [other for other in stages.get(stage.value, Runs()) if other != number]
    for other in retired:
        _move(stages, other, Stage.ARCHIVED)
    _move(stages, number, stage)
    aliases = {**head.aliases, alias: number} if alias else head.aliases
    if before is stage and not retired and aliases == head.aliases:
        return None
    detail: dict[str, object] = {"from": before.value, "to": stage.value}
    if retired:
        detail["archived"] = retired
    if alias:
        detail["alias"] = alias
    written = {key: str(runs) for key, runs in stages.items() if runs}
    return Change(head=replace(head, stages=written, aliases=aliases), action="promote", version=number, detail=detail)


def _move(stages: dict[str, Runs], number: int, stage: Stage) -> None:
    for key, runs in stages.items():
        stages[key] = runs.removing(number)
    if stage is not Stage.REGISTERED:
        stages[stage.value] = stages.get(stage.value, Runs()).adding(number)


def check_alias(alias: str) -> str:
    check_name(alias, field="alias")
    if alias.lower() in _RESERVED_ALIASES:
        raise Invalid(
            f"alias: {alias!r} always means something already",
            hint="stages and 'latest' resolve by themselves; choose another word",
            field="alias",
        )
    return alias


def set_alias(head: Head, name: str, alias: str, number: int) -> Change | None:
    require_live(head, name, number)
    if head.aliases.get(alias) == number:
        return None
    detail: dict[str, object] = {"alias": alias}
    if alias in head.aliases:
        detail["from"] = head.aliases[alias]
    aliases = {**head.aliases, alias: number}
    return Change(head=replace(head, aliases=aliases), action="set-alias", version=number, detail=detail)


def delete_alias(head: Head, name: str, alias: str) -> Change | None:
    require_live(head, name)
    if alias not in head.aliases:
        return None
    aliases = {key: value for key, value in head.aliases.items() if key != alias}
    return Change(
        head=replace(head, aliases=aliases), action="delete-alias", version=head.aliases[alias], detail={"alias": alias}
    )


def check_tags(tags: Mapping[str, str | None]) -> None:
    for key, value in tags.items():
        if not isinstance(key, str) or not 0 < len(key) <= _MAX_TAG_KEY:
            raise Invalid(f"tags: {key!r:.80} is not a key of 1 to {_MAX_TAG_KEY} characters", field="tags")
        if value is not None and (not isinstance(value, str) or len(value) > _MAX_TAG_VALUE):
            raise Invalid(
                f"tags.{key}: the value must be a string of at most {_MAX_TAG_VALUE} characters",
                hint="tags are for searching; long texts belong into the description or the package's metadata",
                field=f"tags.{key}",
            )


def check_description(text: str) -> str:
    if not isinstance(text, str) or len(text) > _MAX_DESCRIPTION:
        raise Invalid(f"description: must be a string of at most {_MAX_DESCRIPTION} characters", field="description")
    return text


def tag_model(head: Head, name: str, tags: Mapping[str, str | None]) -> Change | None:
    require_live(head, name)
    merged = apply_tags(head.tags, tags)
    if merged == head.tags:
        return None
    return Change(head=replace(head, tags=merged), action="set-tags", detail={"tags": dict(tags)})


def describe_model(head: Head, name: str, text: str) -> Change | None:
    require_live(head, name)
    if head.description == text:
        return None
    return Change(head=replace(head, description=text), action="describe", detail={"description": text})


def annotate(head: Head, name: str, number: int, note: Note) -> Change | None:
    require_live(head, name, number)
    merged = merge_notes(head.notes.get(number, Note()), note)
    if head.notes.get(number) == merged:
        return None
    detail: dict[str, object] = {"tags": note.tags} if note.tags else {}
    if note.description is not None:
        detail["description"] = note.description
    action = "describe" if note.description is not None else "set-tags"
    notes = {**head.notes, number: merged}
    return Change(head=replace(head, notes=notes), action=action, version=number, detail=detail)


def apply_tags(tags: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged: dict[str, str | None] = {**tags, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def delete_version(head: Head, name: str, number: int) -> Change | None:
    if head.model_deleted or number in deleted_runs(head):
        return None
    pointing = sorted(alias for alias, target in head.aliases.items() if target == number)
    if pointing or stage_of(head, number) is Stage.PRODUCTION:
        why = f"alias {pointing[0]!r} points to it" if pointing else "it is in Production"
        raise Conflict(
            f"{name}:{number} cannot be deleted: {why}",
            hint="move the alias, or promote the version to Archived, first",
            resource=f"{name}:{number}",
        )
    runs = deleted_runs(head).adding(number)
    return Change(head=replace(head, deleted=str(runs)), action="delete", version=number)


def restore_version(head: Head, name: str, number: int) -> Change | None:
    require_live(head, name)
    runs = deleted_runs(head)
    if number not in runs:
        return None
    return Change(head=replace(head, deleted=str(runs.removing(number))), action="restore", version=number)


def delete_model(head: Head) -> Change | None:
    return None if head.model_deleted else Change(head=replace(head, model_deleted=True), action="delete")


def restore_model(head: Head) -> Change | None:
    return Change(head=replace(head, model_deleted=False), action="restore") if head.model_deleted else None
