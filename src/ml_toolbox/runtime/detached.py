"""A folder with one process of ours behind it: starting, judging and ending that process from any other process.

For backends on one host that start the runtime themselves (``train`` or ``serve``) and keep everything they know in the
folder. Starting and removing are guarded by the caller's lock (``base.locks``). Not imported inside a job. Needs /proc.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from ml_toolbox.base.errors import NotYet, Unsupported
from ml_toolbox.base.ids import nonce
from ml_toolbox.base.processes import MARK_VARIABLE, ProcessIdentity, identity, kill_until_gone, supported
from ml_toolbox.runtime.job import read_json, write_json

_PROCESS = "process.json"
_KILLED_S = 5.0


def start(root: str, arguments: Sequence[str], *, output: str, marked: bool = False) -> None:
    """Run ``python -m ml_toolbox.runtime ARGUMENTS`` in a session of its own, so that it outlives the caller; what it
    prints is appended to the file ``output``. ``marked``: it carries the folder's mark (the value ``root`` in
    ``MLTOOLBOX_MARK``) itself, and whatever carried that mark before is killed first."""
    if not supported():
        raise Unsupported("processes cannot be told apart here without /proc", hint="use Linux")
    environment = dict(os.environ)
    if marked:
        kill_until_gone(root)
        environment[MARK_VARIABLE] = root
    with open(output, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ml_toolbox.runtime", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    write_json(os.path.join(root, _PROCESS), str(identity(process.pid)))
    # Reaped as soon as it ends, so that it does not stay a zombie in a process that lives longer.
    threading.Thread(target=process.wait, daemon=True).start()


def started(root: str) -> ProcessIdentity | None:
    """The process that was started last for the folder; ask it ``is_gone``. ``None``: none was."""
    text = read_json(os.path.join(root, _PROCESS))
    return None if text is None else ProcessIdentity.parse(text)


def remove(root: str, *, grace_s: float = 0.0) -> None:
    """End what runs for the folder, politely first when there is grace, and make the folder disappear in one step.
    Absent: silent. ``NotYet`` when processes still end: call again."""
    if not os.path.isdir(root):
        return
    process = started(root)
    if process is not None:
        _end(process, grace_s)
    if (process is not None and not process.is_gone) or not kill_until_gone(root):
        raise NotYet("its processes are still ending", hint="delete it again", resource=os.path.basename(root))
    gone = os.path.join(os.path.dirname(root), f".gone-{nonce()}")
    os.rename(root, gone)
    shutil.rmtree(gone, ignore_errors=True)


def by_tag(parent: str, record: str, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """``(name, tags)`` of the folders below ``parent`` whose JSON file ``record`` has all these ``tags``."""
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        document = read_json(os.path.join(parent, name, record)) if not name.startswith(".") else None
        if document is not None and tags.items() <= document["tags"].items():
            yield name, document["tags"]


def _end(process: ProcessIdentity, grace_s: float) -> None:
    for number, within_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILLED_S)):
        deadline = time.monotonic() + within_s
        if within_s and not process.is_gone:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return
        while not process.is_gone and time.monotonic() < deadline:
            time.sleep(0.01)
