"""Brings the inputs to this machine: a link for what is here already, a download for what is not. Takes checksums."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from ml_toolbox.runtime.dialects import Channel
from ml_toolbox.runtime.job import Layout, RuntimeJob

CHECKSUM_LIMIT = 1 << 30
"""Inputs above this many bytes are named by size and time in the lineage: reading them twice would cost more than it tells."""


def stage(job: RuntimeJob, layout: Layout, say: Callable[[str], None]) -> dict[str, Channel]:
    """Make every input readable below the channel folders. Raises ``OSError`` with a telling text when it cannot."""
    return {name: _stage_one(name, location, layout, say) for name, location in job.inputs.items()}


def _stage_one(name: str, location: str, layout: Layout, say: Callable[[str], None]) -> Channel:
    folder = os.path.join(layout.data, name)
    if "://" in location and not location.startswith("file://"):
        say(f"downloading input {name} from {location}")
        _download(location, folder)
        entries = os.listdir(folder)
        # A URI of one object gives one file, named as the object is.
        single = os.path.join(folder, entries[0]) if len(entries) == 1 and location.endswith(f"/{entries[0]}") else ""
        return Channel(folder, single if os.path.isfile(single) else folder)
    path = location.removeprefix("file://")
    if os.path.isdir(path):
        _link(path, folder)
        return Channel(folder, folder)
    if not os.path.exists(path):
        raise FileNotFoundError(f"input {name}: {path} does not exist")
    os.makedirs(folder, exist_ok=True)
    link = os.path.join(folder, os.path.basename(path))
    _link(path, link)
    return Channel(folder, link)


def _link(target: str, link: str) -> None:
    if not os.path.lexists(link):
        os.symlink(target, link)


def _download(uri: str, folder: str) -> None:
    """In a process of its own: the storage library starts threads, and the supervisor forks."""
    command = [sys.executable, "-m", "ml_toolbox.runtime.download", uri, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise OSError(f"input {uri} could not be fetched: {last[0]}")


def identity(path: str) -> str:
    """What the input was: ``sha256:...`` over relative names and contents, or size and time when it is too large."""
    import hashlib

    files = sorted(_files(path))
    sizes = [os.stat(file).st_size for file in files]
    if sum(sizes) > CHECKSUM_LIMIT:
        newest = max(os.stat(file).st_mtime for file in files)
        return f"size:{sum(sizes)} mtime:{newest:.0f}"
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                content.update(chunk)
        if len(files) == 1 and file == path:
            return f"sha256:{content.hexdigest()}"
        total.update(f"{os.path.relpath(file, path)}\0{content.hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names]
