"""The first checkpoint is due after the run has ended.

Symptom: a run that is interrupted starts again from nothing.
Cause: training.save_steps was copied from a longer run.
Fix: give training.save_steps as a share of the run, such as 0.2, or set training.save_strategy: epoch.
Source: only an interval that the recipe writes itself counts, not the default of 500 steps. The trained model
is saved at the end in any case. axolotl#1202, axolotl#3233.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.schedule import every, is_trial
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN011", title="checkpoints come before the end", severity="info")
def save_after_the_end(at: AtData) -> Iterator[Finding]:
    training = at.recipe.training
    if training["save_strategy"] != "steps" or "save_steps" not in at.file.recipe.training:
        raise NotApplicable("the recipe gives no number of steps between checkpoints")
    if is_trial(at):
        raise NotApplicable(f"a trial of {at.steps} steps")
    interval = every(training["save_steps"], at.steps)
    if interval > at.steps:
        yield Finding(
            message=f"A checkpoint is due every {interval} steps and the run has {at.steps}: there is none "
            "to go back to before the end.",
            fix="Set training.save_steps to 0.2, a fifth of the run.",
            where=at.where("training.save_steps"),
            patch=Patch("training.save_steps", 0.2),
        )


@save_after_the_end.fault
def interval_of_a_longer_run(world: World) -> None:
    world.recipe["training"] |= {"save_strategy": "steps", "save_steps": 5000}
