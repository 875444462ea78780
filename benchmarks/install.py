"""Base install, command start and import weight, beside the peers, in fresh virtual environments.

    python benchmarks/install.py            all peers (several minutes, about 2 GB of downloads)
    python benchmarks/install.py --quick    metaflow and a Typer hello-world only

Writes docs/benchmarks/install.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "install.md"

HELLO = '''\
import typer

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    """Say hello."""
    print("hello", name)


@app.command()
def goodbye(name: str, formal: bool = False) -> None:
    """Say goodbye."""
    print("goodbye", name)


app()
'''


@dataclass(frozen=True)
class Installed:
    name: str
    python: Path
    distributions: int
    megabytes: float


def install(name: str, packages: Sequence[str], folder: Path) -> Installed:
    """A fresh environment without pip and setuptools; what is counted is what the packages bring."""
    home = folder / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *packages], check=True, stderr=subprocess.DEVNULL)
    site = next((home / "lib").glob("python*")) / "site-packages"
    distributions = len(list(site.glob("*.dist-info")))
    files = [path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return Installed(name, python, distributions, sum(path.stat().st_size for path in files) / 1e6)


def cpu_seconds(command: Sequence[str | Path], environment: dict[str, str]) -> float:
    """User and system time of one run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def interleaved(
    commands: dict[str, Sequence[str | Path]], rounds: int, environment: dict[str, str]
) -> dict[str, float]:
    """Median CPU seconds of each command; one run of each per round, after one round that is thrown away."""
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = cpu_seconds(command, environment)
            if number:
                samples[name].append(seconds)
    return {name: statistics.median(values) for name, values in samples.items()}


def modules_of(python: Path, statement: str) -> list[str]:
    program = f"import sys, json; before = set(sys.modules); {statement}; print(json.dumps(sorted(set(sys.modules) - before)))"
    result = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    names: list[str] = json.loads(result.stdout.splitlines()[-1])
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the small peers")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as scratch:
        page = measure(Path(scratch), quick=quick)
    print(page)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")


def measure(folder: Path, *, quick: bool) -> str:
    peers = {"metaflow": ["metaflow"], "typer": ["typer"]}
    if not quick:
        peers |= {"mlflow": ["mlflow"], "skypilot": ["skypilot"]}
    ours = install("ml-toolbox", [str(ROOT)], folder)
    others = {name: install(name, packages, folder) for name, packages in peers.items()}
    hello = folder / "hello.py"
    hello.write_text(HELLO)
    environment = {**os.environ, "HOME": str(folder), "MLTOOLBOX_HOME": str(folder / "home")}
    environment.pop("PYTHONPATH", None)
    cpu = interleaved(
        {
            "mltoolbox --help": [ours.python.parent / "mltoolbox", "--help"],
            "Typer hello-world --help": [others["typer"].python, hello, "--help"],
            "metaflow --help": [others["metaflow"].python.parent / "metaflow", "--help"],
        },
        rounds=5 if quick else 15,
        environment=environment,
    )
    modules = modules_of(ours.python, "import ml_toolbox")
    return render(ours, [peer for name, peer in others.items() if name != "typer"], cpu, modules)


def render(ours: Installed, peers: Sequence[Installed], cpu: dict[str, float], modules: Sequence[str]) -> str:
    lines = [
        "# Install, start and import",
        "",
        "`python benchmarks/install.py`: fresh environments, packages only (no pip, no byte code).",
        "",
        "| base install | distributions | MB |",
        "|---|---|---|",
        *(f"| {item.name} | {item.distributions} | {item.megabytes:.0f} |" for item in (ours, *peers)),
        "",
        "| command | CPU s (median) | against it |",
        "|---|---|---|",
    ]
    mine = cpu["mltoolbox --help"]
    lines += [f"| {name} | {seconds:.3f} | {mine / seconds:.2f} x |" for name, seconds in cpu.items()]
    lines += ["", f"`import ml_toolbox` loads {len(modules)} modules beyond bare Python.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
