"""A scaffolded provider installs, is listed, declares what it lacks, and fails only where it has nothing yet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scripts.new_provider import check_provider_name, scaffold

from ml_toolbox.base.errors import Conflict, Invalid
from ml_toolbox.ports.endpoints import CAPABILITIES as ENDPOINT_CAPABILITIES
from ml_toolbox.ports.jobs import CAPABILITIES as JOB_CAPABILITIES

REPOSITORY = Path(__file__).parents[3]
JOB_METHODS = {"offers", "submit", "observe", "logs", "stop", "delete", "list_by_tag"}
ENDPOINT_METHODS = {"offers", "apply", "observe", "invoke", "delete", "list_by_tag"}
MUST_PASS = {
    "test_is_a_job_backend_with_honest_declarations",
    "test_build_is_deterministic_and_names_the_attempt",
    "test_it_is_the_port_and_lacks_only_known_things",
    "test_what_it_lacks_it_refuses_with_the_declared_reason",
    *(f"test_a_declared_lack_is_refused_with_its_reason[{name}]" for name in JOB_CAPABILITIES if name != "detach"),
}


@pytest.mark.parametrize("name", ["acme", "acme-cloud", "a1", "k8s-west-2"])
def test_good_names(name: str) -> None:
    assert check_provider_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "Acme", "1acme", "-acme", "acme-", "a--b", "a_b", "a.b", "../acme", "a/b", "acme\n", "x" * 41, "class", "é", "local",
     "toy"],
)  # fmt: skip
def test_bad_names_are_refused_and_write_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        scaffold(name, tmp_path)
    assert caught.value.field == "NAME"
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link to nowhere"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    there = tmp_path / "acme"
    if kind == "file":
        there.write_text("mine")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict, match="exists already"):
        scaffold("acme", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["acme"]
    assert kind != "file" or there.read_text() == "mine"
    assert kind != "folder" or list(there.iterdir()) == []


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "new_provider.py"), "Not A Name"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not a provider name" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The scaffold as a user makes and installs it (into a folder of its own, not into our environment)."""
    root = tmp_path_factory.mktemp("outside")
    run([sys.executable, str(REPOSITORY / "scripts" / "new_provider.py"), "acme-cloud"], cwd=root)
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    run([sys.executable, *pip, "--target", str(root / "site"), str(root / "acme-cloud")], cwd=root)
    environment = {**os.environ, "PYTHONPATH": str(root / "site"), "MLTOOLBOX_HOME": str(root / "home")}
    return root / "acme-cloud", environment


def run(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installed_it_is_listed_with_all_that_it_lacks(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    command = [sys.executable, "-c", "from ml_toolbox.cli.main import main; main()", "backends", "list", "--json"]
    listed = json.loads(run(command, cwd=folder, env=environment))
    found = next(entry for entry in listed if entry["provider"] == "acme-cloud")["backend"]
    assert found["name"] == "acme-cloud"
    assert set(found["jobs"]) == set(JOB_CAPABILITIES)
    assert set(found["endpoints"]) == set(ENDPOINT_CAPABILITIES)
    assert all("acme-cloud" in lack["reason"] for lack in (found["jobs"] | found["endpoints"]).values())


def test_it_does_not_disturb_what_is_there(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    (folder / "train.py").write_text('print("hello")\n')
    program = (
        "from ml_toolbox.app import Toolbox\n"
        "from ml_toolbox.base.errors import Unsupported\n"
        "from ml_toolbox.domain.jobs import JobSpec\n"
        "spec = JobSpec(name='hello', script='train.py', source='.')\n"
        "plan = Toolbox().plan(spec)\n"
        "print([a.reason for a in plan.alternatives if a.name == 'acme-cloud'])\n"
        "try:\n"
        "    Toolbox().training.submit(spec, 'acme-cloud')\n"
        "except Unsupported as error:\n"
        "    print(error.message)\n"
        "print(len(Toolbox().training.list()))\n"
    )
    plan, refusal, jobs = run([sys.executable, "-c", program], cwd=folder, env=environment).splitlines()
    assert "AcmeCloudJobs.offers is not written yet: src/acme_cloud_provider/jobs.py" in plan
    assert "AcmeCloudJobs.offers is not written yet" in refusal
    assert jobs == "0"


@pytest.mark.lengthy
def test_its_tests_pass_for_what_it_lacks_and_fail_only_for_what_is_not_written(
    installed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, environment = installed
    report = tmp_path / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        f"--junitxml={report}",
        "tests",
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:]

    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    assert [case.get("name") for case in cases if case.find("error") is not None] == [], "fixtures work from the start"
    passed = {case.get("name") for case in cases if not list(case)}
    assert passed >= MUST_PASS
    named: dict[str, set[str]] = {"Jobs": set(), "Endpoints": set()}
    for case in cases:
        failure = case.find("failure")
        if failure is not None:
            text = f"{failure.get('message')}\n{failure.text}"
            found = re.search(
                r"AcmeCloud(Jobs|Endpoints)\.(\w+) is not written yet: src/acme_cloud_provider/(jobs|endpoints)\.py",
                text,
            )
            assert found, f"{case.get('name')} fails without naming file and method:\n{text}"
            assert found[3] == found[1].lower()
            named[found[1]].add(found[2])
    assert named["Jobs"] <= JOB_METHODS
    assert named["Jobs"] >= {"offers", "submit", "observe"}
    assert named["Endpoints"] <= ENDPOINT_METHODS
    assert named["Endpoints"] >= {"offers", "apply", "observe"}


def test_what_is_written_is_clean(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    ruff = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    assert ruff
    run([ruff, "check", "."], cwd=folder, env=environment)
    # Our own package is followed as an installed one, so this checks the scaffold alone.
    run([sys.executable, "-m", "mypy", "src"], cwd=folder, env=environment)
