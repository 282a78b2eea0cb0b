"""Every check is whole, catches each of its faults, and is silent on the healthy worlds of its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.check import Check, Fault
from ftrun.checks.testing import HEALTHY, World, assert_catches, assert_whole
from ftrun.runner.preflight import climb

CHECKS = load_checks()
WORLDS = [world for worlds in HEALTHY.values() for world in worlds]


def _faults() -> Iterator[object]:
    """Two faults of each check by default; `-m "slow or not slow"` takes all."""
    for check in CHECKS:
        for number, fault in enumerate(check.faults):
            marks = [pytest.mark.slow] if number > 1 else []
            yield pytest.param(check, fault, id=f"{check.id}-{fault.__name__}", marks=marks)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_check_is_whole(check: Check) -> None:
    assert_whole(check)


@pytest.mark.parametrize(("check", "fault"), [*_faults()])
def test_check_catches_its_fault(check: Check, fault: Fault, tmp_path: Path) -> None:
    healthy = HEALTHY[check.methods[0]][0]
    assert_catches(check, fault, healthy(tmp_path), climb)


@pytest.mark.parametrize("make", WORLDS, ids=lambda make: make.__name__)
def test_healthy_world_is_silent(make: Callable[[Path], World], tmp_path: Path) -> None:
    world = make(tmp_path)
    report = climb(world.write(), checks=CHECKS, after=world.apply)
    loud = [finding for finding in report.findings if finding.severity != "info"]
    assert not loud, [f"{finding.id}: {finding.message}" for finding in loud]
    assert report.stage == "step"
    assert not [result.check.id for result in report.results if result.verdict == "skipped"]
