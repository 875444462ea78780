"""What ``doctor`` looks at. Every check reads; only what ``--fix`` asks for repairs."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from ml_toolbox.app import Toolbox
from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.features.operations import Finding, living

# One module per extra stands for the whole of it.
_EXTRAS = {
    "data": ("pyarrow", "datasets"),
    "sklearn": ("skops", "packaging scikit-learn models"),
    "serving": ("onnxruntime", "serving models"),
    "torch": ("torch", "packaging PyTorch models"),
    "lightgbm": ("lightgbm", "packaging LightGBM models"),
    "xgboost": ("xgboost", "packaging XGBoost models"),
    "secrets": ("cryptography", "the local secret store"),
    "signing": ("model_signing", "signing model packages"),
}
_DAY_S = 86400.0
_LOW_DISK_BYTES = 2 * 1024**3  # a guess: one environment with scikit-learn takes about 0.5 GiB


def diagnose(toolbox: Toolbox, *, fix: bool = False) -> list[Finding]:
    """All findings. Never raises for what it finds. ``fix``: what the loop can mend is mended first, and told."""
    findings: list[Finding] = []
    if fix:
        findings.extend(_guarded(_fixed, toolbox))
    for check in (_python, _home, _disk, _settings, _state, _loop, _stores, _extras, _providers):
        findings.extend(_guarded(check, toolbox))
    return findings


def _guarded(check: Callable[[Toolbox], Iterator[Finding]], toolbox: Toolbox) -> Iterator[Finding]:
    try:
        yield from check(toolbox)
    except ToolboxError as error:
        yield Finding("error", check.__name__.strip("_"), error.message, error.hint)
    except OSError as error:
        yield Finding("error", check.__name__.strip("_"), f"{error.strerror}: {error.filename}", "check owner and mode")


def _python(toolbox: Toolbox) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _home(toolbox: Toolbox) -> Iterator[Finding]:
    home = toolbox.home
    if not home.exists():
        yield Finding("ok", "home", f"{home} is not there yet; the first command creates it")
        return
    if not os.access(home, os.W_OK):
        yield Finding("error", "home", f"{home} is not writable", "choose another with MLTOOLBOX_HOME")
        return
    yield Finding("ok", "home", f"{home}, installation {toolbox.install}")


def _disk(toolbox: Toolbox) -> Iterator[Finding]:
    place = next(p for p in (toolbox.home, *toolbox.home.parents) if p.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1024**3:.1f} GiB free at {place}"
    if free < _LOW_DISK_BYTES:
        yield Finding("note", "disk", text, "remove old jobs: mltoolbox jobs delete NAME")
    else:
        yield Finding("ok", "disk", text)


def _settings(toolbox: Toolbox) -> Iterator[Finding]:
    settings = toolbox.settings
    yield Finding("ok", "settings", f"registry {settings.registry}, data {settings.data}")


def _state(toolbox: Toolbox) -> Iterator[Finding]:
    if not toolbox.has_state:
        yield Finding("ok", "state", "no database yet; the first job creates it")
        return
    kinds = Counter(row.kind for row in living(toolbox.state))
    yield Finding("ok", "state", f"{toolbox.state_shown}: {kinds['job']} jobs and {kinds['endpoint']} endpoints live")


def _loop(toolbox: Toolbox) -> Iterator[Finding]:
    """What the durable loop has to say. Read, not driven, so that what is shown is what was found."""
    if not toolbox.has_state:
        return
    from ml_toolbox.engine.owners import is_dead
    from ml_toolbox.features.operations import condition

    store = toolbox.state
    before, now, after = time.time(), store.now(), time.time()
    yield from condition(
        rows=tuple(living(store)),
        limits=store.limits(),
        events=toolbox.events.since(now - _DAY_S),
        comparison=toolbox.collector.compare(),
        places=store.places(),
        installed=toolbox.backends().keys(),
        store_now=now,
        host_now=(before + after) / 2,
        is_dead=is_dead,
    )


def _fixed(toolbox: Toolbox) -> Iterator[Finding]:
    if not toolbox.has_state:
        return
    done = toolbox.agent().round()
    yield Finding("ok", "fixed", f"{done.driven} rows driven, {done.stopped} told to stop by budgets")
    for stray in done.comparison.strays if done.comparison else ():
        text = f"{stray.kind} {stray.resource} on {stray.place}"
        if stray.removed:
            yield Finding("ok", "fixed", f"removed {text}: {stray.why}")
        else:
            yield Finding(
                "error", "fixed", f"could not remove {text}: {stray.problem}", "tried again by every comparison"
            )


def _stores(toolbox: Toolbox) -> Iterator[Finding]:
    for subject, store in (("registry", toolbox.registry_store), ("data", toolbox.data_store)):
        missing = [name for name in ("conditional-create", "compare-and-swap") if name in store.lacks]
        for name in missing:
            yield Finding(
                "error", subject, f"{store.uri} lacks {name}: {store.lacks[name].reason}", "use another store"
            )
        if not missing:
            yield Finding("ok", subject, store.uri)


def _extras(toolbox: Toolbox) -> Iterator[Finding]:
    missing = [extra for extra, (module, _) in _EXTRAS.items() if importlib.util.find_spec(module) is None]
    present = [extra for extra in _EXTRAS if extra not in missing]
    yield Finding("ok", "extras", f"installed: {', '.join(present) or 'none'}")
    for extra in missing:
        yield Finding("note", "extras", f"no {_EXTRAS[extra][1]}", f"{_pip()} install 'ml-toolbox[{extra}]'")


def _pip() -> str:
    return "pip" if sys.prefix != sys.base_prefix else "python3 -m pip"


def _providers(toolbox: Toolbox) -> Iterator[Finding]:
    for name, provider in sorted(toolbox.providers.items()):
        for check in provider.check(toolbox.installed.context(provider)):
            yield Finding(
                "ok" if check.ok else "error", f"provider {name}", f"{check.name}: {check.message}", check.hint
            )
    for name, reason in toolbox.installed.broken.items():
        yield Finding(
            "error", f"provider {name}", f"cannot be imported: {reason}", "reinstall or uninstall its package"
        )
