"""What ``import ml_toolbox`` costs and offers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_toolbox

# Figures of the base package's promise: at most 60 modules beyond bare Python, none of these among them.
MODULE_LIMIT = 60
FORBIDDEN = ("numpy", "pandas", "pyarrow", "sklearn", "torch", "onnxruntime", "boto3", "botocore", "azure", "google", "obstore",
             "sqlalchemy", "rich", "click", "fastapi", "starlette", "flask", "uvloop", "pydantic")  # fmt: skip


def modules_after(statement: str) -> set[str]:
    program = f"import sys, json; before = set(sys.modules); {statement}; print(json.dumps(sorted(set(sys.modules) - before)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output))


def test_importing_the_package_is_light() -> None:
    loaded = modules_after("import ml_toolbox")
    assert len(loaded) <= MODULE_LIMIT
    assert [name for name in FORBIDDEN if name in loaded] == []


def test_help_loads_no_command_and_nothing_heavy() -> None:
    loaded = modules_after(
        "from click.testing import CliRunner; from ml_toolbox.cli.main import cli; "
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0"
    )
    heavy = [name for name in FORBIDDEN if name in loaded and name not in ("click",)]
    assert heavy == []
    assert [name for name in loaded if name.startswith("ml_toolbox.cli.")] == ["ml_toolbox.cli.main"]


def test_training_loads_neither_a_database_library_nor_an_event_loop(tmp_path: Path) -> None:
    """From Enter to the first line of a script nothing is imported that the job itself does not need."""
    (tmp_path / "hello.py").write_text("print('hello from the job')\n")
    program = (
        "import atexit, json, sys\n"
        "from pathlib import Path\n"
        "atexit.register(lambda: Path('modules.json').write_text(json.dumps(sorted(sys.modules))))\n"
        "from ml_toolbox.cli.main import main\n"
        "main(['train', 'hello.py'])\n"
    )
    environment = {**os.environ, "MLTOOLBOX_HOME": str(tmp_path / "home")}
    for _ in range(2):  # the first makes the database, the second finds it
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "hello from the job" in done.stdout
        loaded = set(json.loads((tmp_path / "modules.json").read_text()))
        assert "ml_toolbox.state.sqlite" in loaded, "the job went through the state"
        heavy = [name for name in (*FORBIDDEN, "asyncio", "ssl") if name in loaded and name != "click"]
        assert heavy == []


def test_every_public_name_resolves() -> None:
    for name in ml_toolbox.__all__:
        assert getattr(ml_toolbox, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(ml_toolbox, "no_such_name")
