"""The first evaluation is due after the run has ended.

Symptom: the evaluation loss appears once, at the end, when it can no longer stop a run that overfits.
Cause: training.eval_steps or training.eval_delay was copied from a longer run.
Fix: give training.eval_steps as a share of the run, such as 0.1, or set training.eval_strategy: epoch.
Source: axolotl#633, axolotl#2298.
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


@check("TRAIN010", title="evaluation comes before the end", severity="warning")
def evaluation_after_the_end(at: AtData) -> Iterator[Finding]:
    training = at.recipe.training
    if training["eval_strategy"] != "steps" or at.eval is None:
        raise NotApplicable("nothing is evaluated after a number of steps")
    if is_trial(at):
        raise NotApplicable(f"a trial of {at.steps} steps")
    key = "eval_steps" if training["eval_steps"] else "logging_steps"
    interval = every(training[key], at.steps)
    delay = training["eval_delay"] or 0
    if interval <= at.steps and delay <= at.steps:
        return
    if delay > at.steps:
        message = (
            f"Evaluation waits for {delay:g} steps and the run has {at.steps}: nothing is ever evaluated."
        )
        yield Finding(
            message=message,
            fix="Lower training.eval_delay.",
            where=at.where("training.eval_delay"),
            patch=Patch("training.eval_delay", 0),
        )
        return
    yield Finding(
        message=f"Evaluation is due every {interval} steps (training.{key}) and the run has {at.steps}: it "
        "comes once, at the end.",
        fix="Set training.eval_steps to 0.1, a tenth of the run.",
        where=at.where(f"training.{key}"),
        patch=Patch("training.eval_steps", 0.1),
    )


@evaluation_after_the_end.fault
def interval_of_a_longer_run(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 500}


@evaluation_after_the_end.fault
def delay_of_a_longer_run(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 500}
