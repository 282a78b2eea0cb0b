"""The recipe sets what ftrun decides itself.

Symptom: a setting of TRL's config is refused by name.
Cause: keys such as `output_dir`, `report_to`, `push_to_hub` or `logging_nan_inf_filter` would break the run's
record or blind its guards.
Fix: use what the message names instead, or remove the line.
Prevention: `ftrun schema` lists the keys that a recipe accepts.
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


@check("REC009", title="the recipe leaves to ftrun what ftrun decides")
def refused_key(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each refused key, with what to use instead."""
    yield from findings_of(failed, "refused_key")


@refused_key.fault
def an_output_folder_of_its_own(world: World) -> None:
    """The folder belongs under `output:`."""
    world.recipe["training"]["output_dir"] = "out"


@refused_key.fault
def a_second_tracker(world: World) -> None:
    """ftrun writes the record itself."""
    world.recipe["training"]["report_to"] = "wandb"
