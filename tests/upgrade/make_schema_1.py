# mypy: ignore-errors
# It is written for that release's code, which is not here.
"""How ``released/schema-1.sql`` and ``.json`` were made: by the release's own code, killed at every crash point.

Run once, with that release checked out in RELEASE: ``cd RELEASE && PYTHONPATH=src:. python .../make_schema_1.py FOLDER``. Every
scenario below is driven again and again by the release's runner and workflows, over the fake backends of its tests, and is
killed at the first, second, third, … crash point that it passes. What is left in the database is the SQL file; what is left on
the platforms is the JSON file.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ml_toolbox.base.errors import Invalid, ToolboxError, Unavailable
from ml_toolbox.domain.jobs import JobSpec, JobState, RetryRule
from ml_toolbox.engine.crash import arm
from ml_toolbox.features.serving import ResolvedModel, Serving
from ml_toolbox.features.training import Training
from ml_toolbox.state.sqlite import SqliteStore
from ml_toolbox.testing.clock import FakeClock
from tests.conformance.memory_endpoints import Cloud, MemoryEndpoints
from tests.unit.features.training.fakes import FakeJobs


class Killed(BaseException):
    """The process ends here."""


def kill_at(count: int) -> None:
    left = [count]

    def hook(_label: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    arm(hook)


class FlakyEndpoints(MemoryEndpoints):
    faults: list[str]

    def apply(self, request: Any) -> None:
        if "apply" in self.faults:
            raise Unavailable("down")
        if "refuse" in self.faults:
            raise Invalid("no such model", field="model")
        super().apply(request)

    def delete(self, endpoint: str) -> None:
        if "delete" in self.faults:
            raise Unavailable("down")
        super().delete(endpoint)


class Home:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.jobs = FakeJobs()
        self.cloud = Cloud()
        self.endpoints = FlakyEndpoints(self.cloud)
        self.endpoints.faults = []
        self.store = SqliteStore(folder / "state.db", clock=self.clock)
        self.registry_down = False
        self.training = Training(
            self.store,
            lambda _: self.jobs,
            home=folder / "home",
            install="here",
            register=self._register,
            resolve_input=None,
            clock=self.clock,
        )
        self.serving = Serving(
            self.store,
            lambda _: self.endpoints,
            resolve=lambda target: ResolvedModel(target, ""),
            planner=lambda *_: None,
            install="here",
            clock=self.clock,
        )
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "train.py").write_text("print(1)")

    def _register(self, job: Any) -> str:
        if self.registry_down:
            raise Unavailable("registry down")
        return f"{job.spec.register}:1"

    def submit(self, name: str, **fields: Any) -> Any:
        spec = JobSpec(**{"name": name, "script": "train.py", "source": str(self.source), **fields})
        return self.training.submit(spec, on="fake")

    def show(self, name: str, state: JobState, **fields: Any) -> None:
        resource = self.training.get(name).resource
        if resource in self.jobs.resources:
            self.jobs.show(resource, state, **fields)
        self.clock.advance(61.0)
        self.training.tick()


def job_scenarios(home: Home) -> dict[str, Callable[[str], None]]:
    def runs(name: str) -> None:
        home.submit(name)
        home.show(name, JobState.RUNNING)

    def succeeds(name: str) -> None:
        home.submit(name, register="churn")
        home.show(name, JobState.SUCCEEDED, model="/packages/1")

    def waits_for_the_registry(name: str) -> None:
        home.registry_down = True
        home.submit(name, register="churn")
        home.show(name, JobState.SUCCEEDED, model="/packages/1")

    def fails(name: str) -> None:
        home.submit(name)
        home.show(name, JobState.FAILED, kind="exception")

    def is_tried_again(name: str) -> None:
        home.submit(name, retry=RetryRule(lost=1))
        home.show(name, JobState.FAILED, kind="lost")

    def is_stopped(name: str) -> None:
        home.submit(name)
        home.training.stop(name)

    def is_deleted(name: str) -> None:
        home.submit(name)
        home.training.delete(name)

    def cannot_be_created(name: str) -> None:
        home.jobs.faults["submit"] = [("before", Unavailable("down"))]
        home.submit(name)

    def has_an_unknown_outcome(name: str) -> None:
        home.jobs.faults["submit"] = [("after", Unavailable("lost answer"))]
        home.submit(name)

    def cannot_be_deleted(name: str) -> None:
        home.submit(name)
        home.jobs.faults["delete"] = [("before", Unavailable("down"))]
        home.training.delete(name)

    return dict(list(locals().items())[1:])


def endpoint_scenarios(home: Home) -> dict[str, Callable[[str], None]]:
    def serves(name: str) -> None:
        home.serving.deploy("constant:1", name, on="memory")

    def is_changed(name: str) -> None:
        home.serving.deploy("constant:1", name, on="memory")
        home.serving.deploy("constant:2", name, on="memory", weight=0.5)

    def cannot_be_applied(name: str) -> None:
        home.endpoints.faults = ["apply"]
        home.serving.deploy("constant:1", name, on="memory")

    def is_refused(name: str) -> None:
        home.endpoints.faults = ["refuse"]
        home.serving.deploy("constant:1", name, on="memory")

    def is_refused_later(name: str) -> None:
        home.serving.deploy("constant:1", name, on="memory")
        home.endpoints.faults = ["refuse"]
        home.serving.deploy("constant:2", name, on="memory", weight=0.5)

    def is_removed(name: str) -> None:
        home.serving.deploy("constant:1", name, on="memory")
        home.serving.delete(name, timeout_s=0.0)

    def cannot_be_removed(name: str) -> None:
        home.serving.deploy("constant:1", name, on="memory")
        home.endpoints.faults = ["delete"]
        home.serving.delete(name, timeout_s=0.0)

    return dict(list(locals().items())[1:])


@dataclass
class Kept:
    """What is left of all runs: rows in one database, resources on one platform."""

    database: sqlite3.Connection
    tokens: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict)
    endpoints: list[str] = field(default_factory=list)

    def take(self, home: Home, path: Path) -> None:
        self.database.execute("ATTACH ? AS one", (str(path),))
        self.database.execute("INSERT INTO work SELECT * FROM one.work")
        last = self.database.execute("SELECT coalesce(max(seq), 0) FROM transition").fetchone()[0]
        columns = "work_id, at, phase, state, message, lease_token"
        self.database.execute(f"INSERT INTO transition SELECT seq + ?, {columns} FROM one.transition", (last,))
        self.database.commit()
        self.database.execute("DETACH one")
        self.tokens |= {token: resource for token, resource in home.jobs.by_token.items() if resource}
        self.jobs |= {
            name: {"name": request.name, "tags": dict(request.tags), "seen": msgspec.to_builtins(seen)}
            for name, (request, seen) in home.jobs.resources.items()
        }
        self.endpoints += sorted(home.cloud.wishes)

    def dump(self, folder: Path, target: Path) -> None:
        self.database.execute("UPDATE work SET lease_owner = 'old-host|boot|4242|1#a' WHERE lease_owner <> ''")
        # Neighbouring crash points often leave the same: one row of each kind is kept.
        kept = """SELECT min(id) FROM work GROUP BY kind, rtrim(name, '0123456789'), phase, state, wish, lease_owner <> '',
                  json_array_length(data, '$.attempts'), json_extract(data, '$.attempts[#-1].resource') = '',
                  json_extract(data, '$.tries') > 0"""
        self.database.execute(f"DELETE FROM transition WHERE work_id NOT IN ({kept})")
        self.database.execute(f"DELETE FROM work WHERE id NOT IN ({kept})")
        self.database.commit()
        text = "\n".join(self.database.iterdump())
        (target / "schema-1.sql").write_text(re.sub(re.escape(str(folder)) + r"/[0-9]+", "/home/ann", text) + "\n")
        rows = {row_id for (row_id,) in self.database.execute("SELECT id FROM work")}
        names = {name for (name,) in self.database.execute("SELECT name FROM work WHERE kind = 'endpoint'")}
        jobs = {name: job for name, job in self.jobs.items() if job["tags"]["mlt:owner"] in rows}
        platforms = {
            "tokens": {token: resource for token, resource in self.tokens.items() if resource in jobs},
            "jobs": jobs,
            "endpoints": sorted(names & set(self.endpoints)),
        }
        (target / "schema-1.json").write_text(json.dumps(platforms, sort_keys=True, indent=1) + "\n")


def run(
    folder: Path, kept: Kept, word: str, pick: Callable[[Home], dict[str, Callable[[str], None]]], kind: str
) -> None:
    for point in range(100):
        number = len(list(folder.iterdir()))
        own = folder / f"{number}"
        own.mkdir()
        home = Home(own)
        home.jobs.by_token = {
            f"used{taken}": "" for taken in range(10 * number)
        }  # so that no two homes name one resource
        kill_at(point)
        ended = False
        try:
            pick(home)[word](f"{kind}-{word}-{point}".replace("_", "-"))
            ended = True
        except Killed:
            pass
        except ToolboxError as error:  # what the scenario's user would see; the row is what counts
            print(f"{word} {point}: {error}")
            ended = True
        finally:
            arm(None)
        home.store.close()
        kept.take(home, own / "state.db")
        if ended:
            return


def main() -> None:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "homes"
        folder.mkdir()
        SqliteStore(Path(name) / "all.db").close()
        kept = Kept(sqlite3.connect(Path(name) / "all.db"))
        for kind, pick in (("job", job_scenarios), ("endpoint", endpoint_scenarios)):
            (folder / "0").mkdir(exist_ok=True)
            probe = folder / f"{len(list(folder.iterdir()))}"
            probe.mkdir()
            for word in pick(Home(probe)):
                run(folder, kept, word, pick, kind)
        kept.dump(folder, target)
        kept.database.close()


if __name__ == "__main__":
    main()
