"""From Enter to the first line of a script that only prints, beside metaflow's one-step flow.

    python benchmarks/train_start.py [--quick] [--rounds N]

Both are run interleaved, round by round, as a user would: a fresh process each time, output through a pipe, each in a fresh
environment with nothing else installed. ``bare`` is
``python hello.py`` itself. Writes docs/benchmarks/train_start.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "train_start.md"
LINE = "hello from the script"
SCRIPT = f"print({LINE!r})\n"
FLOW = f"""
from metaflow import FlowSpec, step

class HelloFlow(FlowSpec):
    @step
    def start(self):
        print({LINE!r}, flush=True)
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    HelloFlow()
"""


class Run(NamedTuple):
    first_s: float
    """Until the script's own line could be read."""
    whole_s: float
    cpu_s: float
    """User and system time of the command and the children it waited for."""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> Run:
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    first = None
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if first is None and LINE in line:
            first = time.perf_counter() - start
    if process.wait() != 0 or first is None:
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(seen)}")
    whole = time.perf_counter() - start
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(first, whole, cpu)


def environment(folder: Path, package: str) -> Path:
    """The ``bin`` of a fresh environment with only this package and what it needs in it."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return folder / "bin"


def version(python: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "work").mkdir()
        (root / "work" / "hello.py").write_text(SCRIPT)
        (root / "work" / "flow.py").write_text(FLOW)
        ours = environment(root / "ours", str(Path(__file__).resolve().parent.parent))
        other = str(environment(root / "metaflow", "metaflow") / "python")
        plain = {**os.environ, "MLTOOLBOX_HOME": str(root / "home"), "METAFLOW_HOME": str(root / "mf"), "USER": "bench"}
        commands = {
            "python hello.py (bare)": [sys.executable, "hello.py"],
            "mltoolbox train hello.py": [str(ours / "mltoolbox"), "train", "hello.py"],
            f"metaflow {version(other, 'metaflow')}, one step + end": [other, "flow.py", "run"],
        }
        results: dict[str, list[Run]] = {title: [] for title in commands}
        for number in range(rounds + 1):
            for title, command in commands.items():
                measured = run(command, root / "work", plain)
                if number:  # the first round fills caches of compiled modules
                    results[title].append(measured)
        page = table(results, rounds)
        shutil.rmtree(root / "home", ignore_errors=True)
    print(page)
    if not options.quick:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page)


def table(results: dict[str, list[Run]], rounds: int) -> str:
    lines = [
        "# From Enter to the first line",
        "",
        f"`python benchmarks/train_start.py --rounds {rounds}`: medians (smallest to largest), interleaved, in seconds;",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| command | first line of the script | whole command | CPU of the command |",
        "|---|---|---|---|",
    ]
    for title, runs in results.items():
        cells = [_spread([run[index] for run in runs]) for index in range(3)]
        lines.append(f"| `{title}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
