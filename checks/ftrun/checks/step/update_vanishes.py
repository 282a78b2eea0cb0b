"""Most of an update rounds to nothing.

Symptom: the loss falls a little and stays; nothing fails.
Cause: the learning rate is smaller than half of the distance between neighbouring numbers of the weights' type:
bfloat16 weights at a small learning rate, or a learning rate that is no rate at all.
Fix: set `model.dtype: float32`, train adapters with `model.lora`, or raise `training.learning_rate`.
Source: the share of elements with a gradient that one optimizer step at the peak learning rate changes; under
20 % is an error. Measured at a learning rate of 1e-6: float32 78 %, bfloat16 1.5 %. torchtune#2254, AReaL#1292.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FEW = 0.2


@check("TRAIN020", title="an update changes most of the weights that it is for")
def update_vanishes(at: AtStep) -> Iterator[Finding]:
    share, gradients = known(at.step.changed_share, at), known(at.step.gradients, at)
    norms = [norm for norm in gradients.values() if norm is not None]
    if not any(norms) or not all(math.isfinite(norm) for norm in norms):
        raise NotApplicable("gradients are zero or not finite")
    if not at.step.changed:
        raise NotApplicable("nothing changed at all")
    if share >= FEW:
        return
    kinds = {str(p.dtype).removeprefix("torch.") for p in at.trainer.model.parameters() if p.requires_grad}
    coarse = kinds != {"float32"}
    yield Finding(
        message=f"{share:.1%} of the weights with a gradient changed in one optimizer step at the peak learning "
        f"rate of {at.trainer.args.learning_rate:g}; they are {', '.join(sorted(kinds))}.",
        fix="Set model.dtype to float32, or train adapters with model.lora."
        if coarse
        else "Raise training.learning_rate.",
        where=at.where("model.dtype" if coarse else "training.learning_rate"),
        patch=Patch("model.dtype", "float32") if coarse else None,
    )


@update_vanishes.fault
def bfloat16_weights_at_a_small_rate(world: World) -> None:
    world.recipe["model"]["dtype"] = "bfloat16"
    world.recipe["training"]["learning_rate"] = 1e-6


@update_vanishes.fault
def rate_of_nearly_nothing(world: World) -> None:
    world.recipe["training"]["learning_rate"] = 1e-10
