"""Killing a save at any moment leaves a whole package or none."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ml_toolbox.packages import open_package

_SCRIPT = """
import sys, numpy as np
from sklearn.linear_model import Ridge
from ml_toolbox.packages import save_model
model = Ridge().fit(np.random.rand(50, 400), np.random.rand(50))
print("ready", flush=True)
for number in range(10_000):
    save_model(model, f"{sys.argv[1]}/p{number}", sample_input=np.ones((20, 400)), convert=False)
"""


def test_a_killed_save_leaves_whole_packages_only(tmp_path: Path) -> None:
    whole = 0
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while not (folder / f"p{2 + attempt}").exists():
            assert time.monotonic() < deadline
            time.sleep(random.uniform(0.001, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for package in folder.glob("p*"):
            open_package(package).verify()
            whole += 1
    assert whole >= 9
