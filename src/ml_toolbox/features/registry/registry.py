"""``Registry``: what users and the rest of the product call. It joins the parts and decides nothing itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.ids import check_name
from ml_toolbox.domain.models import ModelRef, Stage
from ml_toolbox.features.registry import archives, layout, transitions
from ml_toolbox.features.registry.background import Background
from ml_toolbox.features.registry.blobs import Blobs, ScannedPackage, scan
from ml_toolbox.features.registry.commits import Commits
from ml_toolbox.features.registry.comparison import compare, merged_audit, trace
from ml_toolbox.features.registry.filters import parse_filter
from ml_toolbox.features.registry.heads import Change, Decide, Heads
from ml_toolbox.features.registry.index import Index
from ml_toolbox.features.registry.records import (
    FORMAT,
    Head,
    Note,
    StoredFile,
    VersionRecord,
    digest_of,
    files_of,
    manifest_of,
)
from ml_toolbox.features.registry.resolution import Resolver, is_bare, parse_ref
from ml_toolbox.features.registry.search import Order, check_limit, make_token, page, read_token
from ml_toolbox.features.registry.sources import local_folder
from ml_toolbox.features.registry.values import (
    AuditLine,
    Comparison,
    LineageReport,
    ModelVersion,
    RegisteredModel,
    SearchPage,
    Verification,
    VersionList,
)
from ml_toolbox.packages.manifest import Manifest
from ml_toolbox.ports.lacks import refuse
from ml_toolbox.ports.objects import ObjectStore

DecideVersion = Callable[[Head, str, int], Change | None]
"""``(head, name, number)``: what to change for one version."""


class Registry:
    """Registered models on an object store.

    Any number of registries, threads and processes may work on one store at the same time. Everything that returned is
    durable; what was under way when a process died happened wholly or not at all. A ``ref`` is ``NAME`` (the latest
    version), ``NAME:3``, or ``NAME@ALIAS`` where a stage is also an alias; methods that change a *model* take the bare
    name for the model itself and say so.

    What may be relied on while others write:

    - One model is linearizable. Every method that reads or changes one model (``get``, ``versions``, ``model``, ``promote``,
      aliases, tags, deletion, restoring) acts at one moment between its call and its return, and sees everything that
      returned before it was called, in whichever process. Only what never changes is remembered between calls.
    - ``register`` is up to three such moments: it looks whether the model is deleted, commits the number, sets the alias.
      A registration under way while the model is deleted may thus still commit; it is hidden with the model.
    - An alias or stage whose version is to be *changed* (``promote("m@champion", ...)``) is resolved at one moment, and the
      version found is changed at a later one.
    - ``models`` and ``search`` answer for each model as of one moment during the call, for different models as of
      different ones. ``compare``, ``lineage`` and ``audit`` are several reads: everything that returned before the call is in
      them, and what happens meanwhile may be.

    Args:
        store: the root of the registry. Writing needs conditional create and compare-and-swap.
        actor: who acts, as written into versions and the audit trail.
        clock: times in records; never decides an order.
        cache: folder that keeps downloaded file contents for the next download; ``None`` keeps none.
    """

    def __init__(
        self, store: ObjectStore, *, actor: str, clock: Clock | None = None, cache: Path | None = None
    ) -> None:
        self._store = store
        self._actor = actor
        self._clock = clock or SystemClock()
        self._commits = Commits(store, self._clock)
        self._heads = Heads(store, actor, self._clock)
        self._index = Index(store, self._commits)
        self._blobs = Blobs(store, cache)
        self._resolver = Resolver(store, self._commits, self._heads, self._index)
        self._background = Background("registry-compaction")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for compaction in the background. Nothing is lost without it: the next reader compacts what is missing."""
        self._background.close()

    # Registering

    def register(
        self,
        name: str,
        package: Path | str,
        *,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        alias: str | None = None,
        idempotency_key: str | None = None,
        source: str = "",
    ) -> ModelVersion:
        """Commit a model package as the next version of ``name``; returns once it is durable.

        With an ``idempotency_key``, calling again - after a crash, from another process, at the same time - returns the
        version that the first call made, or finishes what it left. The alias is set after the commit, and set again by
        such a repetition.

        Args:
            package: the folder with ``mltoolbox.json``, or the URI of one.
        Raises:
            Invalid: bad name, tags or alias; a file is not what the manifest says.
            NotFound: no such folder or no manifest in it; the model is deleted.
            Conflict: the idempotency key was used for other files.
            Unsupported: the store has no conditional writes.
        """
        check_name(name, field="name")
        transitions.check_tags(tags or {})
        transitions.check_description(description)
        if alias is not None:
            transitions.check_alias(alias)
        self._require_writable()
        head = self._heads.read(name)
        transitions.require_live(head, name)
        with local_folder(package) as folder:
            scanned = scan(folder)
            self._blobs.upload(scanned)
        make = partial(self._record, name, scanned, description, dict(tags or {}), source)
        if idempotency_key is None:
            record = self._commits.append(name, make, hint=head.last)
        else:
            content = digest_of(scanned.manifest)
            record = self._commits.append_once(name, idempotency_key, content, make, hint=head.last)
        if alias is not None:
            head = self._heads.swap(name, partial(transitions.set_alias, name=name, alias=alias, number=record.number))
        if record.number % layout.FANOUT == 0:
            self._background.run(partial(self._compact_after, name, record.number))
        return self._seen(head, record)

    def _record(
        self,
        name: str,
        package: ScannedPackage,
        description: str,
        tags: dict[str, str],
        source: str,
        number: int,
        mark: str,
    ) -> VersionRecord:
        return VersionRecord(
            format=FORMAT,
            model=name,
            number=number,
            nonce=mark,
            created_at=self._clock.now(),
            created_by=self._actor,
            manifest=package.manifest_text,
            extra_files=package.extra_files,
            description=description,
            tags=tags,
            source=source,
        )

    def _compact_after(self, name: str, number: int) -> None:
        self._index.extend(name, number)
        self._heads.advance(name, number)

    def compact(self, name: str) -> int:
        """Write the index segments that are missing; returns how many. Happens by itself in the background."""
        _, last = self._resolver.existing(name, deleted_too=True)
        written = self._index.compact(name, last)
        self._heads.advance(name, last)
        return written

    # Reading

    def get(self, ref: str | ModelRef) -> ModelVersion:
        """The version that ``ref`` means now. ``NotFound`` when there is none or it is deleted.

        Two small reads by number, alias or stage, whatever the number of versions; the latest needs a few probes more.
        """
        return self._resolver.snapshot(lambda: self._resolver.version(*self._resolver.resolve(ref)))

    def versions(
        self,
        name: str,
        *,
        stage: Stage | str | None = None,
        limit: int | None = None,
        newest_first: bool = True,
        include_deleted: bool = False,
    ) -> VersionList:
        """The versions of a model as of one moment. ``NotFound`` when there is no such model."""
        wanted = Stage.parse(stage) if isinstance(stage, str) else stage

        def read() -> VersionList:
            head, last = self._resolver.existing(name, deleted_too=include_deleted)
            deleted, stage_of = transitions.deleted_runs(head), transitions.stage_table(head)
            numbers: Sequence[int] = range(last, 0, -1) if newest_first else range(1, last + 1)
            if wanted is not None or (deleted and not include_deleted):
                numbers = [
                    number
                    for number in numbers
                    if (include_deleted or number not in deleted) and (wanted is None or stage_of(number) is wanted)
                ]
            return self._resolver.listing(name, head, numbers if limit is None else numbers[: max(0, limit)])

        return self._resolver.snapshot(read)

    def models(self, *, include_deleted: bool = False) -> tuple[RegisteredModel, ...]:
        """Every model, by name. Costs a few small reads for each."""
        found = []
        for name in self._resolver.model_names():
            head, last = self._resolver.moment(name)
            if last and (include_deleted or not head.model_deleted):
                found.append(self._resolver.model(name, head, last))
        return tuple(found)

    def model(self, name: str) -> RegisteredModel:
        """One model, also a deleted one. ``NotFound`` when nothing was ever registered under the name."""
        return self._resolver.model(name, *self._resolver.existing(name, deleted_too=True))

    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that users know
        *,
        order_by: str = "",
        limit: int = 100,
        page_token: str = "",
        include_deleted: bool = False,
    ) -> SearchPage:
        """Versions of all models that match, in order (default: by name, newest first), a page at a time.

        The language is described in ``docs/registry.md``. ``Invalid`` names the character at which a filter goes wrong.
        """
        question, order = parse_filter(filter), Order.parse(order_by)
        asked = (filter, order_by, include_deleted)
        after = read_token(page_token, *asked)
        candidates = (
            candidate
            for name in self._resolver.model_names()
            if question.model_names(name)
            for candidate in self._resolver.snapshot(
                partial(self._resolver.all_of, name, include_deleted=include_deleted)
            )
        )
        found, key = page(candidates, filter_=question, order=order, limit=check_limit(limit), after=after)
        return SearchPage(items=tuple(item.version() for item in found), next_page_token=make_token(key, *asked))

    def compare(self, name: str, first: int | str, second: int | str) -> Comparison:
        """What differs between two versions of a model, each given by number or alias."""
        (left, one), (right, two) = (self._detail(_side(name, side)) for side in (first, second))
        return compare(left, right, (one, two))

    def lineage(self, ref: str | ModelRef) -> LineageReport:
        """Where the version came from, and which other versions are the very same model."""
        version, record = self._detail(ref)
        others = self.versions(version.name, include_deleted=True, newest_first=False)
        return trace(version, manifest_of(record), others)

    def audit(self, name: str) -> tuple[AuditLine, ...]:
        """Everything that was done to the model, oldest first: its registrations and every later change."""
        return merged_audit(
            self.versions(name, include_deleted=True, newest_first=False), self._heads.audit(check_name(name))
        )

    # Changing

    def promote(
        self, ref: str | ModelRef, stage: Stage | str, *, archive_existing: bool = False, alias: str | None = None
    ) -> ModelVersion:
        """Move a version to a stage; with ``archive_existing`` the versions that stood in Staging or Production before go to
        Archived. Stages, alias and audit line change in one step. Already so: nothing changes."""
        wanted = Stage.parse(stage) if isinstance(stage, str) else stage
        if alias is not None:
            transitions.check_alias(alias)
        return self._change(
            ref,
            lambda head, name, number: transitions.promote(
                head, name, number, wanted, archive_existing=archive_existing, alias=alias or ""
            ),
        )

    def set_alias(self, ref: str | ModelRef, alias: str) -> ModelVersion:
        """Point the alias to this version, wherever it pointed before."""
        transitions.check_alias(alias)
        return self._change(ref, lambda head, name, number: transitions.set_alias(head, name, alias, number))

    def delete_alias(self, name: str, alias: str) -> None:
        """Absent: silent."""
        check_name(alias, field="alias")
        self._change_model(name, partial(transitions.delete_alias, name=name, alias=alias))

    def set_tags(self, ref: str | ModelRef, tags: Mapping[str, str | None]) -> None:
        """Set these tags and remove those whose value is ``None``; others stay. A bare name: tags of the model itself."""
        transitions.check_tags(tags)
        parsed = parse_ref(ref)
        if is_bare(parsed):
            self._change_model(parsed.name, partial(transitions.tag_model, name=parsed.name, tags=tags))
        else:
            note = Note(tags=dict(tags))
            self._change(parsed, lambda head, name, number: transitions.annotate(head, name, number, note))

    def describe(self, ref: str | ModelRef, description: str) -> None:
        """Replace the description. A bare name: that of the model itself."""
        transitions.check_description(description)
        parsed = parse_ref(ref)
        if is_bare(parsed):
            self._change_model(parsed.name, partial(transitions.describe_model, name=parsed.name, text=description))
        else:
            note = Note(description=description)
            self._change(parsed, lambda head, name, number: transitions.annotate(head, name, number, note))

    def delete(self, ref: str | ModelRef) -> None:
        """Hide a version, or with a bare name the whole model, until restored; nothing is erased and no number is given
        again. ``Conflict`` while the version is in Production or an alias points to it. Already deleted: silent."""
        parsed = parse_ref(ref)
        if is_bare(parsed):
            self._change_model(parsed.name, transitions.delete_model)
        else:
            self._change_deletion(parsed, transitions.delete_version)

    def restore(self, ref: str | ModelRef) -> None:
        """Undo ``delete``. Not deleted: silent."""
        parsed = parse_ref(ref)
        if is_bare(parsed):
            self._change_model(parsed.name, transitions.restore_model)
        else:
            self._change_deletion(parsed, transitions.restore_version)

    # Files

    def manifest(self, ref: str | ModelRef) -> Manifest:
        """What the package says about itself."""
        return manifest_of(self._detail(ref)[1])

    def files(self, ref: str | ModelRef) -> tuple[StoredFile, ...]:
        """Path, size and sha256 of every file but the manifest."""
        record = self._detail(ref)[1]
        return files_of(record, manifest_of(record))

    def download(self, ref: str | ModelRef, folder: Path) -> Path:
        """The package as a folder, every byte checked against its sha256; whole or not at all. Already there: left alone."""
        return self._blobs.fetch(self._detail(ref)[1], folder)

    def verify(self, ref: str | ModelRef) -> Verification:
        """Read every stored byte again and compare it with what was registered."""
        version, record = self._detail(ref)
        return self._blobs.verify(version.ref, files_of(record, manifest_of(record)))

    def export(self, ref: str | ModelRef, archive: Path) -> Path:
        """One ``.tar.gz`` with the package and what the registry knows of it, for another registry's ``import_``."""
        version, record = self._detail(ref)
        return archives.write(archive, version, lambda folder: self._blobs.fetch(record, folder))

    def import_(self, archive: Path, name: str) -> ModelVersion:
        """Register what ``export`` wrote as the next version of ``name``, with its tags and description. Imported again
        under the same name: the same version, not another one."""
        with archives.opened(archive) as imported:
            return self.register(
                name,
                imported.folder,
                description=imported.description,
                tags=imported.tags,
                source=imported.source,
                idempotency_key=f"import:{imported.sha256}",
            )

    # The one way in and out of a head

    def _detail(self, ref: str | ModelRef) -> tuple[ModelVersion, VersionRecord]:
        def read() -> tuple[ModelVersion, VersionRecord]:
            head, record = self._resolver.resolve(ref)
            return self._resolver.version(head, record), record

        return self._resolver.snapshot(read)

    def _seen(self, head: Head, record: VersionRecord) -> ModelVersion:
        """The version as ``head`` sees it, or, when that head is outdated already, as it is now."""
        heads = iter([head])
        return self._resolver.snapshot(
            lambda: self._resolver.version(next(heads, None) or self._heads.read(record.model), record)
        )

    def _change(self, ref: str | ModelRef, decide: DecideVersion) -> ModelVersion:
        """``ref`` is resolved once; what is done to the version is decided anew on every head until one swap succeeds."""
        self._require_writable()
        parsed = parse_ref(ref)
        _, record = self._resolver.resolve(parsed)
        head = self._heads.swap(parsed.name, lambda head: decide(head, parsed.name, record.number))
        return self._seen(head, record)

    def _change_deletion(self, ref: ModelRef, decide: DecideVersion) -> None:
        """Like ``_change``, for versions that may be deleted."""
        self._require_writable()
        number = self._resolver.number(ref, *self._resolver.at(ref))
        self._heads.swap(ref.name, lambda head: decide(head, ref.name, number))

    def _change_model(self, name: str, decide: Decide) -> None:
        self._require_writable()
        self._resolver.existing(name, deleted_too=True)
        self._heads.swap(name, decide)

    def _require_writable(self) -> None:
        for capability in ("conditional-create", "compare-and-swap"):
            if capability in self._store.lacks:
                refuse(self._store.lacks, capability, who=f"the registry at {self._store.uri}")


def _side(name: str, side: int | str) -> ModelRef:
    """One side of a comparison: ``3``, ``"3"``, or ``"champion"``."""
    text = str(side)
    return ModelRef.parse(f"{name}:{text}" if re.fullmatch(r"v?\d+", text) else f"{name}@{text.removeprefix('@')}")
