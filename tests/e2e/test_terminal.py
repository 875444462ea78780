"""What a person at a terminal sees: nothing that the script printed is wiped out by the bar below it."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

import pytest

SCRIPT = """
import time
for epoch in range(1, 6):
    print(f"epoch {epoch}/5 of the script", flush=True)
    time.sleep(0.5)
"""


@pytest.mark.lengthy
def test_every_line_stays_above_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    seen = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        seen.extend(data)
        return b"." if data else b""

    metric = "epoch=epoch ([0-9]+)/([0-9]+)"
    status = pty.spawn([sys.executable, "-m", "ml_toolbox.cli.main", "train", "train.py", "--metric", metric], read)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
    assert os.waitstatus_to_exitcode(status) == 0, text
    shown = [line for line in re.split(r"[\r\n]+", text) if line.startswith("epoch ")]
    assert shown == [f"epoch {number}/5 of the script" for number in range(1, 6)]
    assert "━" in text
    assert "succeeded train" in text
