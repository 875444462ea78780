"""One run: workflows, workers that are killed and stopped, a cloud that does its worst, and what must hold afterwards.

``python -m tests.kills.driver --seed 7 --state sqlite --cloud none --workers 2`` does one and says what it did; ``--matrix``
does every combination. Which blow falls when is drawn from the seed; where it hits is up to real processes, so a seed that
found something finds it often, not always.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from ml_toolbox.engine.rows import Row, Wish
from ml_toolbox.testing.simulator.cloud import Call
from ml_toolbox.testing.simulator.invariants import Evidence, Existed, LimitSet, Violation, check
from tests.kills.adapter import PLACE, Calls
from tests.kills.cloud import HOURLY, Order
from tests.kills.processes import Client, Worker, pretended_cloud
from tests.kills.report import Report, Trial
from tests.kills.setting import (
    ENDPOINTS,
    INSTALL,
    LEASE_S,
    Class,
    Parts,
    Planned,
    Served,
    Setting,
    labels,
    limits,
    plan,
)
from tests.postgres import started
from tests.simulation.binding import Toolbox

END_S = 150.0
"""Within which everything must end by itself once no more blows fall."""
CALM_S = 45.0
"""After this much of it the cloud answers: a call that happened to fail a dozen times in a row would be waited for long."""


class Run:
    """One trial, on a state that is empty."""

    def __init__(self, trial: Trial, state: str, folder: Path) -> None:
        self.trial, self.folder = trial, folder
        self.random = Random(trial.seed)
        self.report = Report(trial=trial)
        self._state = state
        self._lives = 0
        self._workers: list[Worker] = []
        self._past: list[Worker] = []
        self._submitted: list[str] = []
        self._refused: set[str] = set()
        self._wishes: dict[str, Wish] = {}
        self._held: list[tuple[float, str, frozenset[str]]] = []
        """Blows whose victims' rows are not taken over yet: when, whose, which."""
        self._over = threading.Event()
        self._is_settling = False
        self._versions: dict[str, int] = {}
        """The model's version last wanted of each endpoint."""
        self._stopped: set[int] = set()
        self._client_random = Random(f"client {trial.seed}")

    def run(self) -> Report:
        trial, began = self.trial, time.monotonic()
        order = Order(seed=trial.seed, kind=trial.kind, tells_billing=self.random.random() < 0.5)
        with pretended_cloud(order, self.folder) as port:
            self.setting = Setting(
                seed=trial.seed,
                state=self._state,
                port=port,
                kind=trial.kind,
                elsewhere=trial.elsewhere,
                at_once=self.random.random() < 0.5,
            )
            self._run(Calls(port))
        self.report.seconds = time.monotonic() - began
        return self.report

    def _run(self, cloud: Calls) -> None:
        self.parts = Parts(self.setting)
        self._labels = labels(self.parts.workflows)
        self.planned = plan(self.trial.seed, self.trial.workflows, time.time())
        self._limits = limits(self.planned, self.trial.kind)
        for limit in self._limits:
            self.parts.store.set_limit(*limit)
        _make_foreign(cloud)
        self._client = Client(self.setting, self.folder, self._answered, self._client_fate)
        self._client.start()
        watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        watcher.start()
        try:
            self._workers = [self._born(self._fate()) for _ in range(self.trial.workers)]
            self._blows()
            self._settle(cloud)
            self._finish(cloud)
        finally:
            self._over.set()
            watcher.join(30)
            self._client.end()
            for worker in self._workers:
                worker.kill()
            self.parts.store.close()
            self.parts.calls.close()
            cloud.close()

    # -- blows --------------------------------------------------------------------------------------------------------

    def _blows(self) -> None:
        trial, random = self.trial, self.random
        blows = ["kill"] * trial.kills + ["stop"] * trial.stops
        random.shuffle(blows)
        waiting = list(self.planned)
        for number, blow in enumerate(blows):
            share = -(-len(waiting) // (len(blows) - number))
            for planned in waiting[:share]:
                self._client.ask("submit", planned, after_s=random.random())
            del waiting[:share]
            self._deploy(number)
            slot = random.randrange(trial.workers)
            if blow == "stop":
                self._stop(slot)
            elif self.report.kills + len(self._client.deaths) >= trial.kills:
                time.sleep(0.2)  # enough died at their points
            elif random.random() < 0.12 and self._client.kill():
                time.sleep(0.3)
            else:
                self._kill(slot)
            self._replace_dead()

    def _kill(self, slot: int) -> None:
        worker = self._workers[slot]
        worker.wait_until_up()
        deadline = time.monotonic() + (1.5 if worker.fate else 0.05 + 0.55 * self.random.random())
        while worker.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if worker.process.poll() is None:
            worker.kill()
        self._replace_dead()

    def _stop(self, slot: int) -> None:
        """Longer than the lease, then on from where it stood."""
        worker = self._workers[slot]
        worker.wait_until_up()
        time.sleep(0.05 + 0.55 * self.random.random())
        if worker.process.poll() is not None:
            return
        worker.send(signal.SIGSTOP)
        self._stands_still(worker)
        if self.trial.workers == 1:
            time.sleep(LEASE_S * 1.5)

    def _stands_still(self, worker: Worker) -> None:
        worker.was_stopped = True
        self._stopped.add(worker.process.pid)
        self.report.stops += 1
        self._note(worker.owner)
        self._later(lambda: worker.send(signal.SIGCONT))

    def _later(self, action: Callable[[], None]) -> None:
        """Once the lease is over."""
        timer = threading.Timer(LEASE_S * (1.2 + 0.8 * self.random.random()), action)
        timer.daemon = True
        timer.start()

    def _replace_dead(self) -> None:
        for slot, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self.report.kills += 1
                self.report.at_points += bool(worker.lines("SIGKILL"))
                self._note(worker.owner)
                self._past.append(worker)
                self._workers[slot] = self._born(self._fate())

    def _fate(self) -> str:
        """Most are to end at a point, most of them by dying."""
        random = self.random
        if random.random() < 0.3:
            return ""
        if self.trial.kind == "none" and random.random() < 0.2:
            return "SIGSTOP before:submit 1"  # what this class cannot keep from making another resource
        word = random.choice(("SIGKILL", "SIGKILL", "SIGSTOP"))
        return f"{word} {random.choice(self._labels)} {random.randint(1, 3)}"

    def _client_fate(self) -> str:
        if self._is_settling or self._client_random.random() < 0.5:
            return ""
        if self.trial.kind == "none" and self._client_random.random() < 0.4:
            return f"SIGSTOP before:submit {self._client_random.randint(1, 8)}"
        effects = ("submit", "apply")
        points = (
            "before:insert",
            "after:insert:before:act",
            *(point for effect in effects for point in (f"before:{effect}", f"after:{effect}:before:record")),
        )
        word = self._client_random.choice(("SIGKILL", "SIGSTOP"))
        return f"{word} {self._client_random.choice(points)} {self._client_random.randint(1, 8)}"

    def _born(self, fate: str) -> Worker:
        self._lives += 1
        return Worker(self.setting, self.folder, self._lives, fate)

    # -- recovery -----------------------------------------------------------------------------------------------------

    def _note(self, owner: str) -> None:
        """Somebody was hit just now: watch what becomes of the rows it holds."""
        at = time.monotonic()
        rows = frozenset(row.id for row in self._rows() if owner and row.lease_owner == owner)
        if rows and (self.trial.workers > 1):
            self._held.append((at, owner, rows))

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for worker in list(self._workers):
                if not worker.was_stopped and worker.lines("SIGSTOP"):
                    self._stands_still(worker)
            if self._client.stands_still():
                self.report.stops += 1
                if self._client.process is not None:
                    self._stopped.add(self._client.process.pid)
                self._later(self._client.go_on)
            if not self._held:
                continue
            owners = {row.id: row.lease_owner for row in self._rows()}
            for entry in list(self._held):
                at, owner, rows = entry
                if not any(owners[row_id] == owner for row_id in rows):
                    self.report.takeovers_s.append(time.monotonic() - at)
                    self._held.remove(entry)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _deploy(self, number: int) -> None:
        """A new version on one of the endpoints."""
        name = f"endpoint-{number % ENDPOINTS}"
        self._versions[name] = self._versions.get(name, 0) + 1
        self._client.ask("serve", Served(name=name, version=self._versions[name]), after_s=self.random.random())

    def _answered(self, what: str, planned: Planned | Served, answer: str) -> None:
        if isinstance(planned, Served):
            is_wanted = planned.version in (0, self._versions[planned.name])  # otherwise a newer one is by now
            if answer == "again" and is_wanted:
                self._client.ask("serve", planned, after_s=0.5)
        elif what == "wish":
            self._wishes[planned.row] = planned.wish
        elif answer == "refused":
            self._refused.add(planned.row)
        else:
            self._submitted.append(planned.row)
            if planned.wish:
                self._client.ask("wish", planned, after_s=planned.wish_after_s)

    def _settle(self, cloud: Calls) -> None:
        """No more blows: everything must end by itself."""
        self._is_settling = True
        self._replace_dead()
        for slot, worker in enumerate(self._workers):
            if worker.fate:  # it may still be to die somewhere
                worker.kill()
                self.report.kills += 1
                self._past.append(worker)
                self._workers[slot] = self._born("")
        began, is_calm = time.monotonic(), False
        while time.monotonic() < began + END_S:
            if not is_calm and time.monotonic() > began + CALM_S:
                cloud.call("POST", "/control/calm")
                is_calm = True
            if self._client.is_idle and all(map(_rests, self._everything())):
                break
            time.sleep(0.25)
        self._compare_versions(cloud)
        for name in self._versions:
            self._client.ask("serve", Served(name=name))
        while time.monotonic() < began + END_S:
            rows = self._everything()
            if self._client.is_idle and all(row.ended_at is not None for row in rows):
                return
            time.sleep(0.25)

    def _compare_versions(self, cloud: Calls) -> None:
        """Each endpoint serves what was wanted of it last; where an older wish was sent late, a look repairs it."""
        deadline = time.monotonic() + 30.0
        while wrong := self._wrong_versions(cloud):
            if time.monotonic() > deadline:
                self._defect("what was wanted last is served", f"wanted and served: {wrong}")
                return
            for row in self.parts.store.find("endpoint"):
                if row.name in wrong:
                    self.parts.runner.drive(row.id)
            time.sleep(self.setting.lag_s)

    def _wrong_versions(self, cloud: Calls) -> dict[str, tuple[int, list[str]]]:
        now, served = time.time(), {}
        for job in cloud.call("POST", "/control/books")["jobs"]:
            if job["kind"] == "endpoint" and job["gone_at"] > now:
                served[job["name"]] = list(job["body"]["models"].values())
        return {
            name: (version, served.get(name, []))
            for name, version in self._versions.items()
            if served.get(name) != [f"model:{version}"]
        }

    def _finish(self, cloud: Calls) -> None:
        self._over.set()
        for worker in self._workers:
            if worker.process.poll() is not None:
                self._defect("a worker ended by itself", worker.errors.read_text())
            worker.kill()
        self._past += self._workers
        cloud.call("POST", "/control/calm")
        clean, deadline = 0, time.monotonic() + 30.0
        while clean < 2 and time.monotonic() < deadline:
            comparison = self.parts.collector.collect()
            clean = 0 if comparison.strays or comparison.unseen else clean + 1
            time.sleep(self.setting.lag_s)
        self._judge(cloud.call("POST", "/control/books"))

    def _defect(self, promise: str, detail: str) -> None:
        self.report.violations.append(Violation(promise.replace(" ", "_"), detail))

    def _judge(self, books: dict[str, Any]) -> None:
        report, store = self.report, self.parts.store
        evidence = self._evidence(books)
        report.violations += check(evidence)
        report.violations += [Violation("as_planned", detail) for detail in self._unplanned(evidence)]
        for worker in self._past:
            if worker.restart_s is not None and not worker.was_stopped:
                report.restarts_s.append(worker.restart_s)
            if worker.process.returncode != -signal.SIGKILL:
                self._defect("killed and nothing else", f"{worker.process.returncode}: {worker.errors.read_text()}")
            for line in worker.lines("error"):
                self._defect("a round raises nothing", line["message"])
        for code in self._client.deaths:
            if code != -signal.SIGKILL:
                self._defect("a command fails cleanly", (self.folder / "client.err").read_text())
        report.kills += len(self._client.deaths)
        report.at_points += self._client.deaths_at_points
        report.faults, report.calls = sum(books["faults"].values()), len(books["calls"])
        made: dict[tuple[str, int], int] = {}
        for one in evidence.ours():
            if one.kind != "job":
                continue
            made[one.owner] = made.get(one.owner, 0) + 1
        report.created = sum(made.values())
        report.doubled = sum(count > 1 for count in made.values())
        report.extra = sum(count - 1 for count in made.values())
        report.collected = sum(line.posting.kind == "collect" for line in evidence.lines)
        for row in self._rows():
            report.states[row.phase if row.phase == "deleted" else row.state] = (
                report.states.get(row.phase if row.phase == "deleted" else row.state, 0) + 1
            )
        if report.violations:
            (self.folder / "books.json").write_text(json.dumps(books))
            histories = {row.id: [str(step) for step in store.history(row.id)] for row in self._rows()}
            (self.folder / "histories.json").write_text(json.dumps(histories, indent=1))

    def _evidence(self, books: dict[str, Any]) -> Evidence:
        store, rows = self.parts.store, self._everything()
        return Evidence(
            install=INSTALL,
            now=books["now"],
            classes={PLACE: self.trial.kind},
            resources=[_existed(job, self._stopped) for job in books["jobs"]],
            # A caller is one thread of one process: others may have calls under way when one is told to come back later.
            calls=[
                Call(at, by, "registry" if operation == "register" else PLACE, operation, target, answer)
                for at, by, operation, target, answer in books["calls"]
            ],
            rows=[Toolbox().view(row) for row in rows],
            histories={row.id: store.history(row.id) for row in rows},
            lines=_all_lines(self.parts),
            limits=store.limits(),
            limits_set=[LimitSet(0, *limit) for limit in self._limits],
            submitted=self._submitted,
            wishes=self._wishes,
            registered=[(job, version) for job, version in books["versions"]],
        )

    def _unplanned(self, evidence: Evidence) -> Iterator[str]:
        """Workflows that did not become what their fate and their user make of them."""
        rows = {view.row.id: view.row for view in evidence.rows}
        for planned in self.planned:
            row = rows.get(planned.row)
            if planned.row in self._refused:
                if "project:short" not in planned.scopes:
                    yield f"{planned.row} was refused"
                continue
            if row is None:
                yield f"{planned.row} was never written"
                continue
            told = "deleted" if row.phase == "deleted" else row.state
            if told not in _possible(planned):
                last = evidence.histories[row.id][-1].message
                yield f"{planned.row} ({planned.fate}, {planned.wish or 'no wish'}) is {told}: {last}"

    def _everything(self) -> tuple[Row, ...]:
        return self.parts.store.find(None, limit=100_000)

    def _rows(self) -> tuple[Row, ...]:
        return self.parts.store.find("job", limit=100_000)


def _possible(planned: Planned) -> set[str]:
    if planned.wish == "delete":
        return {"deleted"}
    ends = {"ok": "succeeded", "preempted": "succeeded", "fails": "failed", "long": "failed"}
    possible = {ends[planned.fate]}
    if planned.wish == "stop":
        possible.add("stopped")
    if "project:short" in planned.scopes:
        possible.add("failed")  # its next attempt was refused
    return possible


def _rests(row: Row) -> bool:
    if row.kind == "endpoint" and row.wish != "delete":
        return row.phase == "active"
    return row.ended_at is not None and (row.wish != "delete" or row.phase == "deleted")


def _existed(job: dict[str, Any], stopped: set[int]) -> Existed:
    caller = job["by"].partition(".")[0]
    stale = caller.isdigit() and int(caller) in stopped
    told = {name: value for name, value in job.items() if name != "body"}
    return Existed(place=PLACE, hourly=HOURLY if job["kind"] == "job" else 0, stale=stale, **told)


def _all_lines(parts: Parts) -> tuple[Any, ...]:
    found: list[Any] = []
    while more := parts.store.lines(after=found[-1].seq if found else 0):
        found += more
    return tuple(found)


def _make_foreign(cloud: Calls) -> None:
    """Others use the account too; one is a copy of this installation that took another name."""
    for number, install in enumerate(("killed2", "there")):
        tags = {"mlt:install": install, "mlt:owner": "01" + "0" * 24, "mlt:attempt": "1", "mlt:expires-at": "start+1s"}
        name = f"mlt-{install}-job-{number}-a1"
        asked = {"name": name, "token": name, "body": {"command": ["train", "long"]}, "tags": tags, "max_run_s": 1e6}
        cloud.call("POST", "/control/foreign", asked)


def try_once(trial: Trial, folder: Path, postgres_url: str = "") -> Report:
    """One trial in an empty folder. ``postgres_url``: an empty place there."""
    folder.mkdir(parents=True, exist_ok=True)
    return Run(trial, postgres_url if trial.state == "postgres" else str(folder / "state.db"), folder).run()


_CLASSES: tuple[Class, ...] = ("token", "name", "none")
MATRIX = tuple(
    Trial(seed=0, state=state, kind=kind, workers=workers, elsewhere=apart)
    for state in ("sqlite", "postgres")
    for kind in _CLASSES
    for workers, apart in ((1, False), (2, False), (2, True))
    if not (apart and state == "sqlite")  # one file is on one host
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="this many, from --seed on")
    parser.add_argument("--matrix", action="store_true", help="every combination")
    parser.add_argument("--state", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--cloud", choices=("token", "name", "none"), default="token")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--elsewhere", action="store_true", help="the workers are on different hosts")
    parser.add_argument("--workflows", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    asked = parser.parse_args()
    one = Trial(seed=0, state=asked.state, kind=asked.cloud, workers=asked.workers, elsewhere=asked.elsewhere)
    trials = [
        replace(trial, seed=seed, workflows=asked.workflows, kills=asked.kills, stops=asked.stops)
        for seed in range(asked.seed, asked.seed + asked.seeds)
        for trial in (MATRIX if asked.matrix else (one,))
    ]
    sys.exit(_all(trials))


def _all(trials: list[Trial]) -> int:
    servers = started(durable=True) if any(trial.state == "postgres" for trial in trials) else None
    server = next(servers) if servers else None
    print(Report.HEAD, "|" + "---|" * (Report.HEAD.count("|") - 1), sep="\n", flush=True)
    broken = 0
    try:
        for trial in trials:
            folder = Path(tempfile.mkdtemp(prefix="mlt-kills-"))
            report = try_once(trial, folder, server.new_schema() if server else "")
            print(report.row(), flush=True)
            for violation in report.violations:
                print(f"  {violation}", flush=True)
            if report.violations:
                broken += 1
                print(f"  {trial.command}   (books and histories: {folder})", flush=True)
    finally:
        if servers:
            servers.close()  # type: ignore[attr-defined] # a generator
    return bool(broken)


if __name__ == "__main__":
    main()
