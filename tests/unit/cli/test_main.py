"""The command line's frame: help, unknown commands, errors, exit codes, completion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml_toolbox.cli import main as cli_main
from ml_toolbox.cli.main import COMMANDS, cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ml_toolbox.cli.main", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_command_with_its_line() -> None:
    output = CliRunner().invoke(cli, ["--help"], terminal_width=200).output
    for name, (_, _, line) in COMMANDS.items():
        assert name in output
        assert line.split(".")[0][:40] in output


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_subcommand_has_help(name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.help
    for child in getattr(command, "commands", {}).values():
        assert child.help, f"{name} {child.name}"
        assert CliRunner().invoke(cli, [name, child.name, "--help"]).exit_code == 0
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_listings_take_json() -> None:
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        for child in getattr(command, "commands", {}).values():
            if child.name in ("list", "show", "versions", "compare", "audit", "verify", "check"):
                assert "--json" in [o for p in child.params for o in p.opts], f"{name} {child.name}"


def test_a_mistyped_command_is_answered_with_the_nearest_and_exit_code_2() -> None:
    result = run("trian")
    assert result.returncode == 2
    assert "Did you mean 'train'?" in result.stderr


def test_an_error_is_one_message_with_a_hint_and_no_stack_trace() -> None:
    result = run("backends", "check", "locl")
    assert result.returncode == 2
    assert "Error: provider: 'locl' is not known" in result.stderr
    assert "Hint:  did you mean local?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_with_json_is_a_problem_document() -> None:
    import json

    result = run("backends", "check", "locl", "--json")
    problem = json.loads(result.stderr)
    assert problem["type"] == "urn:ml-toolbox:error:invalid"
    assert problem["field"] == "provider"
    assert result.stdout == ""


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    program = f"{sys.executable} -m ml_toolbox.cli.main models --help | head -1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {program}"], capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_ctrl_c_leaves_with_130_and_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main.cli, "main", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli_main.main(["doctor"])
    assert caught.value.code == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    output = CliRunner().invoke(cli, ["completion", shell]).output
    assert "_MLTOOLBOX_COMPLETE" in output


def test_completion_completes(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ml_toolbox.cli.main"],
        env={
            "PATH": "/usr/bin:/bin",
            "_MLTOOLBOX_COMPLETE": "bash_complete",
            "COMP_WORDS": "mltoolbox mod",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "models" in result.stdout


def test_version() -> None:
    from ml_toolbox import __version__

    assert run("--version").stdout.strip() == f"mltoolbox {__version__}"
