"""The documentation's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.features.registry.support import make_package

PAGE = Path(__file__).parents[4] / "docs" / "registry.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_package(Path("package-1"), {"model.skops": b"one"}, metrics={"accuracy": 0.9}, parameters={"depth": 3})
    make_package(Path("package-2"), {"model.skops": b"two"}, metrics={"accuracy": 0.93}, parameters={"depth": 5})
    text = PAGE.read_text()
    lines = [""] * len(text.splitlines())
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    assert sum(map(bool, lines)) > 20
    program = "\n".join(lines).replace("memory://tour", f"memory://{tmp_path.name}")
    exec(compile(program, str(PAGE), "exec"), {})
