"""What a user types, on one home, one thing after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, sys, time
import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
data = np.loadtxt(os.path.join(os.environ["SM_CHANNEL_TRAINING"], "data.csv"), delimiter=",", skiprows=1)
model = LogisticRegression(C=float(arguments.get("--C", 1))).fit(data[:, :2], data[:, 2])
print("accuracy=%.4f" % model.score(data[:, :2], data[:, 2]), flush=True)
joblib.dump(model, os.path.join(os.environ["SM_MODEL_DIR"], "model.joblib"))
"""


class Shell:
    """Runs ``mltoolbox`` on a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "MLTOOLBOX_HOME": str(folder / "home"), "MLTOOLBOX_ACTOR": "ada"}

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ml_toolbox.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def ok(self, *arguments: str, stdin: str = "") -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    rows = ["a,b,y"] + [f"{i % 7},{i % 5},{int(i % 7 > 3)}" for i in range(200)]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "train.py").write_text(SCRIPT)
    return Shell(tmp_path)


@pytest.mark.lengthy
@pytest.mark.timeout(240)
def test_from_data_to_traffic(shell: Shell) -> None:
    assert "points:1  200 rows" in shell.ok("data", "put", "points", "data.csv")
    train = [
        "train",
        "train.py",
        "-i",
        "training=data:points",
        "--metric",
        "accuracy=accuracy=([0-9.]+)",
        "-r",
        "churn",
    ]
    plan = shell.json("plan", *train[1:])
    assert plan["cost_per_hour"] == {"usd": 0.0}
    assert shell.json("jobs", "list") == []

    first = shell.json(*train)
    assert first["state"] == "succeeded"
    assert first["model"] == "churn:1"
    assert "registered churn:2" in shell.ok(*train, "--hp", "C=0.01")

    compared = shell.json("models", "compare", "churn", "1", "2")
    assert compared["parameters"] == {"C": [None, 0.01]}
    assert "churn:2 is in Production" in shell.ok("models", "promote", "churn:2", "production")
    assert shell.json("models", "show", "churn@Production")["version"]["version"] == 2
    assert {line["actor"] for line in shell.json("models", "audit", "churn")} == {"ada"}
    assert "all as registered" in shell.ok("models", "verify", "churn:1")
    shell.ok("models", "export", "churn:1", "churn.tar.gz")
    assert shell.ok("models", "import", "churn.tar.gz", "copy").strip() == "copy:1"

    try:
        shell.ok("deploy", "churn:1", "--endpoint", "churn")
        shell.ok("deploy", "churn@Production", "--endpoint", "churn", "--weight", "25")
        (listed,) = shell.json("endpoints", "list")
        assert {v["name"]: v["weight"] for v in listed["status"]["variants"]} == {"v1": 75, "v2": 25}
        assert shell.ok("predict", "churn", "-i", "-", stdin="[[6, 1], [0, 1]]").split() == ["1.0", "0.0"]
        wrong = shell.run("predict", "churn", "-i", "-", stdin="[[6, 1, 2]]")
        assert wrong.returncode == 2
        assert "Traceback" not in wrong.stderr
        shell.ok("endpoints", "traffic", "churn", "v2=100")
        shell.ok("endpoints", "scale", "churn", "2")
        assert "v2" in shell.ok("endpoints", "show", "churn")
    finally:
        shell.ok("endpoints", "delete", "churn", "--yes")
    assert shell.json("endpoints", "list") == []


@pytest.mark.lengthy
def test_a_detached_job_is_followed_stopped_and_deleted(shell: Shell) -> None:
    (shell.folder / "slow.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    job = shell.json("train", "slow.py", "--detach")["id"]
    assert "slow is stopped" in shell.ok("jobs", "stop", job)
    assert shell.json("jobs", "show", job)["job"]["state"] == "stopped"
    refused = shell.run("jobs", "delete", job)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    shell.ok("jobs", "delete", job, "--yes")
    assert shell.run("jobs", "show", job).returncode == 1


@pytest.mark.lengthy
def test_a_failing_script_is_told_in_one_line_with_its_place(shell: Shell) -> None:
    (shell.folder / "bad.py").write_text("print('working')\nvalue = float('x')\n")
    result = shell.run("train", "bad.py")
    assert result.returncode == 1
    assert "working" in result.stdout
    assert "ValueError" in result.stderr
    assert "bad.py:2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nosuch.py"], "there is no file nosuch.py"),
        (["train", "notes.txt"], "neither a script nor a spec"),
        (["train", "train.py", "--hp", "C"], "is not NAME=VALUE"),
        (["train", "train.py", "-i", "training=missing.csv"], "does not exist"),
        (["train", "train.py", "--on", "moon"], "'moon' is not known"),
        (["train", "train.py", "--accelerators", "T4:x"], "accelerators"),
        (["train", "train.py", "--register", "a b"], "not a legal name"),
        (["models", "show", "churn:zero"], "not a version number"),
    ],
)
def test_wrong_input_is_named_with_exit_code_2(shell: Shell, arguments: list[str], message: str) -> None:
    result = shell.run(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "show", "nosuch"],
        ["models", "show", "nosuch"],
        ["endpoints", "show", "nosuch"],
        ["data", "show", "nosuch"],
    ],
)
def test_what_does_not_exist_is_exit_code_1_with_a_way_on(shell: Shell, arguments: list[str]) -> None:
    result = shell.run(*arguments)
    assert result.returncode == 1
    assert "nosuch" in result.stderr
    assert "Traceback" not in result.stderr


def test_empty_listings_say_what_to_do(shell: Shell) -> None:
    for arguments in (["jobs", "list"], ["models", "list"], ["data", "list"], ["endpoints", "list"]):
        result = shell.run(*arguments)
        assert result.returncode == 0
        assert "mltoolbox" in result.stderr
        assert json.loads(shell.run(*arguments, "--json").stdout) == []


def test_init_writes_a_commented_settings_file_once(shell: Shell) -> None:
    assert "wrote" in shell.ok("init")
    assert "left as it is" in shell.ok("init")


def test_doctor_finds_nothing_wrong_on_a_fresh_home(shell: Shell) -> None:
    findings = shell.json("doctor")
    assert [f for f in findings if f["state"] == "error"] == []
