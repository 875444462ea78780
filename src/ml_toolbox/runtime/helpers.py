"""What a training script may call. Every function works inside a job and outside of one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsInt

from ml_toolbox.base.errors import Invalid

if TYPE_CHECKING:
    from ml_toolbox.runtime.checkpoints import Saved

_lock = threading.Lock()
_stopping = threading.Event()
_told = threading.Event()
_listening = False


def hyperparameters() -> dict[str, Any]:
    """The job's hyper-parameters with types and precision as they were given; outside a job: empty."""
    config = _config()
    return dict(config["hyperparameters"]) if config else {}


def inputs() -> dict[str, Path]:
    """Channel -> the input's file or folder; outside a job: empty."""
    config = _config()
    return {name: Path(path) for name, path in config["inputs"].items()} if config else {}


def model_dir() -> Path:
    """Where to write the model. What lies there when the script ends becomes the model package. Outside: ``./model``."""
    return _folder("model")


def output_dir() -> Path:
    """Where to write everything else worth keeping. Outside a job: ``./output``."""
    return _folder("output")


def checkpoint_dir() -> Path:
    """A folder that stays from one attempt to the next, for files that the script looks after itself. Outside a job:
    ``./checkpoints``. What :func:`checkpoint` saves lies here too, unless the job's checkpoints go to object storage."""
    return _folder("checkpoints")


def report(
    *,
    epoch: SupportsInt | None = None,
    epochs: SupportsInt | None = None,
    step: SupportsInt | None = None,
    steps: SupportsInt | None = None,
    **metrics: SupportsFloat,
) -> None:
    """Tell how far the work is and what the metrics are now: ``report(epoch=3, epochs=10, loss=0.2)``.

    Numbers of any kind that ``float()`` takes (numpy and torch scalars too). One write, never waits; outside a job it
    prints one line. Raises ``Invalid`` for a metric that is not a number.
    """
    values: dict[str, Any] = {"at": time.time()}
    position = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps}
    values |= {name: int(value) for name, value in position.items() if value is not None}
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError) as error:
            raise Invalid(f"report: {name}={value!r} is not a number", field=name) from error
    config = _config()
    if config is None:
        told = {name: value for name, value in values.items() if name != "at"} | numbers
        print(" ".join(f"{name}={value:g}" for name, value in told.items()), flush=True)  # noqa: T201 - its purpose
        return
    line = json.dumps(values | {"metrics": numbers}) + "\n"
    descriptor = os.open(config["progress"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # One write with O_APPEND: lines of several processes do not mix.
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def checkpoint(path: str | os.PathLike[str], step: int, *, keep: int = 3) -> Saved:
    """Save a copy of the file or folder as the checkpoint of ``step``; durable when this returns, with its step, sha256, uri.

    It exists entirely or not at all, whenever the process dies. The newest ``keep`` stay. Called again for the same step:
    the new one counts, the former stays as one to fall back to. Raises ``Invalid`` for what is not there.
    """
    from ml_toolbox.runtime import checkpoint_folder, checkpoints

    source, number = checkpoints.checked(path, step, keep)
    store = _store()
    with _lock:
        if store:
            from ml_toolbox.runtime import checkpoint_objects

            saved = checkpoint_objects.commit(store, source, number, keep)
        else:
            saved = checkpoint_folder.commit(str(checkpoint_dir()), source, number, keep)
        _show(saved)
    return saved


def latest_checkpoint() -> tuple[Path, int] | None:
    """The newest complete checkpoint and its step, from this attempt or an earlier one; ``None`` when there is none.

    Every file is compared with its hash. A torn or altered checkpoint is refused with a printed line, and the one before it
    is taken. Read from the path, do not write there.
    """
    store = _store()
    if store:
        from ml_toolbox.runtime import checkpoint_objects

        config = _config() or {}
        found = checkpoint_objects.latest(store, config["restored"])
    else:
        from ml_toolbox.runtime import checkpoint_folder

        found = checkpoint_folder.latest(str(checkpoint_dir()))
    if found is None:
        return None
    path, saved = found
    _show(saved)
    return Path(path), saved.step


def should_stop() -> bool:
    """Whether the job was asked to stop, or the machine is going away: finish the step, save, and return.

    A script that has been told so and then ends counts as interrupted: after a preemption another attempt goes on from its
    last checkpoint.

    The first call also makes SIGTERM set this flag instead of ending the process at once, so call it before a stop may
    come, at the top of the loop. A handler of your own is left alone. Outside a job it answers to SIGTERM alike.
    """
    _listen()
    wanted = _stopping.is_set() or _asked()
    if wanted:
        _told.set()
    return wanted


def was_told() -> bool:
    """Whether this process knows of the wish to end: by :func:`should_stop`, or by a SIGTERM handler of its own, which may
    have ended its work early. For the process that runs the script, not for the script."""
    handler = signal.getsignal(signal.SIGTERM)
    has_own = handler not in (signal.SIG_DFL, signal.SIG_IGN, _on_sigterm)
    return _told.is_set() or (has_own and _asked())


def _asked() -> bool:
    config = _config()
    return config is not None and any(os.path.exists(config[wish]) for wish in ("stop", "preempt") if wish in config)


def _listen() -> None:
    global _listening
    with _lock:
        if _listening or threading.current_thread() is not threading.main_thread():
            return
        _listening = True
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(_number: int, _frame: object) -> None:
    _stopping.set()


def _store() -> str | None:
    """URI of the object storage that checkpoints go to, if they do."""
    config = _config()
    return config.get("checkpoint_store") if config else None


def _show(saved: Saved) -> None:
    """Note the checkpoint where whoever looks at the job finds it."""
    config = _config()
    if config and "checkpoint" in config:
        from ml_toolbox.runtime.job import write_json

        write_json(config["checkpoint"], saved._asdict())


def _config() -> dict[str, Any] | None:
    path = os.environ.get("MLTOOLBOX_CONFIG")
    if not path:
        return None
    with open(path, encoding="utf-8") as file:
        config: dict[str, Any] = json.load(file)
    return config


def _folder(name: str) -> Path:
    config = _config()
    folder = Path(config[name]) if config else Path.cwd() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
