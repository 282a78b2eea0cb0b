"""One batch cannot be learnt by heart.

Symptom: the loss stays where it is, or rises, although every step runs.
Cause: a learning rate too low for what is trained, an optimizer that holds next to nothing of the model, a rate so
high that steps overshoot, a loss of the wrong sign, or weights that do not bear on the loss.
Fix: the finding tells which: raise `training.learning_rate` where the weights hardly moved, lower it where the loss
rose, look at the optimizer and at what is trained where the weights moved and the loss did not follow.
Prevention: `preflight.experiments: true` for a new model or trainer; by itself it is made where it is cheap.
Source: "overfit one batch" (Karpathy, A Recipe for Training Neural Networks, 2019), judged by the relative drop since
LoRA on random weights cannot reach 0. 25 steps on two short rows of the first batch at the peak rate, undone: a drop
under 0.1 % is a warning. Measured on the tiny model with random weights, where least is learnt: 13 % to 99 % at usual
rates, 0.5 % with LoRA at 1e-5, 8 % with every weight there; on whole batches a tenth less, 0.26 % with DPO's slowest
loss at 1e-5 and LoRA, and 0.07 % where the optimizer holds the norms alone. Rows whose loss is within 0.05 of the
least that their labels allow have nothing to learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.experiments import Learning
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import made

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LEAST = 1e-3
"""The smallest relative drop of the loss."""

KNOWN = 0.05
"""Nats above the lowest loss that a batch allows, under which it is known already."""

HARDLY = 1e-3
"""The share of their norm under which weights have hardly moved: 0.015 at usual rates, 4e-4 at 1e-6."""


@check(
    "TRAIN039",
    title="one batch can be learnt by heart",
    severity="warning",
    methods=("sft", "dpo", "reward"),
)
def batch_cannot_be_learnt(at: AtStep) -> Iterator[Finding]:
    learnt: Learning = made(at, "learnt")
    before, after = learnt.evaluated
    if at.recipe.method == "sft" and at.recipe.training["loss_type"] == "dft":
        raise NotApplicable("the loss of dft rises while a model that knows little learns")
    if not math.isfinite(before):
        raise NotApplicable("the loss is not finite before the first step")
    if before - learnt.floor < KNOWN:
        raise NotApplicable(
            f"the batch is known already: a loss of {before:.3g}, {learnt.floor:.3g} at least"
        )
    if math.isfinite(after) and before - after >= LEAST * abs(before):
        return
    rate = at.trainer.args.learning_rate
    cause, fix, key = _explain(learnt, rate)
    yield Finding(
        message=f"{len(learnt.losses)} steps on rows of the first batch at the peak learning rate of {rate:g} take "
        f"their loss from {before:.4f} to {after:.4f}: {cause}.",
        fix=fix,
        where=at.where(key),
        evidence=tuple(_describe(learnt)),
    )


def _explain(learnt: Learning, rate: float) -> tuple[str, str, str]:
    """What most likely keeps the batch from being learnt, what to do, and the key for it."""
    before, after = learnt.evaluated
    if learnt.moved == 0:
        return (
            "no trainable weight moved",
            "Raise training.learning_rate, and make the optimizer from the model's trainable parameters.",
            "training.learning_rate",
        )
    if not math.isfinite(after) or before - after < -LEAST * abs(before):
        return (
            "it becomes worse",
            f"Set training.learning_rate to {rate / 10:.3g}; where that does not help, see that the loss is one to be "
            "made smaller.",
            "training.learning_rate",
        )
    if learnt.moved < HARDLY:
        return (
            f"the weights moved by {learnt.moved:.1g} of their norm",
            "Raise training.learning_rate, and see that the optimizer holds all that is to be trained.",
            "training.learning_rate",
        )
    return (
        f"the weights moved by {learnt.moved:.1g} of their norm, and the loss did not follow",
        "See what the optimizer makes of gradients, and that what is trained bears on the loss.",
        "training",
    )


def _describe(learnt: Learning) -> Iterator[str]:
    yield "loss while training: " + ", ".join(f"{loss:.4f}" for loss in learnt.losses[::6])
    yield f"trained weights moved by {learnt.moved:.2g} of their norm"
    if learnt.accuracy is not None:
        yield "chosen above rejected: {:.0%}, then {:.0%} of the pairs".format(*learnt.accuracy)
    if learnt.floor > 0:
        yield f"rows that contradict each other leave a loss of {learnt.floor:.3g} at least"


@batch_cannot_be_learnt.fault
def rate_of_nearly_nothing(world: World) -> None:
    world.recipe["training"]["learning_rate"] = 1e-12
    world.recipe["preflight"] = {"experiments": True, "ignore": {"TRAIN001": "to see what 25 steps do"}}


@batch_cannot_be_learnt.fault
def optimizer_holds_the_norms_alone(world: World) -> None:
    """Every tensor that it holds has a gradient and moves."""

    def damage(at: AtModel) -> AtModel:
        norms = {id(p) for name, p in at.model.named_parameters() if "norm" in name}
        for group in at.trainer.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) in norms]
        return at

    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, damage)


@batch_cannot_be_learnt.fault
def steps_climb(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for group in at.trainer.optimizer.param_groups:
            group["maximize"] = True
        return at

    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, damage)
