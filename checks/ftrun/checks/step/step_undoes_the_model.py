"""One step at the peak learning rate makes the model worse on the very rows that it was made on.

Symptom: the loss jumps up as soon as the warmup ends, or in the first steps, and never comes back.
Cause: the learning rate is too high for this model, this optimizer or this rank of adapters; an optimizer's setting
or a rate of its own for some weights makes updates larger than the rate says.
Fix: divide `training.learning_rate` by ten.
Prevention: start from the rates of a recipe that ran: about 2e-5 for every weight, 2e-4 for LoRA.
Source: the loss of the first batch before and after one step at the peak rate; over 1.5 times as high, and a nat at
least, is a warning where there is a warmup, an error where there is none or the loss is not finite. Measured with a
tiny model and three optimizers: 0.80 to 1.0 times at rates of 5e-5 to 0.1, 2.7 times at 1.0. trl#1236, axolotl's guide
to stability.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import made

if TYPE_CHECKING:
    from ftrun.checks.testing import World

TIMES = 1.5
NATS = 1.0


@check("TRAIN037", title="a step at the peak learning rate does no harm", methods=("sft",))
def step_undoes_the_model(at: AtStep) -> Iterator[Finding]:
    before, after = made(at, "updated")
    if not math.isfinite(before):
        raise NotApplicable("the loss is not finite before the step")
    if math.isfinite(after) and (after <= TIMES * before or after <= before + NATS):
        return
    rate = at.trainer.args.learning_rate
    gentle = bool(at.recipe.training["warmup_steps"]) and math.isfinite(after)
    yield Finding(
        message=f"The loss of the first batch is {before:.3g}, and {after:.3g} after one step on it at the peak "
        f"learning rate of {rate:g}.",
        fix=f"Set training.learning_rate to {rate / 10:.3g}.",
        where=at.where("training.learning_rate"),
        patch=Patch("training.learning_rate", float(f"{rate / 10:.3g}")),
        severity="warning" if gentle else "error",
    )


@step_undoes_the_model.fault
def optimizer_has_a_rate_of_its_own(world: World) -> None:
    """The recipe's rate is fine, and the optimizer's is not it."""

    def damage(at: AtModel) -> AtModel:
        for group in at.trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = 1.0
        return at

    world.after(AtModel, damage)


@step_undoes_the_model.fault
def rate_is_far_too_high(world: World) -> None:
    world.recipe["training"] |= {"learning_rate": 1.0, "warmup_steps": 0}
    world.recipe["preflight"] = {"ignore": {"TRAIN001": "to see what a step does"}}
