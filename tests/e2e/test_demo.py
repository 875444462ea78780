"""The demo as `make demo` runs it: to its end, and cut short by Ctrl-C at telling moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "demo.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "MLTOOLBOX_DEMO_HOME": str(tmp_path / "demo"), "PYTHONUNBUFFERED": "1"}


def processes_naming(folder: Path) -> list[str]:
    mark = os.fsencode(str(folder))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                if mark in command + (entry / "environ").read_bytes():
                    found.append(command.replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


@pytest.mark.lengthy
@pytest.mark.timeout(300)
def test_the_demo_plays_to_its_end_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, DEMO], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1000 requests: v1 answered 900 (90.0%), v2 answered 100 (10.0%)" in result.stdout
    assert "200 requests: v2 answered 200 (100.0%)" in result.stdout
    assert "cleaned up" in result.stdout
    assert not (tmp_path / "demo").exists()
    assert processes_naming(tmp_path) == []


@pytest.mark.lengthy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["breast-cancer:1", "epoch 2/5", "$ mltoolbox deploy cancer:1", "7. Send 1,000"])
def test_ctrl_c_at_any_moment_leaves_nothing_running(moment: str, environment: dict[str, str], tmp_path: Path) -> None:
    seen = []
    with subprocess.Popen(
        [sys.executable, DEMO],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in lines_of(process):
            seen.append(line)
            if moment in line:
                # What a terminal does: the whole foreground group gets it.
                os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=120)
    assert code == 130, "".join(seen)
    assert "cleaned up" in "".join(seen[-3:])
    deadline = time.monotonic() + 5
    while (left := processes_naming(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
