"""From a reference to a version, and from stored records to the values that users see. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, ToolboxError
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.models import ModelRef, Stage
from ml_toolbox.features.registry import layout, transitions
from ml_toolbox.features.registry.commits import Commits
from ml_toolbox.features.registry.heads import Heads
from ml_toolbox.features.registry.index import Index
from ml_toolbox.features.registry.records import Head, Note, VersionRecord, summarise
from ml_toolbox.features.registry.search import Candidate
from ml_toolbox.features.registry.values import ModelVersion, RegisteredModel, VersionList
from ml_toolbox.ports.objects import ObjectStore

T = TypeVar("T")
_SNAPSHOT_ATTEMPTS = 10
_MOMENT_ATTEMPTS = 100
"""A guess: each asks for a registration and a change of the head within two requests, again and again."""
_BY_NUMBER = {transitions.LATEST, Stage.REGISTERED.value}
"""What a reference may say instead of an alias that the highest number decides."""
_NOTHING = Note()


def parse_ref(ref: str | ModelRef) -> ModelRef:
    return ModelRef.parse(ref) if isinstance(ref, str) else ref


def is_bare(ref: ModelRef) -> bool:
    """A name without version and alias."""
    return ref.version is None and ref.alias is None


class Resolver:
    """Answers are as of one moment: what the head says of stages, aliases, notes and deletions, and which versions exist."""

    def __init__(self, store: ObjectStore, commits: Commits, heads: Heads, index: Index) -> None:
        self._store = store
        self._commits = commits
        self._heads = heads
        self._index = index

    def snapshot(self, read: Callable[[], T]) -> T:
        """``read``, again when a swap replaced an object between reading the head and reading what it names."""
        for _ in range(_SNAPSHOT_ATTEMPTS - 1):
            try:
                return read()
            except _Replaced:
                continue
        return read()

    def model_names(self) -> list[str]:
        prefixes = self._store.list_level(layout.MODELS).prefixes
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)

    def moment(self, name: str) -> tuple[Head, int]:
        """A head and the highest number as they stood together at one moment during the call.

        They are two objects, read one after the other. They belong together when no number was given since before the head
        was read, or when the head is still the same after the highest number was seen; both are looked for until one holds.
        ``Conflict`` when others kept changing both.
        """
        check_name(name, field="name")
        known = self._commits.known(name)
        head = self._heads.read(name)
        for _ in range(_MOMENT_ATTEMPTS):
            seen_before = max(known, head.last)
            last = self._commits.last(name, head.last)
            if last == seen_before:
                return head, last
            again = self._heads.read(name)
            if again.nonce == head.nonce:
                return head, last
            known, head = last, again
        raise Conflict(
            f"model {name!r} was changed and registered by others {_MOMENT_ATTEMPTS} times without a gap",
            hint="try again; if it persists, look for a program that changes this model in a loop",
            resource=name,
        )

    def existing(self, name: str, *, deleted_too: bool = False) -> tuple[Head, int]:
        """Head and highest number, at one moment, of a model that has versions; ``NotFound`` otherwise."""
        head, last = self.moment(name)
        if not last:
            raise _no_model(name)
        if not deleted_too:
            transitions.require_live(head, name)
        return head, last

    def at(self, ref: ModelRef) -> tuple[Head, int]:
        """A head to look the reference up in, and the highest number at that moment when it depends on it (else 0)."""
        if ref.version is not None:
            # The commit before the head: it then existed at the head's moment, and the head knows whether it was deleted.
            self._commits.read(ref.name, ref.version)
        elif ref.alias is None or ref.alias.lower() in _BY_NUMBER:
            return self.moment(ref.name)
        return self._heads.read(ref.name), 0

    def number(self, ref: ModelRef, head: Head, last: int) -> int:
        """The number that the reference means as of what ``at`` found, deleted or not. ``NotFound`` when there is none."""
        name = ref.name
        if ref.version is not None:
            return ref.version
        if ref.alias is not None and ref.alias.lower() != transitions.LATEST:
            return self._by_alias(name, ref.alias, head, last)
        if not last:
            raise _no_model(name)
        transitions.require_live(head, name)
        number = latest(head, last)
        if not number:
            raise NotFound(f"every version of model {name!r} is deleted", hint="restore one", resource=name)
        return number

    def _by_alias(self, name: str, alias: str, head: Head, last: int) -> int:
        try:
            stage = Stage.parse(alias)
        except Invalid:
            return transitions.alias_target(head, name, alias)
        number = transitions.latest_in(head, stage, last)
        if not number:
            raise NotFound(
                f"model {name!r} has no version in {stage.value}",
                hint=f"mltoolbox models promote {name}:VERSION {stage.value}",
                resource=f"{name}@{alias}",
            )
        return number

    def resolve(self, ref: str | ModelRef) -> tuple[Head, VersionRecord]:
        """The live version that ``ref`` means now, with the head it was found by."""
        parsed = parse_ref(ref)
        head, last = self.at(parsed)
        transitions.require_live(head, parsed.name)
        number = self.number(parsed, head, last)
        transitions.require_live(head, parsed.name, number)
        return head, self._commits.read(parsed.name, number)

    def version(self, head: Head, record: VersionRecord) -> ModelVersion:
        """``record`` as ``head`` sees it."""
        try:
            note = self._heads.note(record.model, head, record.number)
        except NotFound as error:
            raise _Replaced(str(error)) from error
        return Candidate(
            name=record.model,
            number=record.number,
            stage=transitions.stage_of(head, record.number),
            aliases=_aliases_of(head).get(record.number, ()),
            note=note,
            deleted=head.model_deleted or record.number in transitions.deleted_runs(head),
            row=summarise(record),
        ).version()

    def candidates(self, name: str, head: Head, first: int, last: int) -> Callable[[int], Candidate]:
        """Versions ``first`` to ``last`` by number, each made when asked for."""
        rows = self._index.rows(name, first, last)
        try:
            notes = self._heads.notes(name, head) if head.notes or head.note_buckets else {}
        except NotFound as error:
            raise _Replaced(str(error)) from error
        stage_of, aliases, deleted = transitions.stage_table(head), _aliases_of(head), transitions.deleted_runs(head)

        def build(number: int) -> Candidate:
            return Candidate(
                name=name,
                number=number,
                stage=stage_of(number),
                aliases=aliases.get(number, ()),
                note=notes.get(number, _NOTHING),
                deleted=head.model_deleted or number in deleted,
                row=rows[number - first],
            )

        return build

    def listing(self, name: str, head: Head, numbers: Sequence[int]) -> VersionList:
        """These versions, in this order."""
        if not numbers:
            return VersionList((), lambda number: self.version(*self.resolve(ModelRef(name, version=number))))
        ends = (numbers[0], numbers[-1])
        candidates = self.candidates(name, head, min(ends), max(ends))
        return VersionList(numbers, lambda number: candidates(number).version())

    def all_of(self, name: str, *, include_deleted: bool) -> list[Candidate]:
        """Every version of a model; none when it is deleted or was never registered."""
        head, last = self.moment(name)
        if not last or (head.model_deleted and not include_deleted):
            return []
        build, deleted = self.candidates(name, head, 1, last), transitions.deleted_runs(head)
        return [build(number) for number in range(1, last + 1) if include_deleted or number not in deleted]

    def model(self, name: str, head: Head, last: int) -> RegisteredModel:
        stages = {stage.value: transitions.latest_in(head, stage, last) for stage in Stage}
        return RegisteredModel(
            name=name,
            latest=latest(head, last),
            versions=last,
            description=head.description,
            tags=head.tags,
            aliases=dict(sorted(head.aliases.items())),
            stages={stage: number for stage, number in stages.items() if number},
            deleted=head.model_deleted,
        )


class _Replaced(ToolboxError):
    """An object that a head names is gone: a newer head replaced it. Read again."""

    code = "replaced"
    retryable = True


def _no_model(name: str) -> NotFound:
    return NotFound(
        f"there is no model {name!r}", hint="mltoolbox models list shows the registered ones", resource=name
    )


def latest(head: Head, last: int) -> int:
    """The highest number that is not deleted; 0 when there is none."""
    deleted = transitions.deleted_runs(head)
    return next((number for number in range(last, 0, -1) if number not in deleted), 0)


def _aliases_of(head: Head) -> dict[int, tuple[str, ...]]:
    aliases: dict[int, tuple[str, ...]] = {}
    for alias, number in sorted(head.aliases.items()):
        aliases[number] = (*aliases.get(number, ()), alias)
    return aliases
