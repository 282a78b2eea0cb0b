"""A stage of the pipeline is no recipe.

Symptom: ftrun stops at the line of a stage, or says that a file is both a recipe and a pipeline.
Cause: the stage's recipe is not there, is the pipeline itself or another one, or `stages:` stands in a file
that has a `method:` of its own.
Fix: name one recipe in each stage, by its path relative to the pipeline.
Prevention: keep a pipeline beside its recipes, and run `ftrun validate` on it after moving one.
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


@check("REC014", title="every stage of a pipeline is a recipe")
def stage_broken(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each stage whose recipe cannot be used, and a file that is two things at once."""
    yield from findings_of(failed, "stage_broken")


@stage_broken.fault
def stages_in_a_recipe(world: World) -> None:
    """A second stage was added to a recipe."""
    world.recipe["stages"] = {"dpo": {"recipe": "dpo.yaml"}}


@stage_broken.fault
def a_pipeline_in_place_of_a_recipe(world: World) -> None:
    """The file names recipes and is none."""
    world.recipe = {"name": "healthy", "stages": {"sft": {"recipe": "sft.yaml"}}}
