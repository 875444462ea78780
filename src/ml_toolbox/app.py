"""The one place where settings become providers, stores and features."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.base.clock import Clock, SystemClock
from ml_toolbox.base.errors import Bug, Invalid, NotFound, Unavailable, Unsupported
from ml_toolbox.base.ids import digest, new_ulid
from ml_toolbox.ports.provider import ENTRY_POINT_GROUP, BackendInfo, Provider, ProviderContext

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ml_toolbox.domain.endpoints import EndpointSpec
    from ml_toolbox.domain.jobs import JobSpec
    from ml_toolbox.domain.offers import Plan
    from ml_toolbox.engine.agent import Agent
    from ml_toolbox.engine.collection import Collector, StoreWithBooks
    from ml_toolbox.features.costs import Budgets, Costs, Outlook, Reservation
    from ml_toolbox.features.data import Datasets, DatasetVersion
    from ml_toolbox.features.operations import Events
    from ml_toolbox.features.registry import Registry
    from ml_toolbox.features.serving import Endpoint, ResolvedModel, Serving
    from ml_toolbox.features.training import Job, JobRecord, ResolvedInput, Training
    from ml_toolbox.ports.endpoints import EndpointBackend
    from ml_toolbox.ports.jobs import JobBackend
    from ml_toolbox.ports.objects import ObjectStore

SETTINGS_FILE = "config.toml"
DEFAULT_BACKEND = "local"

SETTINGS_TEMPLATE = """\
# Settings of ML Toolbox. Everything here is optional; the values shown are the defaults.

# Where registered models live: a folder or a URI (s3://bucket/prefix, az://container/prefix).
# Any number of people can share one. Also: MLTOOLBOX_REGISTRY.
# registry = "{home}/registry"

# Where datasets live, likewise. Also: MLTOOLBOX_DATA.
# data = "{home}/data"

# Where jobs, endpoints, budgets and money are kept: a file for one machine, or a database for a team
# (postgresql://user@host/database; the password goes to PGPASSWORD or ~/.pgpass). Also: MLTOOLBOX_STATE.
# state = "{home}/state.db"

# [providers.local]
# max_concurrent_jobs = 2     # further jobs wait in the queue
# price_per_hour = 0.0        # US dollars for a job's or a replica's hour, to share out this machine or to rehearse budgets
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``config.toml`` and the environment say."""

    registry: str
    """URI or folder of the model registry."""
    data: str
    """URI or folder of the datasets."""
    state: str = ""
    """Path or ``postgresql://`` URL of the control plane's memory; "" for ``state.db`` in the home."""
    providers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each provider's own section; a provider is handed exactly its own."""


def default_home() -> Path:
    """``$MLTOOLBOX_HOME``, or ``~/.mltoolbox``."""
    configured = os.environ.get("MLTOOLBOX_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".mltoolbox"


def load_settings(home: Path) -> Settings:
    """Read ``config.toml`` below ``home``; a missing file means all defaults.

    Raises ``Invalid`` naming the file and the key for anything that is not a known setting of the right type.
    """
    path = home / SETTINGS_FILE
    values: dict[str, Any] = {}
    if path.exists():
        import tomllib

        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"{path}: not readable as TOML: {error}", field="config.toml") from error
    known = {"registry": str, "data": str, "state": str, "providers": dict}
    for key, value in values.items():
        if key not in known:
            raise Invalid.choice(f"{path}: setting", key, known)
        if not isinstance(value, known[key]):
            raise Invalid(f"{path}: {key} must be a {known[key].__name__}, not {type(value).__name__}", field=key)
    return Settings(
        registry=os.environ.get("MLTOOLBOX_REGISTRY") or values.get("registry") or str(home / "registry"),
        data=os.environ.get("MLTOOLBOX_DATA") or values.get("data") or str(home / "data"),
        state=os.environ.get("MLTOOLBOX_STATE") or values.get("state", ""),
        providers=values.get("providers", {}),
    )


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
        self.broken_providers: dict[str, str] = {}
        """Installed providers that could not be imported, and why; filled by ``providers``, told by ``backends check``."""

    @cached_property
    def settings(self) -> Settings:
        return self._given_settings or load_settings(self.home)

    @cached_property
    def install(self) -> str:
        """Id of this installation; part of every resource name and owner tag. Made on first use, then constant."""
        path = self.home / "install-id"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return _create_install_id(path)

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

    @cached_property
    def providers(self) -> Mapping[str, Provider]:
        """All installed providers by name; built-ins and outsiders enter by the same entry point."""
        from importlib.metadata import entry_points

        found: dict[str, Provider] = {}
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                provider: Provider = point.load()
            except Exception as error:  # noqa: BLE001 - foreign code; one broken package must not take the others down
                self.broken_providers[point.name] = f"{type(error).__name__}: {error}"
                continue
            if provider.name in found:
                raise Invalid(
                    f"two installed packages claim the provider name {provider.name!r}",
                    hint="uninstall one of them",
                    field="providers",
                )
            found[provider.name] = provider
        return found

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
    def has_state(self) -> bool:
        """Whether anything can have been written yet; asked before a command that only looks makes a database."""
        return "://" in self.state_place or Path(self.state_place).exists()

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

        return Collector(self.state, (self.training.workflow, self.serving.workflow), owner=this_owner())

    def agent(self, executor: Executor | None = None) -> Agent:
        """The loop that goes on by itself, over every kind of work."""
        from ml_toolbox.engine.agent import Agent
        from ml_toolbox.engine.runner import Runner

        workflows = (self.training.workflow, self.serving.workflow)
        return Agent(self.state, Runner(self.state, workflows), workflows, self.collector, executor=executor)

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

    def backends(self) -> dict[str, tuple[Provider, BackendInfo]]:
        """Every backend of every provider by name. Data only: no credentials, SDK or network."""
        return {info.name: (provider, info) for provider in self.providers.values() for info in provider.backends}

    def provider_context(self, provider: Provider) -> ProviderContext:
        return ProviderContext(
            home=self.home, install=self.install, settings=self.settings.providers.get(provider.name, {})
        )

    def job_backend(self, name: str = DEFAULT_BACKEND) -> JobBackend:
        """The backend that runs jobs there. ``Invalid`` for an unknown name, ``NotFound`` when it runs no jobs."""
        provider, info = self._backend(name)
        if info.jobs is None:
            raise NotFound(f"{name} runs no jobs", hint=f"these do: {self._names('jobs')}", resource=name)
        return provider.job_backend(name, self.provider_context(provider))

    def warm_up(self, name: str = DEFAULT_BACKEND) -> None:
        """Let the backend get ready for a job that is about to be submitted, while this process still loads the state."""
        from ml_toolbox.ports.jobs import WarmUp

        backend = self.job_backend(name)
        if isinstance(backend, WarmUp):
            backend.warm_up()

    def endpoint_backend(self, name: str = DEFAULT_BACKEND) -> EndpointBackend:
        """The backend that serves models there. ``Invalid`` for an unknown name, ``NotFound`` when it serves none."""
        provider, info = self._backend(name)
        if info.endpoints is None:
            raise NotFound(f"{name} serves no models", hint=f"these do: {self._names('endpoints')}", resource=name)
        return provider.endpoint_backend(name, self.provider_context(provider))

    def _backend(self, name: str) -> tuple[Provider, BackendInfo]:
        known = self.backends()
        if name not in known:
            for provider, reason in self.broken_providers.items():
                if name.split("-")[0] == provider:
                    raise Unsupported(f"the provider {provider} cannot be imported: {reason}", resource=name)
            raise Invalid.choice("backend", name, known)
        return known[name]

    def _names(self, port: str) -> str:
        return ", ".join(sorted(n for n, (_, info) in self.backends().items() if getattr(info, port) is not None))


def _reserves(reservation: Reservation, said: Outlook) -> tuple[str, ...]:
    """What a plan says about money, when there is any."""
    if not reservation.most.micros:
        return ()
    return ("\n".join((f"a reservation of {reservation}", *(f"  of {limit}" for limit in said.reserves))),)


def _create_install_id(path: Path) -> str:
    """Exactly one of several racing processes creates the file; all return what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{new_ulid()}")
    # Ten characters of a ULID's random tail: 50 bits, short enough for names limited to 63 characters.
    temporary.write_text(new_ulid()[-10:] + "\n", encoding="ascii")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    finally:
        temporary.unlink()
    return path.read_text(encoding="ascii").strip()


def train(
    target: str | Path | JobSpec,
    *,
    inputs: Mapping[str, str | Path] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    register: str | None = None,
    metrics: Mapping[str, str] | None = None,
    on: str = DEFAULT_BACKEND,
    toolbox: Toolbox | None = None,
) -> Job:
    """Start a training job and return at once with its handle (``wait()``, ``logs()``, ``stop()``, ``model``).

    Args:
        target: path of the script or of a spec file (YAML, JSON), or a :class:`JobSpec`.
        inputs: channel -> file, folder, URI, or ``data:NAME[:VERSION]``.
        hyperparameters: any JSON values; they arrive in the script with type and precision unchanged.
        name: of the job; default: the registered model's name, or the script's.
        register: name of the model that the result becomes a version of.
        metrics: metric -> regular expression with one group, searched in printed lines.
        on: backend.
    Raises:
        Invalid: naming the field, before anything is started.
        Unsupported: the backend cannot run it, with its reason.
    """
    from dataclasses import replace

    spec = _spec_of(target, name or register)
    spec = replace(
        spec,
        name=name or spec.name,
        inputs={**spec.inputs, **{channel: str(uri) for channel, uri in (inputs or {}).items()}},
        hyperparameters={**spec.hyperparameters, **(hyperparameters or {})},
        register=register or spec.register,
        metrics={**spec.metrics, **(metrics or {})},
    )
    return (toolbox or Toolbox()).training.submit(spec, on)


def _spec_of(target: str | Path | JobSpec, name: str | None) -> JobSpec:
    from ml_toolbox.features.training.spec import target_spec

    return target if not isinstance(target, (str, Path)) else target_spec(Path(target), name=name)


def deploy(
    model: str | Path,
    *,
    endpoint: str,
    weight: float | None = None,
    replicas: int | None = None,
    on: str = DEFAULT_BACKEND,
    wait_s: float | None = 120.0,
    toolbox: Toolbox | None = None,
) -> Endpoint:
    """Serve a model at an endpoint, creating it or adding the version beside what is there.

    Args:
        model: ``NAME[:VERSION|@ALIAS]`` in the registry, a package folder, or the URI of one.
        weight: share of traffic in percent; default: everything.
        wait_s: how long to wait until it answers; ``None``: return at once.
    Raises:
        NotFound: no such model. NotYet: not ready after ``wait_s``.
    """
    handle = (toolbox or Toolbox()).serving.deploy(str(model), endpoint, weight=weight, replicas=replicas, on=on)
    if wait_s is not None:
        handle.wait_ready(timeout_s=wait_s)
    return handle


def load_model(model: str | Path, *, trust: bool = False, toolbox: Toolbox | None = None) -> Any:
    """The original model object of a registered version, a package folder or its URI.

    Contents that execute code when loaded (pickle, joblib, Python sources) raise ``Untrusted`` unless ``trust``.
    """
    from ml_toolbox.packages import Trust, open_package

    folder = (toolbox or Toolbox()).model_folder(str(model))
    return open_package(folder, trust=Trust(explicit=trust)).load()


def save_dataset(name: str, data: Any, *, description: str = "", toolbox: Toolbox | None = None) -> DatasetVersion:
    """Store arrays, frames, tables, files or folders as the next version of the dataset ``name``."""
    return (toolbox or Toolbox()).datasets.put(name, data, description=description)


def load_dataset(ref: str, *, toolbox: Toolbox | None = None) -> Any:
    """What was stored as ``NAME[:VERSION]``, in the form it was stored in."""
    return (toolbox or Toolbox()).datasets.get(ref)
