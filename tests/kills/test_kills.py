"""Every promise holds after real kills and stops at random moments. One seed over a selection; the slow suite does all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kills import driver, local_driver
from tests.kills.driver import MATRIX
from tests.kills.local_report import LocalTrial
from tests.kills.report import Report, Trial
from tests.postgres import Server

SEED = 20_261_120
SELECTION = tuple(
    replace(trial, seed=SEED, workflows=40, kills=6, stops=2)
    for trial in MATRIX
    if (trial.state, trial.kind, trial.workers, trial.elsewhere)
    in {
        ("sqlite", "token", 1, False),
        ("sqlite", "none", 2, False),
        ("postgres", "name", 2, False),
        ("postgres", "token", 2, True),
    }
)
SLOW_SEEDS = range(1, 11)


def try_it(trial: Trial, folder: Path, request: pytest.FixtureRequest) -> Report:
    url = ""
    if trial.state == "postgres":
        server: Server = request.getfixturevalue("postgres_server")
        url = server.new_schema()
    report = driver.try_once(trial, folder, url)
    print(report.HEAD, report.row(), sep="\n")
    return report


@pytest.mark.parametrize("trial", SELECTION, ids=lambda trial: trial.name)
def test_nothing_lost_doubled_or_orphaned(trial: Trial, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    report = try_it(trial, tmp_path, request)
    report.assert_clean()
    assert report.kills >= trial.kills
    assert report.faults > 20, "the cloud was meant to be hostile"
    assert report.created >= trial.workflows // 2


def test_no_training_process_outlives_its_job(tmp_path: Path) -> None:
    report = local_driver.try_once(LocalTrial(seed=SEED, jobs=20, blows=20), tmp_path)
    print(report.HEAD, report.row(), sep="\n")
    report.assert_clean()
    assert report.blows.total() >= 15
    assert report.attempts >= 20


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SLOW_SEEDS)
@pytest.mark.parametrize("trial", MATRIX, ids=lambda trial: trial.name.partition(", seed")[0])
def test_many_more(trial: Trial, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    try_it(replace(trial, seed=seed), tmp_path, request).assert_clean()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_many_more_training_processes(seed: int, tmp_path: Path) -> None:
    report = local_driver.try_once(LocalTrial(seed=seed, jobs=40, blows=40), tmp_path)
    print(report.HEAD, report.row(), sep="\n")
    report.assert_clean()
