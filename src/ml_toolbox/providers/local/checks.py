"""``mltoolbox backends check`` for this machine."""

from __future__ import annotations

import os
import shutil

from ml_toolbox.base import processes
from ml_toolbox.ports.provider import Check, ProviderContext
from ml_toolbox.providers.local.machine import this_machine


def checks(context: ProviderContext) -> tuple[Check, ...]:
    """What local jobs and endpoints need. Looks, and changes nothing but making the home."""
    machine = this_machine()
    gpus = ", ".join(machine.gpus) or "no GPU"
    return (
        Check(
            name="processes",
            ok=processes.supported(),
            message="jobs can be supervised" if processes.supported() else "there is no /proc to supervise jobs with",
            hint="" if processes.supported() else "use Linux, or a Linux container",
        ),
        Check(name="machine", ok=True, message=f"{machine.cpus} cores, {machine.memory_gib:g} GiB, {gpus}"),
        _home(context),
        Check(
            name="installer",
            ok=True,
            message="uv builds environments"
            if shutil.which("uv")
            else "venv and pip build environments (uv is faster)",
        ),
    )


def _home(context: ProviderContext) -> Check:
    try:
        context.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Check(name="home", ok=False, message=f"{context.home}: {error.strerror}", hint="set MLTOOLBOX_HOME")
    writable = os.access(context.home, os.W_OK)
    free = shutil.disk_usage(context.home).free / 2**30
    message = f"{context.home} ({free:.0f} GiB free)" if writable else f"{context.home} cannot be written"
    return Check(name="home", ok=writable, message=message, hint="" if writable else "set MLTOOLBOX_HOME")
