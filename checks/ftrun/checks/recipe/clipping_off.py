"""Gradient clipping is off.

Symptom: the loss falls, then jumps; one bad batch undoes hours of training.
Cause: `max_grad_norm: 0` turns clipping off; it does not clip to 0.
Fix: set `training.max_grad_norm` to 1.0, or to 0.5 where spikes go on.
Prevention: leave the key out, and 1.0 applies.
Source: transformers clips only where max_grad_norm > 0; DeepSpeed#1801 (BLOOM),
LLaMA-Factory#10366.
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

KEY = "training.max_grad_norm"


@check("TRAIN002", title="gradients are clipped", severity="warning")
def clipping_off(at: AtRecipe) -> Iterator[Finding]:
    """Tell a `max_grad_norm` of 0."""
    optimizer = str(at.recipe.training["optim"])
    if optimizer.endswith(("lomo", "_layerwise")):
        raise NotApplicable(
            f"{optimizer} updates each layer as its gradient arrives: there is nothing to clip"
        )
    if at.recipe.training["max_grad_norm"] == 0:
        yield Finding(
            message="training.max_grad_norm is 0, which turns clipping off: one bad batch can undo the run.",
            fix="Set training.max_grad_norm to 1.0.",
            where=at.where(KEY),
            patch=Patch(KEY, 1.0),
        )


@clipping_off.fault
def a_norm_of_zero(world: World) -> None:
    """Off, in transformers' way of saying it."""
    world.recipe["training"]["max_grad_norm"] = 0
