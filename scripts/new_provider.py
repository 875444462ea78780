"""Scaffold an outside provider: ``python scripts/new_provider.py NAME`` writes the folder ``./NAME``.

What is written installs, is listed by ``mltoolbox backends list``, and fails only where it has nothing yet.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from ml_toolbox.base.errors import Conflict, Invalid, ToolboxError
from ml_toolbox.ports.provider import ENTRY_POINT_GROUP

TEMPLATE = Path(__file__).parent / "provider_template"
SUFFIX = ".in"
# Part of a distribution's, a module's and a backend's name at once.
_NAME = re.compile(r"[a-z](?:-?[a-z0-9])*\Z")
_MAX_LENGTH = 40


def check_provider_name(name: str) -> str:
    """Return ``name``; raises ``Invalid`` unless it can be a provider, a distribution and a Python module."""
    if not _NAME.match(name) or len(name) > _MAX_LENGTH:
        raise Invalid(
            f"NAME: {name!r} is not a provider name",
            hint=f"1 to {_MAX_LENGTH} lower-case letters, digits and single hyphens, beginning with a letter: acme-cloud",
            field="NAME",
        )
    if keyword.iskeyword(name):
        raise Invalid(f"NAME: {name!r} is a word of Python", hint=f"for example {name}-cloud", field="NAME")
    if any(point.name == name for point in entry_points(group=ENTRY_POINT_GROUP)):
        raise Invalid(f"NAME: a provider {name!r} is installed already", hint="choose another name", field="NAME")
    return name


def scaffold(name: str, parent: Path) -> Path:
    """Write the provider's folder below ``parent`` and return it. ``Conflict`` when something of that name is there."""
    words = {
        "@name@": check_provider_name(name),
        "@module@": f"{name.replace('-', '_')}_provider",
        "@Class@": "".join(part.capitalize() for part in name.split("-")),
    }
    target = parent / name
    try:
        target.mkdir()
    except FileExistsError as error:
        raise Conflict(
            f"{target} exists already", hint="choose another name, or remove it", resource=str(target)
        ) from error
    try:
        for source in sorted(path for path in TEMPLATE.rglob(f"*{SUFFIX}")):
            relative = str(source.relative_to(TEMPLATE)).removesuffix(SUFFIX).replace("__module__", words["@module@"])
            file = target / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(source.read_text(encoding="utf-8"), words), encoding="utf-8")
        (target / "src" / words["@module@"] / "py.typed").touch()
    except BaseException:
        shutil.rmtree(target)  # ours alone: mkdir above was the first to make it
        raise
    return target


def _filled(text: str, words: dict[str, str]) -> str:
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="new_provider.py", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="e.g. acme-cloud")
    name = parser.parse_args(arguments).name
    try:
        folder = scaffold(name, Path.cwd())
    except ToolboxError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{folder} is ready. Next:\n  pip install -e './{name}[test]'\n  mltoolbox backends list\n  pytest {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
