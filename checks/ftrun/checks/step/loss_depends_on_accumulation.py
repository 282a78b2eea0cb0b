"""Accumulated gradients are not those of one large batch.

Symptom: a run with `gradient_accumulation_steps` learns worse than one with the same rows in one batch; the loss is
a multiple of what it should be, and short rows weigh as much as long ones.
Cause: each micro-batch is averaged over its own tokens, then the averages are added or averaged again.
Fix: let the loss divide by the tokens of the whole step (`num_items_in_batch`), as the trainer's own does; or set
`training.gradient_accumulation_steps: 1`.
Source: principle: what a micro-batch gives to the loss of a step is its share of the step's tokens, times its own
loss. Measured: equal to 1e-7 in float32; 1e-4 (2e-2 in half precision) is told. transformers#34191, #35203.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import differ, made

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN033", title="accumulated gradients are those of one large batch", methods=("sft",))
def loss_depends_on_accumulation(at: AtStep) -> Iterator[Finding]:
    given, share = made(at, "accumulated")
    if differ(at, given, share):
        steps = at.recipe.training["gradient_accumulation_steps"]
        yield Finding(
            message=f"With gradient_accumulation_steps {steps}, a micro-batch gives {given:.4g} to the loss of a step "
            f"of which it has one {steps + 1}th of the tokens; its share is {share:.4g}.",
            fix="Divide the loss by num_items_in_batch, or set training.gradient_accumulation_steps to 1.",
            where=at.where("training.gradient_accumulation_steps"),
        )


@loss_depends_on_accumulation.fault
def micro_batches_are_added(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        compute = at.trainer.compute_loss

        def average(model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
            return compute(model, inputs, num_items_in_batch=None, **kwargs)

        at.trainer.compute_loss = average
        return at

    world.recipe["training"]["gradient_accumulation_steps"] = 4
    world.after(AtModel, damage)


@loss_depends_on_accumulation.fault
def averages_are_averaged(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.model_accepts_loss_kwargs = False
        return at

    world.recipe["training"]["gradient_accumulation_steps"] = 2
    world.after(AtModel, damage)
