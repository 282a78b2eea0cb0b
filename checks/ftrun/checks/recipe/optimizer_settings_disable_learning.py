"""The optimizer's settings keep it from learning.

Symptom: the loss is flat, or the weights shrink towards 0 and the model forgets how to speak.
Cause: a weight decay of 1 or 100 where 0.1 was meant, an `adam_epsilon` larger than the gradients, or an `adam_beta2`
so small that each step looks at one batch alone; both betas exchanged.
Fix: set `training.weight_decay` to 0.1 or less, `adam_epsilon` to 1e-8, `adam_beta2` to 0.999 or 0.95.
Prevention: leave these keys out unless a paper of your model says otherwise.
Source: AdamW shrinks every weight by weight_decay × learning_rate a step, so 1e-2 halves it in 69 steps. It divides
by the root of the mean squared gradient plus epsilon, and an element's gradient is of order 1e-3 to 1e-6 here. A step
follows the last 1 / (1 − beta1) gradients: ten with 0.9, told is above 50. axolotl training_stability, peft#3503.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHRINKING = 1e-2
HEAVY_DECAY, HEAVY_DECAY_LION = 1.0, 10.0  # Lion takes ten times AdamW's decay with a tenth of its rate
LARGE_EPSILON, HUGE_EPSILON = 1e-3, 1e-1
SHORT_MEMORY = 0.5
LONG_MEMORY = 0.98  # of beta1: 50 steps, in which the loss turns and the step does not


@check("TRAIN008", title="the optimizer's settings let it learn")
def optimizer_settings_disable_learning(at: AtRecipe) -> Iterator[Finding]:
    """Tell a decay, an epsilon or a beta2 that works against the gradient."""
    yield from _judge_decay(at)
    if "adam" in str(
        at.recipe.training["optim"]
    ):  # adamw and its kin, ademamix: the others have none of these
        yield from _judge_epsilon(at)
        yield from _judge_memory(at)


def _judge_decay(at: AtRecipe) -> Iterator[Finding]:
    decay, rate = at.recipe.training["weight_decay"], at.recipe.training["learning_rate"]
    shrinking = decay * rate
    heavy = HEAVY_DECAY_LION if "lion" in str(at.recipe.training["optim"]) else HEAVY_DECAY
    if shrinking > SHRINKING or decay >= heavy:
        yield Finding(
            message=f"A weight decay of {decay:g} takes {shrinking:.2%} off every weight at each step.",
            fix="Set training.weight_decay to 0.1 or less.",
            where=at.where("training.weight_decay"),
            severity="error" if shrinking > SHRINKING else "warning",
            patch=Patch("training.weight_decay", 0.1),
        )


def _judge_epsilon(at: AtRecipe) -> Iterator[Finding]:
    epsilon = at.recipe.training["adam_epsilon"]
    if epsilon == 0:
        message = "training.adam_epsilon is 0: a weight without a gradient is divided by 0 and becomes NaN."
    elif epsilon >= LARGE_EPSILON:
        message = f"training.adam_epsilon is {epsilon:g}, far above any gradient: steps shrink to nothing."
    else:
        return
    yield Finding(
        message,
        fix="Set training.adam_epsilon to 1e-8.",
        where=at.where("training.adam_epsilon"),
        severity="warning" if LARGE_EPSILON <= epsilon < HUGE_EPSILON else "error",
        patch=Patch("training.adam_epsilon", 1e-8),
    )


def _judge_memory(at: AtRecipe) -> Iterator[Finding]:
    beta2 = at.recipe.training["adam_beta2"]
    if beta2 < SHORT_MEMORY:
        yield Finding(
            message=f"training.adam_beta2 is {beta2:g}: the scale of a step rests on about one batch.",
            fix="Set training.adam_beta2 to 0.999, or to 0.95 for noisy data.",
            where=at.where("training.adam_beta2"),
            severity="warning",
            patch=Patch("training.adam_beta2", 0.999),
        )
    beta1 = at.recipe.training["adam_beta1"]
    if beta1 > LONG_MEMORY:
        yield Finding(
            message=f"training.adam_beta1 is {beta1:g}: a step follows the mean of the last {1 / (1 - beta1):.0f} "
            "gradients, and hardly the present one."
            if beta1 < 1
            else "training.adam_beta1 is 1: no gradient enters the step.",
            fix="Set training.adam_beta1 to 0.9.",
            where=at.where("training.adam_beta1"),
            severity="warning",
            patch=Patch("training.adam_beta1", 0.9),
        )


@optimizer_settings_disable_learning.fault
def a_decay_of_a_thousand(world: World) -> None:
    """5 % off every weight at each step."""
    world.recipe["training"]["weight_decay"] = 1000.0


@optimizer_settings_disable_learning.fault
def a_decay_in_percent(world: World) -> None:
    """10 where 10 % was meant."""
    world.recipe["training"]["weight_decay"] = 10


@optimizer_settings_disable_learning.fault
def an_epsilon_of_one(world: World) -> None:
    """Larger than any gradient."""
    world.recipe["training"]["adam_epsilon"] = 1.0


@optimizer_settings_disable_learning.fault
def an_epsilon_of_zero(world: World) -> None:
    """0 / 0 for the embeddings of tokens that do not occur."""
    world.recipe["training"]["adam_epsilon"] = 0


@optimizer_settings_disable_learning.fault
def a_beta_of_zero(world: World) -> None:
    """No memory of the gradients' scale."""
    world.recipe["training"]["adam_beta2"] = 0


@optimizer_settings_disable_learning.fault
def betas_are_exchanged(world: World) -> None:
    world.recipe["training"] |= {"adam_beta1": 0.999, "adam_beta2": 0.9}
