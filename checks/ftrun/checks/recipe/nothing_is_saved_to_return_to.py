"""Nothing is saved before the run ends.

Symptom: an interruption or a NaN near the end costs the whole run.
Cause: `save_strategy: no`. ftrun saves the model that training ends with in any case; what is missing is a
checkpoint on the way.
Fix: set `training.save_strategy` to `epoch`, or to `steps` with `save_steps` at a tenth of the run, and
`save_total_limit: 2` to bound the disk.
Prevention: leave `save_strategy` to its default, or set it to `epoch`.
Source: a run longer than 500 steps, transformers' default of `save_steps`, is long enough to regret;
axolotl#1202, #3233.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LONG = 500


@check("TRAIN007", title="there are checkpoints to return to", severity="info")
def nothing_is_saved_to_return_to(at: AtRecipe) -> Iterator[Finding]:
    """Tell a run without checkpoints: a note where it is short or of unknown length, else a warning."""
    training = at.recipe.training
    steps = training["max_steps"]
    if training["save_strategy"] == "no":
        length = f"{steps} steps" if steps > 0 else f"{training['num_train_epochs']:g} epochs"
        yield Finding(
            message=f"training.save_strategy is no: an interruption within the {length} loses all of them.",
            fix="Set training.save_strategy to epoch, or to steps with save_steps at a tenth of the run.",
            where=at.where("training.save_strategy"),
            severity="warning" if steps > LONG else "info",
            patch=Patch("training.save_strategy", "epoch"),
        )


@nothing_is_saved_to_return_to.fault
def saving_is_off(world: World) -> None:
    """No checkpoint at all."""
    world.recipe["training"]["save_strategy"] = "no"


@nothing_is_saved_to_return_to.fault
def saving_is_off_in_a_long_run(world: World) -> None:
    """Hours at stake."""
    world.recipe["training"] |= {"save_strategy": "no", "max_steps": 20000}
