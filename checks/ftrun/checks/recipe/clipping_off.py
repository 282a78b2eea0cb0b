"""Gradient clipping is off, or clips every gradient to nearly nothing.

Symptom: the loss falls, then jumps; one bad batch undoes hours of training.
Cause: `max_grad_norm: 0` turns clipping off; it does not clip to 0.
Fix: set `training.max_grad_norm` to 1.0, or to 0.5 where spikes go on.
Prevention: leave the key out, and 1.0 applies.
Source: transformers clips only where max_grad_norm > 0; DeepSpeed#1801 (BLOOM), LLaMA-Factory#10366. Norms of gradients
are 0.1 to 10 in healthy runs (axolotl's guide to stability); told is a limit under 0.001 (from 10⁻⁶ down an error),
below which little more than the noise of `adam_epsilon` is left.
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
LEAST, NOTHING = 1e-3, 1e-6


@check("TRAIN002", title="gradients are clipped", severity="warning")
def clipping_off(at: AtRecipe) -> Iterator[Finding]:
    """Tell a `max_grad_norm` of 0."""
    optimizer = str(at.recipe.training["optim"])
    if optimizer.endswith(("lomo", "_layerwise")):
        raise NotApplicable(
            f"{optimizer} updates each layer as its gradient arrives: there is nothing to clip"
        )
    limit = at.recipe.training["max_grad_norm"]
    if 0 < limit < LEAST:
        yield Finding(
            message=f"training.max_grad_norm is {limit:g}: every gradient is clipped to a thousandth of its size or "
            "less.",
            fix="Set training.max_grad_norm to 1.0.",
            where=at.where(KEY),
            patch=Patch(KEY, 1.0),
            severity="error" if limit < NOTHING else "warning",
        )
    if limit == 0:
        yield Finding(
            message="training.max_grad_norm is 0, which turns clipping off: one bad batch can undo the run.",
            fix="Set training.max_grad_norm to 1.0.",
            where=at.where(KEY),
            patch=Patch(KEY, 1.0),
        )


@clipping_off.fault
def a_norm_of_a_millionth(world: World) -> None:
    world.recipe["training"]["max_grad_norm"] = 1e-6


@clipping_off.fault
def a_norm_of_zero(world: World) -> None:
    """Off, in transformers' way of saying it."""
    world.recipe["training"]["max_grad_norm"] = 0
