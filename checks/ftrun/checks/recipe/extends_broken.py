"""A base that the recipe extends cannot be used.

Symptom: ftrun stops at the line with `extends:`.
Cause: the base is not there, cannot be read, or extends the recipe that extends it. Or it is of a team's catalogue, and
was not fetched, is no longer the content that `recipes.lock` holds, or asks for more than its own folder.
Fix: correct the path, which is relative to the file that says it, or break the circle. `ftrun recipes lock` fetches a
base of a catalogue, and `ftrun recipes show` what it asks for.
Prevention: keep bases beside the recipes that use them, and move them together; push what many use, and lock it.
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


@check("REC006", title="every recipe that this one extends can be read")
def extends_broken(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each base that is missing or leads back."""
    yield from findings_of(failed, "extends_broken")


@extends_broken.fault
def a_base_that_is_not_there(world: World) -> None:
    """The base was moved."""
    world.recipe["extends"] = "bases/common.yaml"


@extends_broken.fault
def a_recipe_that_extends_itself(world: World) -> None:
    """The shortest circle."""
    world.recipe["extends"] = "recipe.yaml"
