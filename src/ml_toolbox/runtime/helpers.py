"""What a training script may call. Every function works inside a job and outside of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, SupportsFloat, SupportsInt

from ml_toolbox.base.errors import Invalid

_lock = threading.Lock()
_stopping = threading.Event()
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
    """Where checkpoints are kept from one attempt to the next. Outside a job: ``./checkpoints``."""
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


def checkpoint(path: str | os.PathLike[str], step: int) -> Path:
    """Keep a copy of the file or folder as the checkpoint of ``step``; returns where it lies.

    The copy appears in one step, under ``step-<number>``: a job killed half-way leaves the former one whole. Called again
    for the same step: replaces it.
    """
    source = Path(path)
    if not source.exists():
        raise Invalid(f"checkpoint: {source} does not exist", field="path", resource=str(source))
    folder = checkpoint_dir()
    final = folder / f"step-{int(step):012d}"
    with _lock:
        new = folder / f".new-{os.getpid()}-{final.name}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        if source.is_dir():
            shutil.copytree(source, new / source.name)
        else:
            shutil.copy2(source, new / source.name)
        old = folder / f".old-{os.getpid()}-{final.name}"
        if final.exists():
            final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    return final / source.name


def latest_checkpoint() -> tuple[Path, int] | None:
    """The newest complete checkpoint and its step, from this attempt or an earlier one; ``None`` when there is none."""
    found = sorted(path for path in checkpoint_dir().glob("step-*") if path.is_dir())
    for folder in reversed(found):
        content = sorted(folder.iterdir())
        if content:
            return content[0], int(folder.name.removeprefix("step-"))
    return None


def should_stop() -> bool:
    """Whether the job was asked to stop (or the machine is going away): finish the step, save, and return.

    The first call also makes SIGTERM set this flag instead of ending the process at once, so call it before a stop may
    come, at the top of the loop. A handler of your own is left alone. Outside a job it answers to SIGTERM alike.
    """
    _listen()
    if _stopping.is_set():
        return True
    config = _config()
    return config is not None and os.path.exists(config["stop"])


def _listen() -> None:
    global _listening
    with _lock:
        if _listening or threading.current_thread() is not threading.main_thread():
            return
        _listening = True
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda _number, _frame: _stopping.set())


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
