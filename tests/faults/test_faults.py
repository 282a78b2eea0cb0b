"""Every planted fault is told by the check of its true cause first, at the stage on record.

By default each planting is made in the first of its worlds; `-m "slow or not slow"`, as the benchmark, takes all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.catalogue import load_plantings, load_unplanted
from tests.faults.outcomes import plant_and_climb
from tests.faults.plants import Planting

from ftrun.checks.catalogue import load_checks
from ftrun.checks.testing import World

ROOT = Path(__file__).resolve().parents[2]
CHECKS = load_checks()
PLANTINGS = load_plantings()
UNPLANTED = load_unplanted()


def _cases() -> Iterator[object]:
    for one in PLANTINGS:
        for number, make in enumerate(one.worlds):
            name = f"{one.fault.id}-{one.name}-{make.__name__}"
            yield pytest.param(one, make, id=name, marks=[pytest.mark.slow] if number else [])


@pytest.mark.parametrize(("planting", "make"), [*_cases()])
@pytest.mark.filterwarnings("ignore")  # what libraries say of a broken run is not ours
def test_fault_is_told(planting: Planting, make: Callable[[Path], World], tmp_path: Path) -> None:
    outcome = plant_and_climb(planting, make, tmp_path, CHECKS)
    assert not outcome.broken
    first = outcome.told[0] if outcome.told else None
    if planting.told:
        assert first in planting.told, f"shown are {outcome.told}: {outcome.message}"
    else:
        assert first is None, f"{outcome.told} tells it now: {outcome.message}"
    assert outcome.at == planting.at
