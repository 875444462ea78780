"""Run every command by hand, so to speak, and write what it printed to docs/tour.md and the short tour in README.md.

    python scripts/record_tour.py

Nothing in those texts is typed by a person: they are what this machine answered. Paths of temporary folders are shortened.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tour -->", "<!-- end of tour -->"

SPEC = """\
script: train.py
inputs:
  training: data:breast-cancer
hyperparameters:
  n_estimators: 100
  max_depth: 6
metrics:
  accuracy: accuracy=([0-9.]+)
register: cancer
limits:
  max_duration_s: 600
"""
TRAIN = (
    "train train.py --input training=data:breast-cancer --hp n_estimators=10 "
    "--metric 'accuracy=accuracy=([0-9.]+)' --register cancer"
)
PYTHON = """\
import ml_toolbox as mlt

job = mlt.train("train.py", inputs={"training": "breast_cancer.csv"}, hyperparameters={"n_estimators": 50}, register="cancer")
job.wait()
print(job.model, dict(job.metrics))

endpoint = mlt.deploy(job.model, endpoint="cancer", weight=50)
print(endpoint.predict([[14.0] * 30, [20.0] * 30]))
print({v.model: v.weight for v in endpoint.status().variants})
"""

SHORT = (
    "data put breast-cancer breast_cancer.csv",
    TRAIN,
    "train spec.yaml",
    "models compare cancer 1 2",
    "deploy cancer:1 --endpoint cancer",
    "deploy cancer:2 --endpoint cancer --weight 10",
    "predict cancer --input rows.csv",
    "endpoints delete cancer --yes",
)
"""What README shows, taken from the whole recording."""

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Setting up", "Optional: every command creates what it uses.",
     ("init", "doctor", "backends list", "backends check local")),
    ("Data", "", (SHORT[0], "data list", "data show breast-cancer", "data verify breast-cancer",
                  "data export breast-cancer out.parquet", "data get breast-cancer:1 copy")),
    ("Planning", "Nothing is launched, no credentials are needed.", (f"plan {TRAIN.removeprefix('train ')}",)),
    ("Training", "", (TRAIN, "!cat spec.yaml", "train spec.yaml", "train slow.py --detach", "jobs list", "jobs stop slow",
                      "jobs logs -f cancer", "train broken.py", "jobs show cancer", "jobs logs broken",
                      "jobs delete broken --yes")),
    ("Models", "", ("models list", "models versions cancer", "models compare cancer 1 2", "models promote cancer:1 Production",
                    "models promote cancer:2 Production --archive-existing", "models alias cancer:2 champion",
                    "models show cancer@champion", "models list --filter 'metrics.accuracy > 0.9 and stage = \"Production\"'",
                    "models verify cancer:2", "models export cancer:2 cancer-2.tar.gz", "models import cancer-2.tar.gz twin",
                    "models delete cancer:1 --yes", "models restore cancer:1", "models audit cancer")),
    ("Serving", "", ("deploy cancer:1 --endpoint cancer --plan", "deploy cancer:1 --endpoint cancer",
                     "deploy cancer:2 --endpoint cancer --weight 10", "predict cancer --input rows.csv",
                     "predict cancer --input rows.csv --json",
                     "predict cancer --input wrong.csv", "endpoints list",
                     "endpoints traffic cancer v2=50", "endpoints scale cancer 2",
                     "endpoints show cancer", "endpoints logs cancer",
                     "!timeout --signal INT 4 mltoolbox serve cancer:1 --port 0")),
    ("The same from Python", "", ("!cat tour.py", "!python tour.py")),
    ("Cleaning up", "", ("endpoints delete cancer --yes", "endpoints list", "jobs list --json")),
)  # fmt: skip


@dataclass
class Recorder:
    folder: Path
    texts: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> str:
        """The command and what it printed, as a terminal would show them."""
        shown = command.removeprefix("!") if command.startswith("!") else f"mltoolbox {command}"
        arguments = shlex.split(shown)
        if arguments[0] in ("mltoolbox", "python"):
            arguments[0] = str(Path(sys.executable).parent / arguments[0])
        environment = {
            **os.environ, "MLTOOLBOX_HOME": str(self.folder / "home"), "MLTOOLBOX_ACTOR": "ada", "COLUMNS": "110",
            "PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        result = subprocess.run(
            arguments,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        code = f"(exit code {result.returncode})\n" if result.returncode else ""
        text = f"$ {shown}\n{self.shortened(result.stdout)}{code}"
        self.texts[command] = text
        print(text, flush=True)
        return text

    def shortened(self, text: str) -> str:
        for path, name in ((self.folder / "home", "~/.mltoolbox"), (self.folder, "~/tour"), (ROOT, "~/ml-toolbox")):
            text = text.replace(str(path), name)
        return "\n".join(line.rstrip() for line in text.splitlines()) + ("\n" if text else "")


def prepare(folder: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(folder / "breast_cancer.csv", index=False)
    rows = frame.drop(columns="target").iloc[[0, 100, 19]]
    rows.to_csv(folder / "rows.csv", index=False)
    rows.drop(columns="mean radius").to_csv(folder / "wrong.csv", index=False)
    shutil.copy(ROOT / "examples" / "demo" / "train.py", folder)
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "tour.py").write_text(PYTHON)
    (folder / "slow.py").write_text("import time\n\nprint('this takes its time', flush=True)\ntime.sleep(600)\n")
    (folder / "broken.py").write_text("import pandas as pd\n\nprint('reading')\npd.read_csv('no_such_file.csv')\n")
    (folder / ".mltignore").write_text("home/\ncopy/\n*.csv\n*.parquet\n*.gz\n")


def page(recorder: Recorder, sections: Sequence[tuple[str, str, tuple[str, ...]]]) -> str:
    parts = ["# Every command, with what it printed\n\nRecorded by `python scripts/record_tour.py`.\n"]
    for title, note, commands in sections:
        parts.append(f"## {title}\n" + (f"\n{note}\n" if note else ""))
        parts += [f"```\n{recorder.run(command)}```\n" for command in commands]
    return "\n".join(parts)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tour-") as scratch:
        folder = Path(scratch)
        prepare(folder)
        recorder = Recorder(folder)
        text = page(recorder, SECTIONS)
    (ROOT / "docs" / "tour.md").write_text(text, encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    tour = "\n".join(recorder.texts[command].rstrip() for command in SHORT)
    readme.write_text(f"{before}{BEGIN}\n\n```\n{tour}\n```\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
