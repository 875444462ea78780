"""The one place where settings become providers, stores and features."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_toolbox.app.providers import DEFAULT_BACKEND, Installed
from ml_toolbox.app.settings import Settings, default_home, install_id, load_settings, shared_install_id
from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Bug, NotFound, Unavailable
from ml_toolbox.base.ids import digest, new_ulid
from ml_toolbox.ports.provider import BackendInfo, Provider

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ml_toolbox.domain.endpoints import EndpointSpec
    from ml_toolbox.domain.jobs import JobSpec
    from ml_toolbox.domain.offers import Plan
    from ml_toolbox.engine.agent import Agent
    from ml_toolbox.engine.collection import Collector, StoreWithBooks
    from ml_toolbox.engine.pacing import Pacer
    from ml_toolbox.features.costs import Budgets, Costs, Outlook, Reservation
    from ml_toolbox.features.data import Datasets
    from ml_toolbox.features.operations import Events
    from ml_toolbox.features.registry import Registry
    from ml_toolbox.features.serving import ResolvedModel, Serving
    from ml_toolbox.features.training import JobRecord, ResolvedInput, Training
    from ml_toolbox.ports.endpoints import EndpointBackend
    from ml_toolbox.ports.jobs import JobBackend
    from ml_toolbox.ports.objects import ObjectStore


class Toolbox:
    """One installation: its home folder, settings, providers, and the features standing on them.

    Cheap to make: every part is built on first use. Safe to use from several processes on one home at once.
    """

    def __init__(
        self, home: Path | str | None = None, *, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        self.home = Path(home).expanduser().absolute() if home is not None else default_home()
        self._given_settings = settings
        self.clock: Clock = clock or SystemClock()
        self.installed = Installed(
            self.home,
            lambda: self.settings.providers,
            lambda: self.install,
            known_places=lambda: self.state.places() if self.shares_state else None,
        )
        """Providers and their backends."""

    @cached_property
    def settings(self) -> Settings:
        return self._given_settings or load_settings(self.home)

    @cached_property
    def install(self) -> str:
        """Id of this installation; part of every resource name and owner tag. Made on first use, then constant."""
        if not self.shares_state:
            return install_id(self.home)
        # Whoever shares the rows shares the resources that they name.
        return shared_install_id(self.home, self.state_shown, lambda own: self.state.remembered("install", own))

    @cached_property
    def actor(self) -> str:
        """Who is acting, for audit lines: ``$MLTOOLBOX_ACTOR``, or the login name."""
        import getpass

        configured = os.environ.get("MLTOOLBOX_ACTOR")
        if configured:
            return configured
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # a container user without a passwd entry
            return f"uid-{os.getuid()}"

    @property
    def state_place(self) -> str:
        """Path or URL of the control plane's memory."""
        return self.settings.state or str(self.home / "state.db")

    @property
    def state_shown(self) -> str:
        """The same to be printed: without password and options."""
        if "://" not in self.state_place:
            return self.state_place
        from urllib.parse import urlsplit

        parts = urlsplit(self.state_place)
        user = f"{parts.username}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"

    @property
    def shares_state(self) -> bool:
        """Whether other machines may work on the same rows."""
        return "://" in self.state_place

    @property
    def has_state(self) -> bool:
        """Whether anything can have been written yet; asked before a command that only looks makes a database."""
        return self.shares_state or Path(self.state_place).exists()

    @cached_property
    def state(self) -> StoreWithBooks:
        """The control plane's memory: rows, histories, ledger and budgets."""
        from ml_toolbox.state.opening import open_store

        return open_store(self.state_place, clock=self.clock)

    @cached_property
    def collector(self) -> Collector:
        """Compares what exists, everywhere we ever were, with what is known."""
        from ml_toolbox.engine.collection import Collector
        from ml_toolbox.engine.owners import this_owner

        kinds = (self.training.workflow, self.serving.workflow)
        return Collector(self.state, kinds, owner=this_owner(), pacer=self.pacer)

    @cached_property
    def pacer(self) -> Pacer:
        """How fast each place may be called, whoever of this process calls it."""
        from ml_toolbox.engine.pacing import Pacer

        return Pacer(self.clock)

    def agent(self, executor: Executor | None = None) -> Agent:
        """The loop that goes on by itself, over every kind of work."""
        from ml_toolbox.engine.agent import Agent
        from ml_toolbox.engine.runner import Runner

        workflows = (self.training.workflow, self.serving.workflow)
        runner = Runner(self.state, workflows, places=self.installed, pacer=self.pacer)
        return Agent(self.state, runner, workflows, self.collector, executor=executor)

    @cached_property
    def budgets(self) -> Budgets:
        """Limits on money and numbers."""
        from ml_toolbox.features.costs import Budgets

        return Budgets(
            self.state,
            overdrawn=lambda limits: self.agent().overdrawn(limits),
            enforce=self._enforce,
            now=self.state.now,
        )

    def _enforce(self) -> int:
        """Tell what is no longer paid for to stop, and see to it at once."""
        stopped = self.agent().enforce_budgets()
        self.training.tick()
        self.serving.tick()
        return stopped

    @cached_property
    def costs(self) -> Costs:
        """What was spent, from the ledger."""
        from ml_toolbox.features.costs import Costs

        return Costs(self.state)

    @cached_property
    def events(self) -> Events:
        """Everything that happened, as a stream."""
        from ml_toolbox.features.operations import Events

        return Events(self.state)

    @cached_property
    def registry_store(self) -> ObjectStore:
        from ml_toolbox.objects import open_store

        return open_store(self.settings.registry)

    @cached_property
    def data_store(self) -> ObjectStore:
        from ml_toolbox.objects import open_store

        return open_store(self.settings.data)

    @cached_property
    def registry(self) -> Registry:
        """The registered models."""
        from ml_toolbox.features.registry import Registry

        return Registry(self.registry_store, actor=self.actor, clock=self.clock, cache=self.home / "cache" / "models")

    @cached_property
    def datasets(self) -> Datasets:
        """The versioned datasets."""
        from ml_toolbox.features.data import Datasets

        return Datasets(self.data_store, clock=self.clock)

    @cached_property
    def training(self) -> Training:
        """Jobs on any backend."""
        from ml_toolbox.features.training import Training

        return Training(
            self.state,
            self.job_backend,
            home=self.home,
            install=self.install,
            actor=self.actor,
            places=self.installed,
            pacer=self.pacer,
            register=self._register_result,
            resolve_input=self._dataset_files,
            clock=self.clock,
        )

    @cached_property
    def serving(self) -> Serving:
        """Endpoints on any backend."""
        from ml_toolbox.features.serving import Serving

        return Serving(
            self.state,
            self.endpoint_backend,
            resolve=self.model_files,
            planner=self.plan_endpoint,
            install=self.install,
            actor=self.actor,
            places=self.installed,
            pacer=self.pacer,
            clock=self.clock,
        )

    def adopted(self) -> Toolbox:
        """Finish what a killed command left half-done (a job's model to register, a deletion), then return ``self``.

        Without any job yet there is nothing to adopt, and the database is not even opened.
        """
        if self.has_state:
            self.training.tick()
            self.serving.tick()
            self._compare_sometimes()
        return self

    def _compare_sometimes(self) -> None:
        """Collect strays in passing, when no command has for a while: on one machine nobody else does."""
        from ml_toolbox.engine.collection import EVERY_S

        stamp = self.home / "last-collection"
        try:
            if self.clock.now() - stamp.stat().st_mtime < EVERY_S:
                return
        except FileNotFoundError:
            pass
        self.home.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        self.agent().enforce_budgets()
        self.collector.collect()

    # -- backends -----------------------------------------------------------------------------------------------------

    @property
    def providers(self) -> Mapping[str, Provider]:
        """All installed providers by name."""
        return self.installed.providers

    def backends(self) -> dict[str, tuple[Provider, BackendInfo]]:
        """Every backend of every provider by name. Data only: no credentials, SDK or network."""
        return self.installed.backends()

    def job_backend(self, name: str = DEFAULT_BACKEND) -> JobBackend:
        """The backend that runs jobs there. ``Invalid`` for an unknown name, ``NotFound`` when it runs no jobs."""
        return self.installed.job_backend(name)

    def endpoint_backend(self, name: str = DEFAULT_BACKEND) -> EndpointBackend:
        """The backend that serves models there. ``Invalid`` for an unknown name, ``NotFound`` when it serves none."""
        return self.installed.endpoint_backend(name)

    # -- plans and files ----------------------------------------------------------------------------------------------

    def plan(self, spec: JobSpec, backend: str = DEFAULT_BACKEND) -> Plan:
        """What ``train`` would do and cost, checked like the real thing. Launches and writes nothing, needs no credentials."""
        from dataclasses import replace

        from ml_toolbox.features.costs import Reservation
        from ml_toolbox.features.placement import plan_job
        from ml_toolbox.features.training import payers, prepare, snapshot, worst
        from ml_toolbox.ports.jobs import Owner

        ready = prepare(spec, self._dataset_version)
        measured = snapshot.measure(Path(ready.source), without=self.home)
        others = [self.job_backend(name) for name, (_, info) in self.backends().items() if info.jobs is not None]
        chosen = self.job_backend(backend)
        made = plan_job(ready, chosen, [o for o in others if o.name != backend], install=self.install, worst=worst)
        frozen = f"a frozen copy of {ready.source}: {measured.files} files, {measured.size / 1024:.1f} KiB"
        request = chosen.build(ready, Owner(install=self.install, row="planned", attempt=1))
        most = worst(ready, chosen, request)
        reserved = Reservation(scopes=payers(ready, backend, self.actor), hourly=most.hourly, seconds=most.seconds)
        said = self._outlook(reserved)
        waits = tuple(f"it would wait in line: {reason}" for reason in said.waits)
        return replace(
            made,
            creates=(frozen, *made.creates, *_reserves(reserved, said)),
            warnings=(*made.warnings, *waits, *said.warnings),
        )

    def _outlook(self, reservation: Reservation) -> Outlook:
        """What the limits say to it. Raises ``BudgetExceeded``, with the arithmetic, when one would refuse it for good."""
        from ml_toolbox.features.costs import Outlook, outlook

        if not self.has_state:  # no limit can have been set
            return outlook((), reservation, self.clock.now())
        try:
            limits, now = self.state.limits(), self.state.now()
        except Unavailable as error:  # a plan is wanted all the same; submitting asks again, and does not pass it over
            return Outlook(reserves=(), waits=(), warnings=(f"budgets could not be asked: {error.message}",))
        return outlook(limits, reservation, now)

    def _dataset_version(self, reference: str) -> ResolvedInput:
        """The version that a plan would use, without fetching it."""
        from ml_toolbox.features.training import ResolvedInput

        identity = f"data:{self.datasets.version(reference.removeprefix('data:')).ref}"
        return ResolvedInput(uri=identity, identity=identity)

    def plan_endpoint(self, spec: EndpointSpec, backend: str = DEFAULT_BACKEND) -> Plan:
        """What ``deploy`` would do and cost. Launches nothing, needs no credentials."""
        from dataclasses import replace

        from ml_toolbox.features.costs import Reservation
        from ml_toolbox.features.placement import plan_endpoint
        from ml_toolbox.features.serving.life import PAID_AHEAD_S

        others = [self.endpoint_backend(n) for n, (_, info) in self.backends().items() if info.endpoints is not None]
        chosen = self.endpoint_backend(backend)
        made = plan_endpoint(spec, chosen, [o for o in others if o.name != backend], install=self.install)
        if not made.cost_per_hour.micros:
            return made
        reserved = Reservation(scopes=(), hourly=made.cost_per_hour, seconds=PAID_AHEAD_S)
        return replace(made, creates=(*made.creates, f"a reservation of {reserved} at a time, until it is deleted"))

    def model_files(self, model: str) -> ResolvedModel:
        """The package of a registry reference, a package folder or a URI as local files, and the version it is, if it is one.

        The reference is resolved once: an alias that moves meanwhile cannot give one version's files another's name.
        """
        from ml_toolbox.domain.models import ModelRef
        from ml_toolbox.features.serving import ResolvedModel

        if "://" in model:
            return ResolvedModel(str(self._fetched(model)), "")
        path = Path(model).expanduser()
        if "/" in model or path.is_dir():
            if not path.is_dir():
                raise NotFound(f"there is no model package {path}", resource=model)
            return ResolvedModel(str(path.absolute()), "")
        version = self.registry.get(ModelRef.parse(model))
        folder = self.registry.download(version.ref, self.home / "cache" / "packages" / version.digest)
        return ResolvedModel(str(folder), version.ref)

    def model_folder(self, model: str) -> Path:
        """Only the folder of :meth:`model_files`."""
        return Path(self.model_files(model).package)

    def _fetched(self, uri: str) -> Path:
        """A package that lies at a URI, copied below the cache; only what changed is fetched again."""
        from ml_toolbox.base.uri import Uri
        from ml_toolbox.objects import open_store
        from ml_toolbox.objects.transfer import download_folder

        parsed = Uri.parse(uri)
        folder = self.home / "cache" / "packages" / digest(str(parsed))
        download_folder(open_store(parsed), "", folder)
        return folder

    def _register_result(self, record: JobRecord) -> str:
        """The effect behind ``register=``. Idempotent by the job's id, so a repetition after a crash is the same version."""
        if record.spec.register is None or record.model_uri is None:
            raise Bug(f"job {record.id} has no model to register")
        version = self.registry.register(
            record.spec.register, record.model_uri, idempotency_key=f"job:{record.id}", source=f"job {record.name}"
        )
        return version.ref

    def _dataset_files(self, reference: str) -> ResolvedInput:
        """``data:NAME[:VERSION]`` as a folder of plain files; versions never change, so a complete copy is kept."""
        from ml_toolbox.features.training import ResolvedInput

        version = self.datasets.version(reference.removeprefix("data:"))
        folder = self.home / "cache" / "data" / version.name / str(version.version)
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.{new_ulid()}.partial")
            self.datasets.materialise(version.ref, partial)
            try:
                partial.rename(folder)
            except OSError:  # another process was faster; its copy is as good
                shutil.rmtree(partial)
        return ResolvedInput(uri=str(folder), identity=f"data:{version.ref}")


def _reserves(reservation: Reservation, said: Outlook) -> tuple[str, ...]:
    """What a plan says about money, when there is any."""
    if not reservation.most.micros:
        return ()
    return ("\n".join((f"a reservation of {reservation}", *(f"  of {limit}" for limit in said.reserves))),)
