"""``CloudTraining``: a guide's training call as a job of the toolbox, its model left where the guide looks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ml_toolbox import packages
from ml_toolbox.base.errors import Bug, Invalid, NotFound, Unsupported
from ml_toolbox.base.ids import check_name
from ml_toolbox.base.uri import UriLike
from ml_toolbox.cloud_integration.channels import training_channel
from ml_toolbox.cloud_integration.providers import CloudProvider, as_provider
from ml_toolbox.domain.jobs import JobSpec, JobState

if TYPE_CHECKING:
    from ml_toolbox.features.training import Job, JobRecord
    from ml_toolbox.ports.jobs import LogLine

PLATFORM_SETTINGS = ("sagemaker_role", "compute_target", "instance_type", "framework")
"""What a cloud's own backend needs to know. The same config runs everywhere: a backend that has no such thing (this machine
has one instance type and no roles) does not look at them."""
_SETTINGS = (
    *PLATFORM_SETTINGS,
    "instance_count",
    "requirements",
    "hyperparameters",
    "metrics",
    "job_name",
    "model_name",
    "max_run_seconds",
)
OUTPUT_TAG = "cloud-integration:output"
ARCHIVE_NAME = "model.tar.gz"


class CloudTraining:
    """Training jobs on a provider's backend.

    Args:
        provider: a name or a provider object.
        config: ``instance_count``, ``requirements`` (a list, or the path of a requirements file), ``hyperparameters``,
            ``metrics`` (name -> regular expression with one group), ``job_name``, ``model_name`` (register the result under
            this name), ``max_run_seconds``; and what a cloud needs: ``sagemaker_role``, ``compute_target``,
            ``instance_type``, ``framework``. ``Invalid`` names an unknown key.
    """

    def __init__(self, provider: str | CloudProvider, config: Mapping[str, Any] | None = None) -> None:
        self.provider = as_provider(provider, {})
        self.config = dict(config or {})
        for key in self.config:
            if key not in _SETTINGS:
                raise Invalid.choice("config", key, _SETTINGS)

    def train_distributed(self, training_script: str | Path, data_path: UriLike, output_path: UriLike) -> TrainingJob:
        """Start the job and return at once.

        The script finds the data in ``SM_CHANNEL_TRAINING`` (and the other dialects); a dataset of ``save_dataset`` below
        ``data_path`` is there as ``NAME/X.npy`` and ``NAME/y.npy`` (tables: ``.parquet``). The model that the script saves
        comes to ``output_path/JOB/output/model.tar.gz``, and a copy to ``output_path/model.tar.gz``, when the returned job
        is next looked at after its end.

        Raises ``Unsupported`` when the provider's backend is not installed or cannot run it, before anything is written.
        """
        backend = self.provider.require_backend("jobs")
        output = self.provider.place(output_path)
        spec = self._spec(Path(training_script))
        spec = replace(spec, tags={**spec.tags, OUTPUT_TAG: str(output)})
        # Asked before the data is fetched, which may take long.
        if refusal := self.provider.toolbox.job_backend(backend).refuses(spec):
            raise Unsupported(f"{backend} cannot run {spec.name}: {refusal}", provider=self.provider.name)
        channel = training_channel(self.provider, data_path)
        job = self.provider.toolbox.training.submit(replace(spec, inputs={"training": channel}), backend)
        return TrainingJob(self.provider, job)

    def job(self, job_id: str) -> TrainingJob:
        """The job of that id or name, from any process."""
        return TrainingJob(self.provider, self.provider.toolbox.training.job(job_id))

    def _spec(self, script: Path) -> JobSpec:
        from ml_toolbox.features.training.spec import target_spec

        config = self.config
        name = config.get("job_name") or config.get("model_name")
        spec = target_spec(script, name=check_name(name, field="config.job_name") if name else None)
        return replace(
            spec,
            hyperparameters=_mapping(config, "hyperparameters"),
            metrics=_mapping(config, "metrics"),
            register=config.get("model_name"),
            resources=replace(spec.resources, nodes=_count(config, "instance_count", 1)),
            environment=replace(spec.environment, requirements=_requirements(config.get("requirements", ()))),
            limits=replace(
                spec.limits,
                max_duration_s=float(_count(config, "max_run_seconds", int(spec.limits.max_duration_s))),
            ),
        )


class TrainingJob:
    """One started job. Looks whenever it is asked; the model is brought to its output path by whoever looks first."""

    def __init__(self, provider: CloudProvider, job: Job) -> None:
        self._provider = provider
        self._job = job
        self.id = job.id

    def __repr__(self) -> str:
        return f"TrainingJob({self.id!r}, status={self.status!r})"

    @property
    def name(self) -> str:
        return self._job.name

    @property
    def status(self) -> str:
        """``queued``, ``provisioning``, ``running``, ``stopping``, ``succeeded``, ``failed`` or ``stopped``."""
        return self._settled().state.value

    @property
    def metrics(self) -> dict[str, float]:
        """Latest value of each reported metric."""
        return self._job.metrics

    @property
    def model(self) -> str | None:
        """``NAME:VERSION`` when it was registered, else the URI of the job's ``model.tar.gz``; ``None`` before the end,
        and for a script that saved no model."""
        record = self._settled()
        if record.state is not JobState.SUCCEEDED:
            return None
        return record.model or (self.model_data_url if record.model_uri else None)

    @property
    def model_data_url(self) -> str:
        """Where the job's model goes (or lies); what ``deploy_model(model={"model_data_url": ...})`` takes."""
        record = self._job.record
        return f"{self._output(record)}/{record.name}-{record.id}/output/{ARCHIVE_NAME}"

    def wait(self, timeout_s: float | None = None) -> Self:
        """Wait for the end, the model at its place. ``JobFailed`` with cause and line, ``NotYet`` after the timeout."""
        self._publish(self._job.wait(timeout_s))
        return self

    def logs(self, *, follow: bool = False) -> Iterator[LogLine]:
        return self._job.logs(follow=follow)

    def stop(self) -> None:
        """Ask it to end; what it saved so far is kept."""
        self._job.stop()

    def _settled(self) -> JobRecord:
        record = self._job.record
        self._publish(record)
        return record

    def _output(self, record: JobRecord) -> str:
        if OUTPUT_TAG not in record.spec.tags:
            raise Bug(f"job {record.name} was not started by CloudTraining: it has no output path")
        return record.spec.tags[OUTPUT_TAG]

    def _publish(self, record: JobRecord) -> None:
        """Bring the model of a succeeded job to its output path; once is enough, twice does no harm."""
        if record.state is not JobState.SUCCEEDED or record.model_uri is None:
            return
        store, key = self._provider.object_store(self.model_data_url)
        try:
            store.head(key)
        except NotFound:
            self._pack(record)

    def _pack(self, record: JobRecord) -> None:
        store, key = self._provider.object_store(self.model_data_url)
        folder = self._provider.toolbox.model_folder(record.model_uri or "")
        with tempfile.TemporaryDirectory(prefix="mlt-output-") as temporary:
            packed = packages.archive(folder, Path(temporary) / ARCHIVE_NAME)
            latest, latest_key = self._provider.object_store(f"{self._output(record)}/{ARCHIVE_NAME}")
            latest.put(latest_key, packed)
            # Last: it is the mark that both are there.
            store.put(key, packed)


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key, {})
    if not isinstance(value, Mapping):
        raise Invalid(f"config: {key} must be a dict, not {type(value).__name__}", field=f"config.{key}")
    return dict(value)


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Invalid(f"config: {key} must be a whole number from 1, not {value!r}", field=f"config.{key}")
    return value


def _requirements(value: str | Path | Sequence[str]) -> tuple[str, ...]:
    """The requirements of a list, or of a requirements file."""
    if not isinstance(value, str | Path):
        return tuple(value)
    path = Path(value)
    if not path.is_file():
        raise Invalid(
            f"config: there is no requirements file {path}",
            hint="give the path of a file, or a list such as ['scikit-learn==1.5.2']",
            field="config.requirements",
        )
    lines = (line.partition(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
