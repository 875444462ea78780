"""Money and the loop as users meet them: real commands, real processes, a machine that has a price."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from ml_toolbox.app import Toolbox
from ml_toolbox.cli.main import cli
from ml_toolbox.domain.money import Money
from ml_toolbox.features.training import attempts
from tests.e2e.test_command_line import Shell
from tests.postgres import Server, binaries, started

SAVING = """
import time
from ml_toolbox import runtime

found = runtime.latest_checkpoint()
start = int(found[0].read_text()) if found else 0
print("begins at", start, flush=True)
for step in range(start, 100_000):
    if runtime.should_stop():
        with open("state.txt", "w") as file:
            file.write(str(step))
        runtime.checkpoint("state.txt", step)
        print("saved at", step, flush=True)
        break
    time.sleep(0.02)
"""
PRICE = 360.0
"""Dollars an hour: ten cents a second."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(f"[providers.local]\nprice_per_hour = {PRICE}\nmax_concurrent_jobs = 8\n")
    (tmp_path / "train.py").write_text(SAVING)
    (tmp_path / "quick.py").write_text("print(1)\n")
    yield made
    for job in Toolbox(home).training.list():
        if not job.state.is_final:
            made.run("jobs", "stop", job.id)


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The same commands on the embedded state, and on a server's."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres_server")
        shell.environment["MLTOOLBOX_STATE"] = server.new_schema()
        monkeypatch.setenv("MLTOOLBOX_STATE", shell.environment["MLTOOLBOX_STATE"])
    return shell


def until(reached: Callable[[], bool], what: str, *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def job_state(shell: Shell, job: str) -> str:
    return str(shell.json("jobs", "show", job)["job"]["state"])


def ledger_adds_up(home: Path) -> None:
    """What jobs say, what the ledger says and what the report says are one sum."""
    toolbox = Toolbox(home)
    total = toolbox.costs.report("job").total
    records = toolbox.training.list()
    assert sum((record.spent for record in records), Money()) == total.spent
    assert sum((record.held for record in records), Money()) == total.held


def test_refused_warned_lowered_saved_and_settled(shell: Shell) -> None:
    shell.ok("budgets", "set", "project:churn", "--cost", "10")
    begun = shell.run("train", "train.py", "--detach", "--json", "--project", "churn", "--max-duration", "55")
    assert "holds at most $8.50 ($360.00/h x 85 s) of budget project:churn $10.00, $1.50 free" in begun.stderr
    job = json.loads(begun.stdout)["id"]

    refused = shell.run("train", "train.py", "--project", "churn", "--max-duration", "55")
    assert refused.returncode == 1
    assert "$8.50 asked, $1.50 free ($10.00 limit - " in refused.stderr
    assert [line["id"] for line in shell.json("jobs", "list")] == [job]

    events = [json.loads(line) for line in shell.ok("events", "--json").splitlines()]
    (warning,) = (event for event in events if event["level"] == "warning")
    assert warning["message"] == "85% of budget project:churn cost is taken: $8.50 of $10.00"

    until(lambda: job_state(shell, job) == "running", "the job runs")
    unanswered = shell.run("budgets", "set", "project:churn", "--cost", "0.5")
    assert unanswered.returncode == 2
    assert f"stops job train ({job})" in unanswered.stderr
    assert shell.json("budgets", "list")[0]["limit"] == 10
    shell.ok("budgets", "set", "project:churn", "--cost", "0.5", "--yes")
    until(lambda: job_state(shell, job) == "stopped", "the job has saved and stopped")

    shown = shell.json("jobs", "show", job)
    (attempt,) = shown["job"]["attempts"]
    assert attempt["checkpoint"]["step"] > 0
    assert attempt["held"] == {"usd": 0}
    assert 0 < attempt["spent"]["usd"] < 8.5
    assert "budget project:churn cost" in " ".join(step["message"] for step in shown["history"])
    assert all(step["took_s"] >= 0 for step in shown["history"])
    assert "saved at" in shell.ok("jobs", "logs", job)
    (limit,) = shell.json("budgets", "list")
    assert limit["spent"] == attempt["spent"]["usd"]
    assert limit["held"] == 0
    for by in ("job", "user", "project", "backend", "month"):
        total = shell.json("costs", "--by", by)["total"]
        assert (total["spent"], total["held"]) == (attempt["spent"], {"usd": 0})
    ledger_adds_up(shell.folder / "home")


def test_at_its_own_limit_a_job_saves_and_stops_and_never_costs_more(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLTOOLBOX_HOME", str(shell.folder / "home"))
    monkeypatch.chdir(shell.folder)
    monkeypatch.setattr(attempts, "LEAST_RUN_S", 1.0)  # a minute for users; a test need not wait for it
    (shell.folder / "spec.yaml").write_text("script: train.py\nlimits: {max_cost_usd: 0.7, stop_grace_s: 2}\n")
    result = CliRunner().invoke(cli, ["train", "spec.yaml"])
    assert "saved at" in result.output
    (record,) = Toolbox().training.list()
    assert record.state == "stopped"
    assert record.failure is not None
    assert record.failure.kind == "budget"
    assert record.checkpoint is not None
    assert Money() < record.spent <= Money.usd("0.7")
    assert record.held == Money()
    ledger_adds_up(shell.folder / "home")

    (attempt,) = record.attempts
    assert attempt.checkpoint == record.checkpoint
    assert attempt.end


@pytest.mark.timeout(240)
def test_eight_commands_at_once_never_exceed_a_budget(shared: Shell) -> None:
    shell = shared
    shell.ok("budgets", "set", "all", "--cost", "30")  # each asks for $9.00: three fit
    arguments = ["train", "train.py", "--detach", "--max-duration", "60"]
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "ml_toolbox.cli.main", *arguments, "--name", f"job{number}"],
            cwd=shell.folder, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    said = [command.communicate(timeout=100)[1] for command in commands]
    assert sorted(command.returncode for command in commands) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert sum("$9.00 asked, $3.00 free" in text for text in said) == 5
    toolbox = Toolbox(shell.folder / "home")
    taken = most = 0
    for line in toolbox.state.lines():  # at no moment was more taken than there is
        taken += line.posting.held + line.posting.spent
        most = max(most, taken)
    assert most == Money.usd(27).micros
    assert len(toolbox.training.list()) == 3
    ledger_adds_up(shell.folder / "home")


class Agent:
    """``mltoolbox agent`` as its own process."""

    def __init__(self, shell: Shell) -> None:
        self.log = shell.folder / "agent.log"
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ml_toolbox.cli.main", "agent", "--json"],
                cwd=shell.folder, env=shell.environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def began(self) -> int:
        return sum(line.get("agent") == "began" for line in self.told())

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


def leases(home: Path) -> list[str]:
    return [row.lease_owner for row in Toolbox(home).state.find(None) if row.lease_owner]


@pytest.mark.timeout(240)
def test_an_agent_drives_by_itself_adopts_after_a_kill_and_leaves_no_lease(shared: Shell) -> None:
    shell = shared
    home = shell.folder / "home"
    shell.ok("budgets", "set", "all", "--running", "1")
    store = Toolbox(home).state
    first = Agent(shell)
    try:
        until(lambda: first.began() == 1, "the agent has begun")
        ids = [shell.json("train", name, "--detach", "--name", name[:-3])["id"] for name in ("train.py", "quick.py")]
        until(lambda: store.get(ids[0]).state == "running", "the first job is seen running by the agent alone")
        assert store.get(ids[1]).phase == "waiting"
        shown = shell.json("jobs", "show", ids[1])
        assert [taker["work_id"] for taker in shown["waiting_for"]] == [ids[0]]
        assert "room is taken by" in shell.ok("jobs", "show", ids[1])
    finally:
        first.process.kill()
        first.process.wait()
    second = Agent(shell)
    try:
        until(lambda: second.began() == 2, "another agent has begun")
        store.wish(ids[0], "stop")  # written down, and told to nobody
        until(lambda: store.get(ids[0]).state == "stopped", "the second agent stops the job")
        until(lambda: store.get(ids[1]).state == "succeeded", "and drives the one that waited to its end")
        assert second.end(signal.SIGINT) == 0
    finally:
        if second.process.poll() is None:
            second.process.kill()
            second.process.wait()
    assert leases(home) == []
    assert "secret" not in second.log.read_text(), "the state's password"
    told = [line["message"] for line in second.told()]
    assert told[-1] == "nothing is under way here any more"
    assert any("stop wanted" in message for message in told)
    assert len(Toolbox(home).training.list()) == 2
    ledger_adds_up(home)


def test_an_agent_waits_for_a_state_that_went_away(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with closing(cast("Generator[Server]", started())) as servers:
        server = next(servers)
        shell.environment["MLTOOLBOX_STATE"] = server.new_schema()
        monkeypatch.setenv("MLTOOLBOX_STATE", shell.environment["MLTOOLBOX_STATE"])
        store, agent = Toolbox(shell.folder / "home").state, Agent(shell)
        try:
            until(lambda: agent.began() == 1, "the agent has begun")
            server.stop()
            until(lambda: any(line.get("agent") == "waits" for line in agent.told()), "it says that it waits")
            planned = shell.run("plan", "quick.py")
            assert planned.returncode == 0
            assert "budgets could not be asked" in planned.stdout
            server.start()
            job = shell.json("train", "quick.py", "--detach")["id"]
            until(lambda: store.get(job).state == "succeeded", "it goes on")
            assert agent.end(signal.SIGTERM) == 0
        finally:
            if agent.process.poll() is None:
                agent.process.kill()
                agent.process.wait()
            store.close()
            monkeypatch.delenv("MLTOOLBOX_STATE")  # nothing is left there to be cleaned up


def planted(toolbox: Toolbox) -> tuple[str, Path]:
    """A resource of ours that no row names: a copy of the only job's record, tagged as an attempt that never was."""
    (resource,) = (name for name, _ in toolbox.job_backend("local").list_by_tag({}))
    jobs = toolbox.home / "providers" / "local" / "jobs"
    stray = jobs / ("f" * 24)
    stray.mkdir()
    record = json.loads((jobs / resource / "job.json").read_text())
    record["tags"]["mlt:attempt"] = "7"
    (stray / "job.json").write_text(json.dumps(record))
    return resource, stray


def test_a_backend_is_not_forgotten_while_anything_of_ours_lives_there(shell: Shell) -> None:
    shell.ok("train", "quick.py")
    toolbox = Toolbox(shell.folder / "home")
    planted(toolbox)
    refused = shell.run("backends", "forget", "local", "--yes")
    assert refused.returncode == 1
    assert "1 jobs, endpoints or resources of ours live on local" in refused.stderr
    shell.run("doctor", "--fix")
    assert shell.ok("backends", "forget", "local", "--yes") == "local is forgotten\n"
    assert toolbox.state.places() == ()
    shell.ok("train", "quick.py")
    assert toolbox.state.places() == ("local",)


def test_doctor_finds_what_a_killed_command_and_a_stranger_left_and_fixes_it(shell: Shell) -> None:
    home = shell.folder / "home"
    job = shell.json("train", "train.py", "--detach")["id"]
    toolbox = Toolbox(home)
    resource, stray = planted(toolbox)
    # And a lease of a process that is no more.
    gone = subprocess.Popen([sys.executable, "-c", "from ml_toolbox.engine.owners import this_owner; print(this_owner())"],
                            stdout=subprocess.PIPE, text=True)  # fmt: skip
    owner = gone.communicate()[0].strip()
    assert toolbox.state.claim(job, owner=owner, lease_s=600, is_dead=lambda _: True) is not None

    def subjects() -> dict[str, str]:
        found = json.loads(shell.run("doctor", "--json").stdout)
        return {line["subject"]: f"{line['state']}: {line['finding']}" for line in found}

    before = subjects()
    assert before == subjects(), "looking changes nothing"
    assert before["orphans"].startswith(f"error: job {'f' * 24} on local: attempt 7 of job train does not own it")
    assert "whose process is gone" in before["leases"]
    shell.run("doctor", "--fix")
    after = subjects()
    assert after["orphans"].startswith("ok")
    assert after["leases"].startswith("ok")
    assert not stray.exists()
    assert (stray.parent / resource).exists()
    report = shell.json("costs")
    assert [line["kind"] for line in report["lines"]] == ["job"]
