"""The learning rate warms up for most of the run, or never reaches its peak.

Symptom: the loss hardly falls, as if the learning rate were far too small.
Cause: training.warmup_steps was copied from a longer run.
Fix: give training.warmup_steps as a share of the run, such as 0.1.
Source: over half of the steps is a warning, all of them an error. A number below 1 is a share of the steps
(transformers `TrainingArguments.get_warmup_steps`); axolotl#3254, axolotl#1566.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.schedule import count_warmup, is_trial
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LONG = 0.5
WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedules that transformers' `get_scheduler` gives no warmup."""


@check("TRAIN004", title="the learning rate reaches its peak early", severity="warning")
def warmup_too_long(at: AtData) -> Iterator[Finding]:
    training = at.recipe.training
    if not training["warmup_steps"]:
        raise NotApplicable("the recipe has no warmup")
    if at.steps == 1:
        raise NotApplicable("the run is one step")
    if training["lr_scheduler_type"] in WITHOUT_WARMUP:
        raise NotApplicable(f"the schedule {training['lr_scheduler_type']} has no warmup")
    warmup = count_warmup(training, at.steps)
    never = warmup >= at.steps
    if not never and (warmup <= LONG * at.steps or is_trial(at)):
        return
    # The rate of step i, counted from 0, is i / warmup of the peak.
    reached = (at.steps - 1) / warmup if never else 1.0
    peak = (
        f"ends at {reached:.1%} of training.learning_rate"
        if never
        else "is at its peak for less than half of it"
    )
    yield Finding(
        message=f"The warmup takes {warmup} steps and the run has {at.steps}: the learning rate {peak}.",
        fix="Set training.warmup_steps to 0.1, a tenth of the run.",
        where=at.where("training.warmup_steps"),
        patch=Patch("training.warmup_steps", 0.1),
        severity="error" if never and not is_trial(at) else "warning",
    )


@warmup_too_long.fault
def warmup_of_a_longer_run(world: World) -> None:
    world.recipe["training"]["warmup_steps"] = 1000


@warmup_too_long.fault
def warmup_for_most_of_the_run(world: World) -> None:
    world.recipe["training"]["warmup_steps"] = 0.7


@warmup_too_long.fault
def warmup_of_a_longer_run_in_a_trial(world: World) -> None:
    world.recipe["training"] |= {"warmup_steps": 1000, "max_steps": 5}
