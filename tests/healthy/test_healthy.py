"""No check finds anything in a healthy world. `benchmarks/false_alarms.py` asks the same of every seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.healthy.worlds import Healthy, find_worlds

from ftrun.checks.catalogue import load_checks
from ftrun.runner.preflight import climb

CHECKS = load_checks()
SEED = 1

# Libraries warn of small models, of kernels that are not installed and of what is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore")


# Every sixth world by default; `-m "slow or not slow"` takes all, and so does the benchmark.
WORLDS = [
    pytest.param(one, id=one.name, marks=[pytest.mark.slow] if number % 6 else [])
    for number, one in enumerate(find_worlds())
]


@pytest.mark.parametrize("one", WORLDS)
def test_healthy_world_is_silent(one: Healthy, tmp_path: Path) -> None:
    world = one.build(tmp_path, SEED)
    report = climb(world.write(), checks=CHECKS, sets=world.sets, after=world.apply)
    loud = [finding for finding in report.findings if finding.severity != "info" and finding.ignored is None]
    assert not loud, [f"{finding.id} {finding.severity}: {finding.message}" for finding in loud]
    assert report.stage == "step"
    assert not [(one.check.id, one.reason) for one in report.results if one.verdict == "skipped"]


def test_seeds_are_different_runs(tmp_path: Path) -> None:
    """The rows, their order and the first weights follow from the seed, and from nothing else."""
    from safetensors.torch import load_file

    def build(seed: int, name: str) -> tuple[list[object], list[float]]:
        (one,) = (one for one in find_worlds() if one.name == "plain_answers")
        world = one.build(tmp_path / name, seed)
        weights = load_file(Path(world.recipe["model"]["path"]) / "model.safetensors")
        return list(world.rows), weights["model.norm.weight"].tolist() + weights["lm_head.weight"][7].tolist()

    first, again, other = build(1, "first"), build(1, "again"), build(2, "other")
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]
