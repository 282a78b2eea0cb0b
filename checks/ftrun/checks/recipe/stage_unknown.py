"""`stage:NAME` names no earlier stage.

Symptom: ftrun stops at a model that is written as `stage:NAME`.
Cause: a misspelt name, a stage that comes later or is this one, or a recipe of a pipeline that is run alone.
Fix: name a stage that comes before; in a recipe that is run alone name a model, and leave `stage:NAME` to the
pipeline's `set:`.
Prevention: write `stage:NAME` into the pipeline and keep its recipes able to run alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.mistakes import findings_of
from ftrun.checks.stages import RecipeFailed

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC015", title="every `stage:` names an earlier stage of its pipeline")
def stage_unknown(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each `stage:NAME` without a stage."""
    yield from findings_of(failed, "stage_unknown")


@stage_unknown.fault
def a_stage_in_a_recipe_that_runs_alone(world: World) -> None:
    """The recipe was taken out of its pipeline."""
    world.recipe["model"]["path"] = "stage:sft"
