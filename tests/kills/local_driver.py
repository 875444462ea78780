"""One run over real training processes on this machine: the agent, commands, supervisors, guardians and scripts are killed.

``python -m tests.kills.local_driver --seed 7`` does one and says what it did.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ml_toolbox.base.ids import nonce
from ml_toolbox.base.processes import ProcessIdentity, kill, start_time
from ml_toolbox.engine.collection import Collector
from ml_toolbox.engine.owners import this_owner
from ml_toolbox.engine.rows import Row
from ml_toolbox.features.training.records import data_of
from ml_toolbox.ports.jobs import TAG_ATTEMPT, TAG_EXPIRES, TAG_INSTALL, TAG_OWNER
from ml_toolbox.runtime.job import read_json
from ml_toolbox.testing.simulator.invariants import NEVER, Evidence, Existed, LimitSet, Violation, check
from tests.crash.homes import Home
from tests.kills.local_processes import LEASE_S, SCRIPT, LocalPlanned
from tests.kills.local_report import LocalReport, LocalTrial
from tests.kills.processes import REPOSITORY
from tests.simulation.binding import Toolbox

RUN_VARIABLE = "MLT_KILLS_RUN"
"""In the environment of every process of one run."""
END_S = 90.0
MOST_AT_ONCE = 5

Blow = Callable[[], bool]


class LocalRun:
    """One trial in an empty folder."""

    def __init__(self, trial: LocalTrial, folder: Path) -> None:
        self.trial, self.folder = trial, folder
        self.random = Random(trial.seed)
        self.report = LocalReport(trial=trial)
        self.home = Home(folder / "home")
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "train.py").write_text(SCRIPT)
        self._mark = nonce()
        self._environment = {**os.environ, RUN_VARIABLE: self._mark, "RUNS": str(folder / "runs")}
        self._lives = 0
        self._agent: subprocess.Popen[str]
        self._agents: list[subprocess.Popen[str]] = []
        self._commands: list[tuple[str, LocalPlanned, subprocess.Popen[str]]] = []
        self._hit: dict[str, set[str]] = defaultdict(set)
        """What of each resource was killed."""
        self.planned = [_planned(self.random, number) for number in range(trial.jobs)]

    def run(self) -> LocalReport:
        began = time.monotonic()
        self.home.store.set_limit("all", "running", "", MOST_AT_ONCE)
        self._agent = self._born()
        try:
            self._blows()
            self._settle()
            self._judge()
        finally:
            self._agent.kill()
            for _, _, process in self._commands:
                process.kill()
            for process in (self._agent, *(process for _, _, process in self._commands)):
                process.wait(20)
            kill(self._processes())
            self.home.store.close()
        self.report.seconds = time.monotonic() - began
        return self.report

    # -- what is started ----------------------------------------------------------------------------------------------

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / "errors").open("a") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.kills.local_processes", *arguments],
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
            )

    def _born(self) -> subprocess.Popen[str]:
        self._lives += 1
        process = self._start("agent", str(self.home.root), str(self.folder / f"agent-{self._lives}.jsonl"))
        self._agents.append(process)
        return process

    def _command(self, action: str, planned: LocalPlanned) -> None:
        text = msgspec.json.encode(planned).decode()
        self._commands.append((action, planned, self._start(action, str(self.home.root), str(self.source), text)))

    # -- blows --------------------------------------------------------------------------------------------------------

    def _blows(self) -> None:
        random, waiting = self.random, list(self.planned)
        wishes: list[tuple[float, LocalPlanned]] = []
        kinds: dict[str, Blow] = {
            "kill agent": self._kill_agent,
            "stop agent": self._stop_agent,
            "kill command": self._kill_command,
            "kill supervisor": lambda: self._kill_watcher("supervisor"),
            "kill guardian": lambda: self._kill_watcher("guardian"),
            "kill both": self._kill_both,
            "kill script": self._kill_script,
            "stop supervisor": self._stop_supervisor,
        }
        words = list(kinds)
        deadline = time.monotonic() + END_S
        while (waiting or self.report.blows.total() < self.trial.blows) and time.monotonic() < deadline:
            if waiting and sum(action == "train" for action, _, _ in self._commands) < 6:
                planned = waiting.pop(0)
                self._command("train", planned)
                if planned.wish:
                    wishes.append((time.monotonic() + planned.wish_after_s, planned))
            self._wish(wishes)
            time.sleep(0.05 + 0.35 * random.random())
            self._collect_commands()
            if self.report.blows.total() < self.trial.blows:
                word = random.choice(words)
                self.report.blows[word] += kinds[word]()
            if self._agent.poll() is not None:
                self._agent = self._born()
            if not waiting and not self._rows_under_way():
                break
        while wishes or self._commands:
            self._wish(wishes)
            self._collect_commands()
            if time.monotonic() > deadline + END_S:
                self._defect(
                    "every_command_ends", str([(action, planned.name) for action, planned, _ in self._commands])
                )
                return
            time.sleep(0.05)

    def _wish(self, wishes: list[tuple[float, LocalPlanned]]) -> None:
        for entry in list(wishes):
            at, planned = entry
            if at <= time.monotonic() and self._row(planned.name) is not None:
                self._command(planned.wish, planned)
                wishes.remove(entry)

    def _collect_commands(self) -> None:
        """A command that was killed is given again, unless what it was to begin is on record."""
        for entry in list(self._commands):
            action, planned, process = entry
            code = process.poll()
            if code is None:
                continue
            self._commands.remove(entry)
            if code == -signal.SIGKILL:
                if action != "train" or self._row(planned.name) is None:
                    self._command(action, planned)
            elif code and not (action == "train" and planned.wish == "delete"):  # its job is deleted while it waits
                self._defect("a_command_fails_cleanly", (self.folder / "errors").read_text()[-2000:])

    def _kill_agent(self) -> bool:
        self._agent.kill()
        self._agent.wait(20)
        return True

    def _stop_agent(self) -> bool:
        agent = self._agent
        agent.send_signal(signal.SIGSTOP)
        _later(LEASE_S * (1.2 + 0.8 * self.random.random()), lambda: agent.send_signal(signal.SIGCONT))
        return True

    def _kill_command(self) -> bool:
        living = [process for _, _, process in self._commands if process.poll() is None]
        if not living:
            return False
        self.random.choice(living).kill()
        return True

    def _kill_watcher(self, role: str) -> bool:
        found = self._pick()
        if found is None:
            return False
        resource, watchers = found
        self._hit[resource].add(role)
        kill([watchers[role].pid])
        return True

    def _kill_both(self) -> bool:
        found = self._pick()
        if found is None:
            return False
        resource, watchers = found
        self._hit[resource].add("both")
        kill([one.pid for one in watchers.values()])
        return True

    def _kill_script(self) -> bool:
        runs = [line.split() for line in self._runs() if len(line.split()) == 3]
        living = [(name, attempt, int(pid)) for name, attempt, pid in runs if start_time(int(pid)) is not None]
        if not living:
            return False
        name, attempt, pid = self.random.choice(living)
        row = self._row(name)
        mine = {one.number: one.resource for one in data_of(row).attempts} if row else {}
        if not mine.get(int(attempt)):
            return False  # the loop does not know its id yet
        self._hit[mine[int(attempt)]].add("script")
        kill([pid])
        return True

    def _stop_supervisor(self) -> bool:
        found = self._pick()
        if found is None:
            return False
        pid = found[1]["supervisor"].pid
        kill([pid], signal.SIGSTOP)
        _later(0.5 + self.random.random(), lambda: kill([pid], signal.SIGCONT))
        return True

    def _pick(self) -> tuple[str, dict[str, ProcessIdentity]] | None:
        """A running attempt and what watches it."""
        jobs = self.home.root / "providers" / "local" / "jobs"
        found = []
        for root in sorted(jobs.iterdir()) if jobs.exists() else ():
            known = read_json(str(root / "supervisor.json"))
            if known is None or root.name.startswith("."):
                continue
            watchers = {role: ProcessIdentity.parse(known[role]) for role in ("supervisor", "guardian")}
            if not any(one.is_gone for one in watchers.values()):
                found.append((root.name, watchers))
        return self.random.choice(found) if found else None

    # -- the end ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        deadline = time.monotonic() + END_S
        while self._rows_under_way() and time.monotonic() < deadline:
            if self._agent.poll() is not None:
                self._agent = self._born()
            time.sleep(0.1)
        collector = Collector(self.home.store, [self.home.training.workflow], owner=this_owner(), lease_s=LEASE_S)
        collector.collect()
        deadline = time.monotonic() + 3.0  # a supervisor writes the end before it leaves
        while set(self._processes()) - {self._agent.pid} and time.monotonic() < deadline:
            time.sleep(0.05)

    def _judge(self) -> None:
        report = self.report
        left = set(self._processes()) - {self._agent.pid}
        report.left = len(left)
        for pid in left:
            self._defect("nothing_runs_on", f"{pid}: {_command_line(pid)}")
        evidence = self._evidence()
        report.violations += check(evidence)
        report.violations += [Violation("as_planned", detail) for detail in self._unplanned(evidence)]
        for view in evidence.rows:
            report.states["deleted" if view.is_deleted else view.row.state] += 1
            report.attempts += len(view.held)
        runs = Counter(tuple(line.split()[:2]) for line in self._runs())
        for (name, attempt), times in runs.items():
            if times > 1:
                self._defect("an_attempt_runs_once", f"attempt {attempt} of {name} ran {times} times")
        for process in self._agents[:-1]:
            if process.returncode != -signal.SIGKILL:
                self._defect("an_agent_goes_on", (self.folder / "errors").read_text()[-2000:])

    def _evidence(self) -> Evidence:
        store, rows = self.home.store, self._rows()
        return Evidence(
            install="crash",
            now=store.now(),
            classes={"local": "token"},
            resources=[
                *(self._existed(resource, tags) for resource, tags in self.home.backend.list_by_tag({})),
                *(one for row in rows if row.phase == "deleted" for one in _deleted(row)),
            ],
            calls=[],
            # Of what was deleted with its folder, this platform remembers nothing.
            rows=[replace(view, excused=view.is_deleted) for view in map(Toolbox().view, rows)],
            histories={row.id: store.history(row.id) for row in rows},
            lines=store.lines(),
            limits=store.limits(),
            limits_set=[LimitSet(0, "all", "running", "", MOST_AT_ONCE)],
            retries={row.id: 1 for row in rows},
            lifetimes=False,
        )

    def _existed(self, resource: str, tags: Any) -> Existed:
        seen = self.home.backend.observe(resource)
        return Existed(
            id=resource,
            kind="job",
            place="local",
            name=resource,
            tags=tags,
            max_run_s=61.0,
            hourly=0,
            created_at=0.0,
            by="",
            charged_s=0.0,
            ended_at=0.0 if seen.state.is_final else NEVER,
            gone_at=NEVER,
            outcome=f"{seen.state}:{seen.failure.kind if seen.failure else ''}",
        )

    def _unplanned(self, evidence: Evidence) -> Iterator[str]:
        """Jobs that did not end as their script, their user and our blows make them."""
        rows: dict[str, list[Row]] = defaultdict(list)
        for view in evidence.rows:
            rows[view.row.name].append(view.row)
        runs = Counter(line.split()[0] for line in self._runs())
        for planned in self.planned:
            mine = rows[planned.name]
            if len(mine) != 1:
                yield f"{planned.name} is on record {len(mine)} times"
                continue
            (row,) = mine
            data = data_of(row)
            hits = [self._hit.get(one.resource, set()) for one in data.attempts]
            told = "deleted" if row.phase == "deleted" else row.state
            if told == "failed" and data.failure is not None:
                told = f"failed:{data.failure.kind}"
            if told not in _possible(planned, hits):
                yield f"{planned.name} ({planned}) is {told} after {len(hits)} attempts, of which was hit {hits}"
            if runs[planned.name] > len(hits) or (told == "succeeded" and not runs[planned.name]):
                yield f"{planned.name} ran {runs[planned.name]} times in {len(hits)} attempts"
            for number, hit in enumerate(hits[:-1]):
                if not hit and planned.fate != "fails":
                    yield f"{planned.name}: attempt {number + 2} follows one that nobody hit"

    def _rows(self) -> tuple[Row, ...]:
        return self.home.store.find("job", limit=10_000)

    def _row(self, name: str) -> Row | None:
        return next(iter(self.home.store.find("job", name=name, limit=1)), None)

    def _rows_under_way(self) -> bool:
        return any(row.ended_at is None or (row.wish == "delete" and row.phase != "deleted") for row in self._rows())

    def _runs(self) -> list[str]:
        path = self.folder / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def _processes(self) -> list[int]:
        """Everything of this run that lives, whatever it made of itself."""
        needle, found = f"{RUN_VARIABLE}={self._mark}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            except OSError:  # gone meanwhile
                continue
            if needle in environ.split(b"\0") and start_time(int(entry.name)) is not None:
                found.append(int(entry.name))
        return found

    def _defect(self, promise: str, detail: str) -> None:
        self.report.violations.append(Violation(promise, detail))


def _deleted(row: Row) -> Iterator[Existed]:
    """What this platform, which keeps no books, had of a job that is deleted."""
    for attempt in data_of(row).attempts:
        if attempt.resource:
            yield Existed(
                id=attempt.resource,
                kind="job",
                place="local",
                name=attempt.resource,
                tags={
                    TAG_INSTALL: "crash",
                    TAG_OWNER: row.id,
                    TAG_ATTEMPT: str(attempt.number),
                    TAG_EXPIRES: "start+60s",
                },
                max_run_s=61.0,
                hourly=0,
                created_at=0.0,
                by="",
                charged_s=0.0,
                ended_at=0.0,
                gone_at=0.0,
            )


def _possible(planned: LocalPlanned, hits: list[set[str]]) -> set[str]:
    if planned.wish == "delete":
        return {"deleted"}
    possible = {
        "ok": {"succeeded"},
        "family": {"succeeded"},
        "fails": {"failed:exception"},
        "long": {"failed:timeout"},
    }[planned.fate].copy()
    if planned.wish == "stop":
        possible.add("stopped")
    last = hits[-1] if hits else set()
    earlier = hits[:-1]
    if last - {"script"} and sum(bool(hit - {"script"}) for hit in earlier) >= planned.lost:
        possible.add("failed:lost")
    if "script" in last and sum("script" in hit or planned.fate == "fails" for hit in earlier) >= planned.killed:
        possible.add("failed:killed")
    return possible


def _planned(random: Random, number: int) -> LocalPlanned:
    fate = random.choice(("ok", "ok", "ok", "fails", "family", "long"))
    wish: Any = "stop" if fate == "long" else random.choice(("", "", "", "", "delete"))
    return LocalPlanned(
        name=f"job-{number}",
        fate=fate,  # type: ignore[arg-type] # one of the words above
        seconds=0.2 + 1.5 * random.random(),
        lost=random.choice((0, 2)),
        killed=random.choice((0, 1)),
        wish=wish,
        wish_after_s=0.5 + 3.0 * random.random(),
    )


def _later(seconds: float, action: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone"


def try_once(trial: LocalTrial, folder: Path) -> LocalReport:
    return LocalRun(trial, folder).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="this many, from --seed on")
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--blows", type=int, default=30)
    asked = parser.parse_args()
    print(LocalReport.HEAD, "|" + "---|" * (LocalReport.HEAD.count("|") - 1), sep="\n", flush=True)
    broken = False
    for seed in range(asked.seed, asked.seed + asked.seeds):
        trial = LocalTrial(seed=seed, jobs=asked.jobs, blows=asked.blows)
        folder = Path(tempfile.mkdtemp(prefix="mlt-kills-"))
        report = try_once(trial, folder)
        print(report.row(), flush=True)
        for violation in report.violations:
            print(f"  {violation}", flush=True)
        if report.violations:
            broken = True
            print(f"  {trial.command}   ({folder})", flush=True)
    sys.exit(broken)


if __name__ == "__main__":
    main()
