"""The learning rate is too high or too low to train with.

Symptom: too high, the loss jumps, becomes NaN or the model babbles; too low, 2.45, 2.44, 2.43 and no more.
Cause: a typo, a rate meant for LoRA (around 2e-4) on full fine-tuning (around 2e-5), one for another optimizer, or
that of supervised training for DPO, which takes a fortieth of it.
Fix: set `training.learning_rate` to about 2e-5 for full fine-tuning, 2e-4 for LoRA, for DPO to 5e-7 and 5e-6; with
Lion a tenth of it.
Prevention: change it by factors of 2 to 3, and look at the first hundred steps.
Source: trl#1236, axolotl#770. Warnings from 1e-4 (full) and 1e-3 (LoRA) on, errors at ten times that; models
of less than 50 million parameters learn at higher rates and are judged at 1e-2 and 1e-1. Under 1e-6 is a
warning (6e-7 was too low in torchtune#2254), under 1e-7 an error. DPO: warnings from 1e-5 (full) and 1e-4 (LoRA)
on, errors at ten times that, and under 1e-7 a warning, under 1e-8 an error (trl#1236; the alignment handbook uses
5e-7 and 5e-6, LoRA without Regret (2025) ten times the rate of full fine-tuning). Plain gradient descent moves all
weights together by the rate times the clipped norm at most: under 10⁻³ is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.size import is_small
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.learning_rate"


@dataclass(frozen=True)
class Rates:
    """For AdamW: from `error` on a rate destroys the model, above `warning` it may, below `slow` little is learnt,
    below `flat` nothing; `usual` is one to begin with."""

    flat: float
    slow: float
    usual: float
    warning: float
    error: float


FULL = Rates(1e-7, 1e-6, 2e-5, 1e-4, 1e-3)
LORA = Rates(1e-7, 1e-6, 2e-4, 1e-3, 1e-2)
SMALL = Rates(1e-7, 1e-6, 1e-3, 1e-2, 1e-1)
# DPO pushes two answers apart, whose log-probabilities move much faster than a loss over tokens does.
DPO_FULL = Rates(1e-8, 1e-7, 5e-7, 1e-5, 1e-4)
DPO_LORA = Rates(1e-8, 1e-7, 5e-6, 1e-4, 1e-3)
MARGIN = 1e-9  # 0.1 × 1e-2 is not 1e-3 to the last bit
# Rates that these optimizers take, as a multiple of AdamW's: Lion a tenth (arXiv 2302.06675), Adafactor and
# schedule-free AdamW up to ten times (arXiv 1804.04235, 2405.15682).
SCALES = {
    "lion": 0.1,
    "paged_lion": 0.1,
    "adafactor": 10.0,
    "schedule_free_adamw": 10.0,
    "schedule_free_radam": 10.0,
}
# These take rates of orders of their own: they follow plain gradients, sums of their squares, or projections.
SLOW_DESCENT = 1e-3
UNJUDGED = ("sgd", "schedule_free_sgd", "adagrad", "lomo", "adalomo", "galore", "apollo")


@check("TRAIN001", title="the learning rate is in a reasonable range", methods=("sft", "reward", "dpo"))
def learning_rate_out_of_range(at: AtRecipe) -> Iterator[Finding]:
    """Tell a rate outside of the range of the optimizer, for the way and size of training."""
    rate, optimizer = float(at.recipe.training["learning_rate"]), str(at.recipe.training["optim"])
    usual = _usual(at)
    if rate == 0:
        fix = f"Set training.learning_rate, to {usual.usual:g} with AdamW."
        yield Finding("The learning rate is 0: nothing is learnt.", fix, at.where(KEY))
        return
    if optimizer == "sgd" and rate < SLOW_DESCENT:
        yield Finding(
            f"The learning rate is {rate:g}, and sgd does not scale it by the size of gradients as AdamW does: a step "
            f"moves all weights together by {rate * float(at.recipe.training['max_grad_norm'] or 1.0):g} at most.",
            "Raise training.learning_rate to 0.01 or more, or set training.optim: adamw_torch.",
            at.where(KEY),
            severity="warning",
        )
        return
    if optimizer.startswith(UNJUDGED):
        raise NotApplicable(f"{optimizer} takes rates of its own scale")
    scale = next((one for name, one in SCALES.items() if optimizer.startswith(name)), 1.0)
    way = "LoRA" if at.recipe.model.lora is not None else "full fine-tuning"
    warning, error = usual.warning * scale, usual.error * scale
    advised = f"about {usual.usual * scale:g}"
    if rate > warning * (1 + MARGIN):
        message = (
            f"The learning rate is {rate:g}; {way} with {optimizer} takes up to {warning:g}, "
            f"and from {error:g} on it destroys what the model knows."
        )
        fix = f"Lower training.learning_rate to {advised}."
        is_error = rate >= error * (1 - MARGIN)
        yield Finding(message, fix, at.where(KEY), severity="error" if is_error else "warning")
    elif rate < usual.slow * scale:
        message = f"The learning rate is {rate:g}: the loss stays flat."
        fix = f"Raise training.learning_rate to {advised}."
        is_error = rate < usual.flat * scale
        yield Finding(message, fix, at.where(KEY), severity="error" if is_error else "warning")


def _usual(at: AtRecipe) -> Rates:
    model = at.recipe.model
    is_dpo, has_lora = at.recipe.method == "dpo", model.lora is not None
    if is_small(model.path, at.file.folder):
        return replace(SMALL, flat=DPO_FULL.flat, slow=DPO_FULL.slow) if is_dpo else SMALL
    if is_dpo:
        return DPO_LORA if has_lora else DPO_FULL
    return LORA if has_lora else FULL


@learning_rate_out_of_range.fault
def a_rate_of_one(world: World) -> None:
    """Too high for any model."""
    world.recipe["training"]["learning_rate"] = 1.0


@learning_rate_out_of_range.fault
def a_rate_for_lora_on_a_whole_model(world: World) -> None:
    """1e-3 for every weight of a model from the hub."""
    world.recipe["model"]["path"] = "some-team/some-model-7b"
    world.recipe["training"]["learning_rate"] = 1e-3


@learning_rate_out_of_range.fault
def a_rate_of_zero(world: World) -> None:
    """Nothing moves."""
    world.recipe["training"]["learning_rate"] = 0.0


@learning_rate_out_of_range.fault
def descent_at_the_rate_of_adamw(world: World) -> None:
    """5e-5 with plain gradient descent."""
    world.recipe["training"]["optim"] = "sgd"


@learning_rate_out_of_range.fault
def two_digits_too_many(world: World) -> None:
    """2e-7 where 2e-5 was meant."""
    world.recipe["training"]["learning_rate"] = 2e-7


@learning_rate_out_of_range.fault
def a_rate_of_adamw_with_lion(world: World) -> None:
    """Lion moves every weight by the full rate."""
    world.recipe["model"]["path"] = "some-team/some-model-7b"
    world.recipe["training"] |= {"learning_rate": 5e-5, "optim": "lion_32bit"}


@learning_rate_out_of_range.fault
def a_rate_of_supervised_training_with_dpo(world: World) -> None:
    """2e-5 teaches answers, and throws preferences about."""
    world.recipe |= {"method": "dpo"}
    world.recipe["model"]["path"] = "some-team/some-model-7b"
    world.recipe["training"]["learning_rate"] = 2e-5
