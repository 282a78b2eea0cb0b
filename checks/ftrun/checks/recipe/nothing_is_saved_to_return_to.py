"""Nothing is saved before the run ends.

Symptom: an interruption or a NaN near the end costs the whole run.
Cause: `save_strategy: no`, or `save_steps` beyond the last step. ftrun saves the model that training ends
with in any case; what is missing is a checkpoint on the way.
Fix: set `training.save_strategy` to `epoch`, or to `steps` with `save_steps` at a tenth of the run, and
`save_total_limit: 2` to bound the disk.
Prevention: `ftrun plan` shows the planned checkpoints.
Source: a run longer than 500 steps, transformers' default of `save_steps`, is long enough to regret;
axolotl#1202, #3233.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LONG = 500


@check("TRAIN007", title="there are checkpoints to return to", severity="info")
def nothing_is_saved_to_return_to(at: AtRecipe) -> Iterator[Finding]:
    """Tell a run without checkpoints: a note where it is short or of unknown length, else a warning."""
    training = at.recipe.training
    strategy, steps, every = training["save_strategy"], training["max_steps"], training["save_steps"]
    fix = "Set training.save_strategy to epoch, or to steps with save_steps at a tenth of the run."
    if strategy == "no":
        length = f"{steps} steps" if steps > 0 else f"{training['num_train_epochs']:g} epochs"
        yield Finding(
            message=f"training.save_strategy is no: an interruption within the {length} loses all of them.",
            fix=fix,
            where=at.where("training.save_strategy"),
            severity="warning" if steps > LONG else "info",
        )
    elif strategy == "steps" and LONG < steps <= every:
        yield Finding(
            message=f"The first checkpoint is due at step {every:g}, and the run has {steps}.",
            fix=fix,
            where=at.where("training.save_steps"),
            severity="warning",
        )


@nothing_is_saved_to_return_to.fault
def saving_is_off(world: World) -> None:
    """No checkpoint at all."""
    world.recipe["training"]["save_strategy"] = "no"


@nothing_is_saved_to_return_to.fault
def the_first_save_is_beyond_the_end(world: World) -> None:
    """A day of training, and the only checkpoint at its end."""
    world.recipe["training"] |= {"save_strategy": "steps", "save_steps": 10000, "max_steps": 2000}
