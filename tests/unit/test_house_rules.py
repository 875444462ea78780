"""Rules of the house that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ml_toolbox

SOURCE = Path(ml_toolbox.__file__).parent
ROOT = SOURCE.parent.parent
PROVIDER_NAMES = ("aws", "gcp", "azure", "kubernetes", "sagemaker", "vertex", "boto3")
URI_SCHEMES = "base/uri.py"  # azure:// is a scheme that users type, not a provider
PROVIDER_FREE = ("features", "engine", "state", "domain", "ports", "base", "datasets")


def code_of(folder: str) -> list[tuple[Path, int, str]]:
    """Lines of code without comments and docstrings, roughly: string constants that are names are what matters."""
    found = []
    for path in sorted((SOURCE / folder).rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found.append((path.relative_to(SOURCE), number, line.split("#", 1)[0]))
    return found


@pytest.mark.parametrize("folder", PROVIDER_FREE)
def test_no_providers_name_occurs_as_a_value_outside_its_folder(folder: str) -> None:
    name = re.compile(rf"""['"]({"|".join(PROVIDER_NAMES)})(-[a-z0-9-]+)?['"]""")
    named = [f"{path}:{number}: {line.strip()}" for path, number, line in code_of(folder) if name.search(line)]
    assert [place for place in named if not place.startswith(URI_SCHEMES)] == []


def test_the_layer_contract_is_kept() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_generated_pages_are_fresh() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("__init__.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_package_says_what_belongs_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lstrip()
    assert text.startswith('"""')
    assert len(text.split('"""')[1].strip()) > 20
