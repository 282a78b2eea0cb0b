"""A value in the recipe is outside of what its key takes.

Symptom: with other tools the run starts and does something else, or fails hours later.
Cause: a negative rate or count, a share above 1, a word that is none of the choices.
Fix: write a value in the range that the message names.
Prevention: with the JSON Schema (`ftrun schema`) an editor marks it while you type.
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


@check("REC012", title="every value is in its key's range")
def out_of_range(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each value outside of its range."""
    yield from findings_of(failed, "out_of_range")


@out_of_range.fault
def a_negative_learning_rate(world: World) -> None:
    """A rate below 0 climbs."""
    world.recipe["training"]["learning_rate"] = -2e-5


@out_of_range.fault
def a_misspelt_method(world: World) -> None:
    """There is no such method."""
    world.recipe["method"] = "stf"


@out_of_range.fault
def all_rows_held_out(world: World) -> None:
    """A fraction of 1 leaves nothing to train on."""
    world.recipe["data"]["eval"] = {"fraction": 1.0}
