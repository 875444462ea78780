"""The child process that runs the user's script exactly as ``python train.py`` would, and packages what it left.

``python -P -m ml_toolbox.runtime.script ROOT SCRIPT [ARGUMENT...]`` runs and packages; ``... ROOT`` alone only packages
(after a command that is not a Python script). Its environment may be any Python 3.11 or later with nothing of ours
installed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from typing import Any

from ml_toolbox.runtime.job import Layout, RuntimeJob, read_json, write_json

_IDLE_LOOKS = 3
_ANSWER_S = 30.0
"""How long the supervisor may take to finish the inputs' checksums; only after a script that ran shorter than that."""


def main(arguments: list[str]) -> int:
    layout = Layout(arguments[0])
    if len(arguments) > 1:
        # A crash in native code prints the Python line it happened at; costs nothing until then.
        import faulthandler

        faulthandler.enable()
        status = _run(layout, arguments[1], arguments[2:])
        if status != 0:
            return status
        if _left_early(layout):
            write_json(layout.result, {"model": None, "left_early": True})
            return 0
    _shield()
    write_json(layout.result, capture(layout))
    return 0


def _run(layout: Layout, script: str, arguments: list[str]) -> int:
    path = os.path.join(layout.code, script)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    # Everything that looks for the main module (pickle, multiprocessing, unittest) finds the user's, as it would without us.
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - running the user's script is this module's purpose
        _join_threads()
    except SystemExit as ending:
        return _exit_status(ending, layout)
    except BaseException as error:  # noqa: BLE001 - the process's edge: whatever ends the script is reported, then it ends
        _report(error, layout)
        return 1
    return 0


def _exit_status(ending: SystemExit, layout: Layout) -> int:
    if ending.code is None or isinstance(ending.code, int):
        _join_threads()
        return ending.code or 0
    # As the interpreter does: a message goes to standard error, the status is 1.
    sys.stderr.write(f"{ending.code}\n")
    from ml_toolbox.runtime import digest

    failure = digest.of_exception(ending, layout.code)
    write_json(layout.result, {"failure": {**failure, "kind": "exit-code", "cause": str(ending.code)}})
    return 1


def _report(error: BaseException, layout: Layout) -> None:
    """Print the traceback as the interpreter would, and leave the digest for the supervisor."""
    from ml_toolbox.runtime import digest

    write_json(layout.result, {"failure": digest.of_exception(error, layout.code)})
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    sys.stderr.flush()


def _left_early(layout: Layout) -> bool:
    """Whether the capacity is being taken away and the script knew: then its end is not the end of its work."""
    if not os.path.exists(layout.preempt):
        return False
    from ml_toolbox.runtime import helpers

    return helpers.was_told()


def _shield() -> None:
    """From here on only the kill at the end of the grace period ends this process: what was trained is kept if it can be."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _join_threads() -> None:
    """Wait for the script's threads, as the interpreter does at its end: they may still be writing the model.

    The workers of a pool that was left open never end by themselves; the interpreter tells them to once nothing of ours
    will run. Until then it is enough that they have nothing to do.
    """
    pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon and thread not in pools:
            thread.join()
    idle = 0
    while idle < _IDLE_LOOKS:  # more than once: a worker that has just taken its work looks idle
        idle = idle + 1 if all(_is_idle(thread, queue) for thread, queue in list(pools.items())) else 0
        if pools:
            time.sleep(0.005)


def _is_idle(worker: threading.Thread, queue: Any) -> bool:
    """Whether the worker of a ``ThreadPoolExecutor`` waits for work and there is none."""
    from concurrent.futures import thread

    frame = sys._current_frames().get(worker.ident or 0)
    return queue.empty() and (frame is None or frame.f_code is thread._worker.__code__)


def capture(layout: Layout) -> dict[str, Any]:
    """Turn what lies in the model folder into a model package, in this very process: only here do the classes that the
    script defined exist. Nothing there: no model. Returns what the supervisor is told."""
    folder = _model_folder(layout)
    if folder is None:
        return {"model": None}
    from ml_toolbox import packages
    from ml_toolbox.base.errors import ToolboxError

    job = RuntimeJob.read(layout.job)
    try:
        report = packages.capture(folder, layout.package, lineage=_lineage(layout, job), name=job.name)
    except ToolboxError as error:
        return {"model": None, "problem": str(error)}
    except Exception as error:  # noqa: BLE001 - the process's edge: a defect in a framework must not lose a trained model
        return {"model": None, "problem": f"{type(error).__name__}: {error}"}
    return {"model": layout.package, "notes": list(report.notes)}


def _model_folder(layout: Layout) -> str | None:
    """The model folder; or, when the script left it empty, a ``model*`` in ``./outputs``, where Azure ML keeps results."""
    if _has_files(layout.model):
        return layout.model
    outputs = os.path.join(layout.code, "outputs")
    names = sorted(os.listdir(outputs)) if os.path.isdir(outputs) else []
    found = [os.path.join(outputs, name) for name in names if name.lower().startswith("model")]
    if not found:
        return None
    if len(found) == 1 and os.path.isdir(found[0]):
        return found[0] if _has_files(found[0]) else None
    import shutil

    for path in found:
        target = os.path.join(layout.model, os.path.basename(path))
        shutil.copytree(path, target) if os.path.isdir(path) else shutil.copy2(path, target)
    return layout.model


def _has_files(folder: str) -> bool:
    return any(files for _, _, files in os.walk(folder))


def _lineage(layout: Layout, job: RuntimeJob) -> Any:
    from ml_toolbox.packages.manifest import Lineage

    noted = _noted(layout, job.mark)
    return Lineage(
        job=job.job,
        data=noted.get("data", {}),
        code_sha256=job.code_sha256,
        hyperparameters=job.hyperparameters,
        metrics=noted.get("metrics", {}),
    )


def _noted(layout: Layout, mark: str) -> dict[str, Any]:
    """What the supervisor knows by now. The sentinel goes down the same pipe as the prints, so when it answers it has seen
    every metric printed before. A script that sent its output elsewhere gets what is known without the last prints."""
    sys.stdout.flush()
    os.write(1, sentinel(mark))
    deadline = time.monotonic() + _ANSWER_S
    while (noted := read_json(layout.lineage)) is None:
        if time.monotonic() > deadline:
            return {}
        time.sleep(0.005)
    return dict(noted)


def sentinel(mark: str) -> bytes:
    """What the child writes when the script has ended well and left a model."""
    return f"\0{mark}\n".encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
