"""The run has no steps.

Symptom: training ends at once and reports success; the saved model is the one that it began with.
Cause: `num_train_epochs: 0`, or `max_steps: 0`, which transformers does not read as "no limit" but as an end
that is reached after the first step.
Fix: set `training.num_train_epochs` above 0; for a limit in steps set `training.max_steps` to 1 or more, for
none leave it out (-1).
Prevention: `ftrun preflight` shows the steps of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN005", title="the run has steps to take")
def no_steps(at: AtRecipe) -> Iterator[Finding]:
    """Tell 0 epochs without a number of steps, and 0 steps."""
    epochs, steps = at.recipe.training["num_train_epochs"], at.recipe.training["max_steps"]
    if steps == 0:
        yield Finding(
            message="training.max_steps is 0: transformers takes one step, and the run is over.",
            fix="Remove training.max_steps, and num_train_epochs decides; or set it to 1 or more.",
            where=at.where("training.max_steps"),
            patch=Patch("training.max_steps", -1),
        )
    elif steps < 0 and epochs <= 0:
        yield Finding(
            message=f"training.num_train_epochs is {epochs:g}: the run ends before its first step.",
            fix="Set training.num_train_epochs to 1 or more, or training.max_steps.",
            where=at.where("training.num_train_epochs"),
        )


@no_steps.fault
def zero_epochs(world: World) -> None:
    """Nothing is seen."""
    world.recipe["training"]["num_train_epochs"] = 0


@no_steps.fault
def zero_steps(world: World) -> None:
    """0 where -1 stands for no limit."""
    world.recipe["training"]["max_steps"] = 0
