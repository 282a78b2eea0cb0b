"""A weight is not a number, or absurdly large.

Symptom: the loss is NaN, or stands still at that of guessing; the log shows an old mean all the same.
Cause: a download or a merge was damaged, half precision overflowed when the model was saved, or an earlier run went
on after its loss was NaN.
Fix: load the weights again from where they came, or from a checkpoint before the damage.
Prevention: stop a run whose loss is not finite, and do not save it.
Source: trl#6702, transformers#13619. Weights of language models are under a few hundred; 10⁶ is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

ABSURD = 1e6


@check("MODEL025", title="every weight is a number of sensible size")
def weights_damaged(at: AtModel) -> Iterator[Finding]:
    sizes = {name: _largest(p) for name, p in at.trainer.model.named_parameters()}
    wrong = [name for name, size in sizes.items() if not size <= ABSURD]
    if not wrong:
        return
    broken = sum(not math.isfinite(sizes[name]) for name in wrong)
    yield Finding(
        message=f"{len(wrong)} of {len(sizes)} tensors are damaged: {broken} hold values that are not finite, "
        f"{len(wrong) - broken} values above {ABSURD:g}.",
        fix="Load the weights again from where they came, or train from an earlier checkpoint.",
        where=at.where("model.path"),
        evidence=group_names(wrong),
    )


def _largest(tensor: torch.Tensor) -> float:
    """The largest size of a value; NaN where one is not a number, 0 where there are none to look at."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return 0.0
    low, high = tensor.detach().aminmax()
    return max(abs(float(low)), abs(float(high))) if low == low and high == high else math.nan


@weights_damaged.fault
def one_weight_is_nan(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
        return at

    world.after(AtModel, damage)


@weights_damaged.fault
def a_bit_is_flipped(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e30
        return at

    world.after(AtModel, damage)
