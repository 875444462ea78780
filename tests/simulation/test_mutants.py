"""Bugs planted on purpose are caught: a simulator that finds nothing might as well not look.

``python -m tests.simulation.mutants`` prints for each the share of schedules that catch it.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, caught


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    found, _, ran = caught(mutant, range(mutant.seeds))
    assert found, f"{mutant.name} survives {ran} schedules: {mutant.why}"


def test_enough_bugs_are_planted() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
