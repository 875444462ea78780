"""What ``config.toml`` and the environment say, and which installation this is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.ids import digest, new_ulid

SETTINGS_FILE = "config.toml"

SETTINGS_TEMPLATE = """\
# Settings of ML Toolbox. Everything here is optional; the values shown are the defaults.

# Where registered models live: a folder or a URI (s3://bucket/prefix, az://container/prefix).
# Any number of people can share one. Also: MLTOOLBOX_REGISTRY.
# registry = "{home}/registry"

# Where datasets live, likewise. Also: MLTOOLBOX_DATA.
# data = "{home}/data"

# Where jobs, endpoints, budgets and money are kept: a file for one machine, or a database for a team
# (postgresql://user@host/database; the password goes to PGPASSWORD or ~/.pgpass). Also: MLTOOLBOX_STATE.
# state = "{home}/state.db"

# [providers.local]
# max_concurrent_jobs = 2     # further jobs wait in the queue
# price_per_hour = 0.0        # US dollars for a job's or a replica's hour, to share out this machine or to rehearse budgets
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``config.toml`` and the environment say."""

    registry: str
    """URI or folder of the model registry."""
    data: str
    """URI or folder of the datasets."""
    state: str = ""
    """Path or ``postgresql://`` URL of the control plane's memory; "" for ``state.db`` in the home."""
    providers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Each provider's own section; a provider is handed exactly its own."""


def default_home() -> Path:
    """``$MLTOOLBOX_HOME``, or ``~/.mltoolbox``."""
    configured = os.environ.get("MLTOOLBOX_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".mltoolbox"


def load_settings(home: Path) -> Settings:
    """Read ``config.toml`` below ``home``; a missing file means all defaults.

    Raises ``Invalid`` naming the file and the key for anything that is not a known setting of the right type.
    """
    path = home / SETTINGS_FILE
    values: dict[str, Any] = {}
    if path.exists():
        import tomllib

        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"{path}: not readable as TOML: {error}", field="config.toml") from error
    known = {"registry": str, "data": str, "state": str, "providers": dict}
    for key, value in values.items():
        if key not in known:
            raise Invalid.choice(f"{path}: setting", key, known)
        if not isinstance(value, known[key]):
            raise Invalid(f"{path}: {key} must be a {known[key].__name__}, not {type(value).__name__}", field=key)
    return Settings(
        registry=os.environ.get("MLTOOLBOX_REGISTRY") or values.get("registry") or str(home / "registry"),
        data=os.environ.get("MLTOOLBOX_DATA") or values.get("data") or str(home / "data"),
        state=os.environ.get("MLTOOLBOX_STATE") or values.get("state", ""),
        providers=values.get("providers", {}),
    )


def install_id(home: Path) -> str:
    """Id of the installation with this home; made on first use, then constant."""
    path = home / "install-id"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _create_install_id(path)


def shared_install_id(home: Path, state: str, ask: Callable[[str], str]) -> str:
    """Id of the installation that everybody on the shared memory ``state`` is. Asked once, then kept in the home: a plan needs
    it and must not need the database."""
    path = home / f"install-id.{digest(state)[:16]}"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        known = ask(install_id(home))
    temporary = path.with_name(f"{path.name}.{new_ulid()}")
    temporary.write_text(known + "\n", encoding="ascii")
    temporary.replace(path)
    return known


def _create_install_id(path: Path) -> str:
    """Exactly one of several racing processes creates the file; all return what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{new_ulid()}")
    # Ten characters of a ULID's random tail: 50 bits, short enough for names limited to 63 characters.
    temporary.write_text(new_ulid()[-10:] + "\n", encoding="ascii")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    finally:
        temporary.unlink()
    return path.read_text(encoding="ascii").strip()
