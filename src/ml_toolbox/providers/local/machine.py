"""What this machine has. Read once, then handed around as a value, so that plans and refusals are pure."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores and memory usable by this process, and the GPUs."""

    cpus: int
    memory_gib: float
    gpus: tuple[str, ...] = ()
    """Product name of each GPU, e.g. ``NVIDIA H200``; the index is its number."""


@cache
def this_machine() -> Machine:
    """Asks the driver for names only when there is a GPU at all: that takes a tenth of a second."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(cpus=len(os.sched_getaffinity(0)), memory_gib=round(memory, 2), gpus=_gpus())


def _gpus() -> tuple[str, ...]:
    try:
        devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    except OSError:
        return ()
    if not devices:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        # Devices without the driver's tool (a container): usable, only their names are not known.
        return ("NVIDIA GPU",) * len(devices)
    return tuple(line.strip() for line in told.stdout.splitlines() if line.strip())
