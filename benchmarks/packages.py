"""Model packages: saving, loading, starting and answering, beside bare skops and joblib; and what is covered.

    python benchmarks/packages.py [--quick] [--rounds N]

Peers run interleaved, round by round; the tables show medians. A package is more than its peers' single file: it is
verified, read back and compared before it appears, and ends with fsync. Writes docs/benchmarks/packages.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.hostile_packages.corpus import FILES  # noqa: E402
from tests.unit.packages import estimators  # noqa: E402

from ml_toolbox.base.errors import ToolboxError, Unsupported  # noqa: E402
from ml_toolbox.packages import open_package, save_model, screen  # noqa: E402
from ml_toolbox.packages.skops_types import TRUSTED_TYPES  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks" / "packages.md"
TRUSTED = list(TRUSTED_TYPES)


def models(quick: bool) -> dict[str, Any]:
    rows, target = load_breast_cancer(return_X_y=True)
    trees = 20 if quick else 200
    return {
        f"RandomForest {trees}": RandomForestClassifier(trees, random_state=0).fit(rows, target),
        f"HistGradientBoosting {trees}": HistGradientBoostingClassifier(max_iter=trees, random_state=0).fit(
            rows, target
        ),
        "scaler + logistic regression": make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, target),
    }


def milliseconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def size(path: Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 2**20


def save_and_load(model: Any, folder: Path, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Peer -> (save ms, load ms, MiB)."""
    rows = load_breast_cancer().data

    def fresh(name: str) -> Path:
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def skops_file(path: Path) -> None:
        skops.io.dump(model, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)

    peers: dict[str, tuple[Callable[[], Any], Callable[[], Any], Path]] = {
        "package, original only": (
            lambda: save_model(model, fresh("plain"), sample_input=rows, convert=False),
            lambda: open_package(folder / "plain").load(),
            folder / "plain",
        ),
        "package, with engine": (
            lambda: save_model(model, fresh("full"), sample_input=rows),
            lambda: open_package(folder / "full").predictor(),
            folder / "full",
        ),
        "skops": (
            lambda: skops_file(folder / "m.skops"),
            lambda: skops.io.load(folder / "m.skops", trusted=TRUSTED),
            folder / "m.skops",
        ),
        "joblib (runs code)": (
            lambda: joblib.dump(model, folder / "m.joblib"),
            lambda: joblib.load(folder / "m.joblib"),
            folder / "m.joblib",
        ),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (save, load, _path) in peers.items():
            times[name].append((milliseconds(save), milliseconds(load)))
    return {
        name: (statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken), size(peers[name][2]))
        for name, taken in times.items()
    }


def start(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds from starting Python to the first answer of the logistic regression, each in a fresh process."""
    codes = {
        "package (ONNX Runtime)": "import numpy as np; from ml_toolbox.packages import open_package\n"
        f"open_package({str(folder / 'full')!r}).predictor()(np.zeros((1, 30)))",
        "joblib + scikit-learn": "import numpy as np, joblib\n"
        f"joblib.load({str(folder / 'm.joblib')!r}).predict(np.zeros((1, 30)))",
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            command = [sys.executable, "-c", code]
            taken[name].append(milliseconds(lambda command=command: subprocess.run(command, check=True)) / 1000)  # type: ignore[misc]
    return {name: statistics.median(values) for name, values in taken.items()}


def one_row(model: Any, folder: Path, calls: int) -> tuple[str, float, float, float]:
    """(engine, its us per row, scikit-learn's, the largest difference)."""
    rows = np.asarray(load_breast_cancer().data)
    package = open_package(folder / "full")
    predictor = package.predictor()

    def microseconds(call: Callable[[Any], Any], count: int) -> float:
        for index in range(10):
            call(rows[index : index + 1])
        return milliseconds(lambda: [call(rows[i % 500 : i % 500 + 1]) for i in range(count)]) * 1000 / count

    return (
        predictor.engine,
        microseconds(lambda rows: predictor(rows, ("probabilities",)), calls),
        microseconds(model.predict_proba, max(20, calls // 20)),
        package.manifest.engines[0].max_difference,
    )


def coverage(folder: Path) -> dict[str, Any]:
    """What happens to every estimator of scikit-learn."""
    counts: dict[str, Any] = {
        "estimators": 0,
        "matrix": 0,
        "equal": 0,
        "refused": [],
        "skops alone": 0,
        "engine": 0,
        "served": 0,
    }
    for name in estimators.names():
        model, rows = estimators.fitted(name)
        on_matrix = estimators.takes_matrix(name)
        counts["estimators"] += 1
        counts["matrix"] += on_matrix
        target = folder / f"coverage-{name}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                manifest = save_model(model, target, sample_input=rows if rows is estimators.X else None)
                loaded = open_package(target).load()
        except Unsupported as refusal:
            counts["refused"].append(f"{name} ({refusal.message})")
            continue
        wanted, given = estimators.answers(model, rows), estimators.answers(loaded, rows)
        same = wanted is None or (
            np.allclose(wanted, given, rtol=1e-12) if wanted.dtype.kind == "f" else np.array_equal(wanted, given)
        )
        counts["equal"] += same
        counts["skops alone"] += not skops.io.get_untrusted_types(file=target / "model.skops")
        counts["served"] += bool(manifest.engines)
        counts["engine"] += bool(manifest.engines and manifest.engines[0].kind == "onnxruntime")
        shutil.rmtree(target)
    return counts


def hostile(folder: Path) -> tuple[int, int, int]:
    """(files, refused, canaries touched)."""
    refused = touched = 0
    for name, (build, _reason) in FILES.items():
        inner = folder / f"hostile-{name}"
        inner.mkdir()
        try:
            screen(build(inner, folder / "canary"))
        except ToolboxError:
            refused += 1
        touched += (folder / "canary").exists()
        shutil.rmtree(inner)
    return len(FILES), refused, touched


def page(rounds: int, folder: Path, quick: bool) -> str:
    command = f"python benchmarks/packages.py{' --quick' if quick else ''}"
    lines = [
        "# Model packages",
        "",
        f"`{command}`: Python {platform.python_version()}, medians of {rounds}.",
        "",
        "A package is verified, read back, compared with the model in memory and flushed to disk before it appears; the",
        "peers write one file. *with engine* adds converting to ONNX and proving it on the sample and on rows at the trees'",
        "thresholds; its load is the time until it can answer. One row is asked for probabilities, as scikit-learn is.",
        "",
        "| model | as | save ms | load ms | MiB |",
        "|---|---|---|---|---|",
    ]
    answers = [
        "",
        "| model, one row | engine | us | scikit-learn us | faster | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in models(quick).items():
        for peer, (save, load, mib) in save_and_load(model, folder, rounds).items():
            lines.append(f"| {name} | {peer} | {save:.1f} | {load:.1f} | {mib:.2f} |")
        engine, fast, slow, difference = one_row(model, folder, 200 if quick else 5000)
        answers.append(f"| {name} | {engine} | {fast:.1f} | {slow:.0f} | {slow / fast:.1f} x | {difference:.1e} |")
    lines += answers
    lines += ["", "| from starting Python to the first answer (logistic regression) | s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in start(folder, rounds).items()]
    counts = coverage(folder)
    lines += [
        "",
        "| scikit-learn's own estimators | count |",
        "|---|---|",
        f"| all, each fitted on a small input of its kind | {counts['estimators']} |",
        f"| of them on a small float matrix | {counts['matrix']} |",
        f"| come back with equal answers, no question asked | {counts['equal']} |",
        f"| refused by name: {'; '.join(counts['refused']) or 'none'} | {len(counts['refused'])} |",
        f"| would pass with skops' own list of trusted types | {counts['skops alone']} |",
        f"| can be served (they answer for new rows) | {counts['served']} |",
        f"| of them by ONNX Runtime, proven within 1e-6 | {counts['engine']} |",
        "",
    ]
    files, refused, touched = hostile(folder)
    lines += [
        "| malicious files | count |",
        "|---|---|",
        f"| in the corpus | {files} |",
        f"| refused with a reason | {refused} |",
    ]
    lines += [f"| that ran anything | {touched} |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small models, one round: only shows that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the coverage counts only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.json:
            print(json.dumps(coverage(Path(temporary)), indent=1))
            return
        text = page(1 if options.quick else options.rounds, Path(temporary), options.quick)
    print(text)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
