"""The whole life of a model on this machine, with the commands that a user types. Run by `make demo`.

Everything lives in a folder of its own (``.demo`` beside the repository's README) and is gone at the end, also after
Ctrl-C. What a killed run left behind is cleaned up by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("MLTOOLBOX_DEMO_HOME") or HERE.parent.parent / ".demo").absolute()
CSV = HOME / "breast_cancer.csv"
COMMAND = Path(sys.executable).parent / "mltoolbox"
MODEL = ENDPOINT = "cancer"
INSTANCES = ("m5.large", "n2-standard-2", "Standard_D2s_v5")


@dataclass
class Steps:
    """What ran and how long it took."""

    rows: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def timed(self, title: str) -> Iterator[None]:
        stop_if_interrupted()
        heading(f"{len(self.rows) + 1}. {title}")
        started = time.perf_counter()
        yield
        self.rows.append((title, time.perf_counter() - started))


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def mltoolbox(*arguments: str) -> None:
    """Show the command as it would be typed, and run it."""
    shown = shlex.join(argument.replace(str(HERE) + "/", "").replace(str(HOME) + "/", "") for argument in arguments)
    print(f"$ mltoolbox {shown}", flush=True)
    child = subprocess.Popen([COMMAND, *arguments])
    if INTERRUPTED:
        # The signal came before the child was there to get it from the terminal.
        child.send_signal(signal.SIGINT)
    code = child.wait()
    stop_if_interrupted()
    if code:
        raise subprocess.CalledProcessError(code, shown)


INTERRUPTED: list[int] = []
"""Signals that asked us to end. Kept and looked at between steps, because an exception in the middle of starting a child
would lose the child."""


def stop_if_interrupted() -> None:
    if INTERRUPTED:
        raise KeyboardInterrupt


def main() -> int:
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("the demo is running already in another terminal", file=sys.stderr)
            return 1
        os.environ["MLTOOLBOX_HOME"] = str(HOME / "home")
        for name in ("MLTOOLBOX_REGISTRY", "MLTOOLBOX_DATA"):
            os.environ.pop(name, None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _frame: INTERRUPTED.append(received))
        clean_up(quiet=True)
        steps = Steps()
        try:
            play(steps)
        except KeyboardInterrupt:
            print("\ninterrupted: cleaning up ...", flush=True)
            return 130
        except subprocess.CalledProcessError as error:
            print(f"\nthe command above failed with exit code {error.returncode}", file=sys.stderr)
            return 1
        finally:
            clean_up()
    shutil.rmtree(HOME)
    return 0


def play(steps: Steps) -> None:
    with steps.timed("Store a real dataset from CSV"):
        write_csv()
        mltoolbox("data", "put", "breast-cancer", str(CSV), "--description", "Wisconsin breast cancer, 569 rows")
    with steps.timed("Plan"):
        mltoolbox("plan", *training(n_estimators=10, max_depth=2))
    with steps.timed("Train version 1"):
        mltoolbox("train", *training(n_estimators=10, max_depth=2))
        mltoolbox("models", "list")
    with steps.timed("Deploy version 1, ask it"):
        mltoolbox("deploy", f"{MODEL}:1", "--endpoint", ENDPOINT)
        mltoolbox("predict", ENDPOINT, "--input", str(HOME / "rows.csv"))
    with steps.timed("Train version 2, compare"):
        mltoolbox("train", *training(n_estimators=200, max_depth=8))
        mltoolbox("models", "compare", MODEL, "1", "2")
    with steps.timed("Version 2 beside it, at 10 %"):
        mltoolbox("deploy", f"{MODEL}:2", "--endpoint", ENDPOINT, "--weight", "10")
    with steps.timed("Send 1,000 requests"):
        count_answers(1000)
    with steps.timed("All traffic to version 2"):
        mltoolbox("endpoints", "traffic", ENDPOINT, "v2=100")
        mltoolbox("models", "promote", f"{MODEL}:2", "Production")
        count_answers(200)
        mltoolbox("endpoints", "list")
    stop_if_interrupted()
    summary(steps)


def training(**hyperparameters: int) -> list[str]:
    arguments = [str(HERE / "train.py"), "--input", "training=data:breast-cancer", "--register", MODEL]
    for name, value in hyperparameters.items():
        arguments += ["--hp", f"{name}={value}"]
    for metric in ("accuracy", "auc"):
        arguments += ["--metric", f"{metric}={metric}=([0-9.]+)"]
    return [*arguments, "--metric", "epoch=epoch ([0-9]+)/([0-9]+)"]


def write_csv() -> None:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(CSV, index=False)
    frame.drop(columns="target").iloc[[0, 100, 19]].to_csv(HOME / "rows.csv", index=False)
    print(f"{CSV.name}: {len(frame)} rows, {len(frame.columns)} columns")


def count_answers(requests: int) -> None:
    import numpy as np

    import ml_toolbox as mlt

    rows = np.loadtxt(HOME / "rows.csv", delimiter=",", skiprows=1)
    bodies = [json.dumps({"instances": [row.tolist()]}).encode() for row in rows]
    endpoint = mlt.Toolbox().serving.endpoint(ENDPOINT)
    answered: Counter[str] = Counter()
    for number in range(requests):
        stop_if_interrupted()
        answered[endpoint.invoke(bodies[number % len(bodies)]).variant] += 1
    endpoint.close()
    shares = ", ".join(f"{name} answered {count} ({count / requests:.1%})" for name, count in sorted(answered.items()))
    print(f"{requests} requests: {shares}")


def summary(steps: Steps) -> None:
    from ml_toolbox.catalog import prices
    from ml_toolbox.cli.output import duration, print_table

    heading("What ran, and what the time would have cost")
    offers = [prices.find(name) for name in INSTANCES]
    columns = ("step", "took", *(f"{o.backend} {o.instance_type}" for o in offers))
    rows = [
        (title, duration(seconds), *(o.price_hourly.times(seconds / 3600) for o in offers))
        for title, seconds in steps.rows
    ]
    total = sum(seconds for _, seconds in steps.rows)
    rows.append(("all of it", duration(total), *(o.price_hourly.times(total / 3600) for o in offers)))
    print_table(columns, rows, empty="")
    dates = ", ".join(f"{o.backend} {o.price_hourly}/h as of {o.price_as_of}" for o in offers)
    print(f"On this machine: nothing. Prices: {dates}.")


def clean_up(*, quiet: bool = False) -> None:
    """Delete every endpoint and job of the demo's home, then the home; prove that no process of it is left."""
    import ml_toolbox as mlt

    home = HOME / "home"
    if home.exists():
        toolbox = mlt.Toolbox()
        for endpoint in toolbox.serving.list():
            toolbox.serving.delete(endpoint.name)
        for job in toolbox.training.list(limit=10_000):
            toolbox.training.delete(job.id)
        deadline = time.monotonic() + 5
        while (left := processes_of(home)) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(home)
        if left:
            raise SystemExit(f"processes are still running: {left}")
    if not quiet:
        print("\ncleaned up: no process, no port, no file of the demo is left", flush=True)


def processes_of(home: Path) -> list[int]:
    """Processes whose command line or environment names the demo's home (this one and its parents aside)."""
    found = []
    mark = os.fsencode(str(home))
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), os.getppid()):
            try:
                if mark in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


if __name__ == "__main__":
    sys.exit(main())
