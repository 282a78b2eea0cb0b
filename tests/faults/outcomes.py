"""What ftrun's preflight says of a planted fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.plants import Planting, StageName

from ftrun.checks.check import Check
from ftrun.checks.report import Report
from ftrun.checks.stages import STAGE_NAMES, AtStep, DataFailed, ModelFailed, RecipeFailed
from ftrun.checks.testing import World
from ftrun.runner.preflight import climb, report_mistakes
from ftrun.runner.rehearsal import rehearse
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.pipeline import load_pipeline

PIPELINE = "pipeline.yaml"
"""The file that a planting writes where the fault is one of a pipeline."""


@dataclass(frozen=True)
class Outcome:
    """The findings of a preflight, infos left out."""

    told: tuple[str, ...]
    """Ids of the findings, in the order in which they are shown."""

    at: StageName | None
    """The stage of the first."""

    message: str
    broken: tuple[str, ...]
    """Checks that failed themselves."""


def plant_and_climb(
    planting: Planting, make: Callable[[Path], World], folder: Path, checks: Sequence[Check]
) -> Outcome:
    """The outcome of the whole preflight with the fault in a world."""
    world = make(folder / "world")
    world.folder.mkdir(parents=True, exist_ok=True)
    planting.plant(world)
    path = world.write()
    if (world.folder / PIPELINE).is_file():
        return _read(_rehearse(world.folder / PIPELINE, folder / "scratch", checks))
    return _read([climb(path, checks=checks, sets=world.sets, after=world.apply)])


def _rehearse(path: Path, scratch: Path, checks: Sequence[Check]) -> list[Report]:
    try:
        pipeline = load_pipeline(path)
    except RecipeError as error:
        return [report_mistakes(path, error, checks)]
    return [one.report for one in rehearse(pipeline, checks=checks, scratch=scratch, upto=AtStep)]


def _read(reports: Sequence[Report]) -> Outcome:
    loud = [one for report in reports for one in report.findings if one.severity != "info"]
    stages: dict[str, StageName] = {
        result.check.id: _name(result.check.stage) for report in reports for result in report.results
    }
    broken = tuple(
        f"{result.check.id}: {result.reason}"
        for report in reports
        for result in report.results
        if "check itself" in (result.reason or "")
    )
    return Outcome(
        told=tuple(one.id for one in loud),
        at=stages[loud[0].id] if loud else None,
        message=loud[0].message if loud else "",
        broken=broken,
    )


def _name(stage: type) -> StageName:
    failures: dict[type, StageName] = {RecipeFailed: "recipe", DataFailed: "data", ModelFailed: "model"}
    return failures.get(stage) or STAGE_NAMES[stage]  # type: ignore[return-value]
