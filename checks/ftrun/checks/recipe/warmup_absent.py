"""There is no warmup.

Symptom: the loss jumps within the first steps and needs long to come back.
Cause: AdamW's first updates rest on a few gradients and are as large as the full learning rate allows.
`warmup_steps` is 0 unless a recipe sets it; the schedules `constant`, `reduce_lr_on_plateau` and `greedy`
have none, whatever it says.
Fix: set `training.warmup_steps` to 0.03 (3 % of the steps) up to 0.1; with a constant rate, take
`lr_scheduler_type: constant_with_warmup`.
Prevention: recipes of `ftrun init` have a warmup.
Source: transformers.optimization.get_scheduler hands no warmup to those three; arXiv 1910.04209.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")


@check("TRAIN003", title="the learning rate warms up", severity="info")
def warmup_absent(at: AtRecipe) -> Iterator[Finding]:
    """Tell a run without warmup, and a warmup that the schedule leaves out."""
    steps, schedule = at.recipe.training["warmup_steps"], at.recipe.training["lr_scheduler_type"]
    optimizer = str(at.recipe.training["optim"])
    if optimizer.startswith(("schedule_free", "adafactor", "sgd")):
        raise NotApplicable(f"{optimizer} does without warmup")
    if steps == 0:
        yield Finding(
            message="The first step takes the whole learning rate: training.warmup_steps is 0.",
            fix="Set training.warmup_steps to 0.03, which is 3 % of the steps.",
            where=at.where("training.warmup_steps"),
            # A schedule that would leave it out is a choice to go without.
            patch=None if schedule in WITHOUT_WARMUP else Patch("training.warmup_steps", 0.03),
        )
    elif schedule in WITHOUT_WARMUP:
        constant = schedule == "constant"
        fix = "Set training.lr_scheduler_type to constant_with_warmup."
        yield Finding(
            message=f"The schedule {schedule} leaves out the warmup of training.warmup_steps: {steps:g}.",
            fix=fix if constant else "Remove training.warmup_steps, or choose a schedule that warms up.",
            where=at.where("training.lr_scheduler_type"),
            severity="warning",
            patch=Patch("training.lr_scheduler_type", "constant_with_warmup") if constant else None,
        )


@warmup_absent.fault
def no_warmup(world: World) -> None:
    """The default of TRL and transformers."""
    del world.recipe["training"]["warmup_steps"]


@warmup_absent.fault
def a_schedule_that_ignores_it(world: World) -> None:
    """`constant` is given no warmup by transformers."""
    world.recipe["training"]["lr_scheduler_type"] = "constant"
