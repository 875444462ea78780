"""Virtual environments by content: the same requirements are installed once and shared by every job after.

``python -m ml_toolbox.providers.local.environments FOLDER PYTHON REQUIREMENT...`` makes one when it is absent and prints
the path of its interpreter as its last line. Run by a job's supervisor as the command that prepares its environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_toolbox.base.ids import digest

READY = ".ready"
"""Written last: a folder without it was interrupted while being built, and is built anew."""


def environment_id(python: str, requirements: Sequence[str]) -> str:
    """Same interpreter and same requirements, in any order: same environment. An upgraded interpreter makes a new one."""
    return digest({"python": python, "version": sys.version, "requirements": sorted(set(requirements))})[:20]


def command(folder: Path, python: str, requirements: Sequence[str]) -> list[str]:
    """The command that prepares the environment."""
    return [sys.executable, "-m", __name__, str(folder), python, *requirements]


def ensure(folder: Path, python: str, requirements: Sequence[str]) -> Path:
    """Return the environment's interpreter, building it first when it is not there. Two at once: one builds, one waits.

    Raises ``CalledProcessError`` with the installer's status; its output has gone to ours.
    """
    place = folder / environment_id(python, requirements)
    interpreter = place / "bin" / "python"
    if (place / READY).exists():
        return interpreter
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / READY).exists():
            shutil.rmtree(place, ignore_errors=True)
            _build(place, python, requirements)
            (place / READY).write_text("\n".join(requirements) + "\n")
    return interpreter


def _build(place: Path, python: str, requirements: Sequence[str]) -> None:
    uv = shutil.which("uv")
    target = str(place / "bin" / "python")
    if uv:
        _run([uv, "venv", "--quiet", "--python", python, str(place)])
        _run([uv, "pip", "install", "--python", target, *requirements])
    else:
        _run([python, "-m", "venv", str(place)])
        _run([target, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *requirements])


def _run(arguments: list[str]) -> None:
    # Our own folder of links must not be seen: an installer would take what is in it for installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(arguments, check=True, stdout=sys.stderr, env=environment)


def main(arguments: list[str]) -> int:
    folder, python, *requirements = arguments
    try:
        interpreter = ensure(Path(folder), python, requirements)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"the environment could not be built: {error.cmd[0]} ended with status {error.returncode}\n")
        return 1
    sys.stdout.write(f"{interpreter}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
