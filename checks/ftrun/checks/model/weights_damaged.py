"""A weight is not a number, absurdly large, or zero as a whole.

Symptom: the loss is NaN, or stands still at that of guessing; the log shows an old mean all the same.
Cause: a download or a merge was damaged, half precision overflowed when the model was saved, an earlier run went
on after its loss was NaN, or weights that were spread over processes were saved without being gathered.
Fix: load the weights again from where they came, or from a checkpoint before the damage.
Prevention: stop a run whose loss is not finite, and do not save it.
Source: trl#6702, transformers#13619, DeepSpeed#2413. Weights of language models are under a few hundred; 10⁶ is told.
Told as a warning are matrices of layers that are zero, as none is that was trained (blocks that were added on purpose
begin so: LLaMA Pro, arXiv 2401.02415), or whose mean square is a hundred times that of the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

ABSURD = 1e6
TIMES = 100.0
LAYER = re.compile(r"\.\d+\.")


@check("MODEL025", title="every weight is a number of sensible size")
def weights_damaged(at: AtModel) -> Iterator[Finding]:
    sizes = {name: _largest(p) for name, p in at.trainer.model.named_parameters()}
    wrong = [name for name, size in sizes.items() if not size <= ABSURD]
    if not wrong:
        yield from _judge_matrices(at, sizes)
        return
    broken = sum(not math.isfinite(sizes[name]) for name in wrong)
    yield Finding(
        message=f"{len(wrong)} of {len(sizes)} tensors are damaged: {broken} hold values that are not finite, "
        f"{len(wrong) - broken} values above {ABSURD:g}.",
        fix="Load the weights again from where they came, or train from an earlier checkpoint.",
        where=at.where("model.path"),
        evidence=group_names(wrong),
    )


def _judge_matrices(at: AtModel, sizes: dict[str, float]) -> Iterator[Finding]:
    """Matrices in the layers of the model, adapters left out: those that are zero, and those out of all proportion."""
    matrices = {
        name: p
        for name, p in at.trainer.model.named_parameters()
        if LAYER.search(name)
        and ".lora_" not in name
        and p.dim() > 1
        and p.is_floating_point()
        and not p.is_meta
    }
    zero = [name for name in matrices if sizes[name] == 0.0]
    if zero:
        yield Finding(
            message=f"{len(zero)} of {len(matrices)} matrices in the layers of the model are zero.",
            fix="Load the weights again from where they came, or save them again, gathered from all processes.",
            where=at.where("model.path"),
            evidence=group_names(zero),
            severity="warning",
        )
    # What is this much larger on average has a value that is.
    usual = median(sizes[name] for name in matrices) if matrices else 0.0
    suspect = {name: _spread(matrices[name]) for name in matrices if sizes[name] > TIMES * usual > 0}
    mean = median(_spread(p) for p in matrices.values()) if suspect else 0.0
    large = [name for name, spread in suspect.items() if spread > TIMES * mean]
    if large:
        yield Finding(
            message=f"{len(large)} of {len(matrices)} matrices in the layers of the model are {TIMES:g} times as large "
            "as the others, or more.",
            fix="Load the weights again from where they came; merge adapters with the scale that they were trained at.",
            where=at.where("model.path"),
            evidence=tuple(f"{name}: {suspect[name]:.3g}, the others {mean:.3g}" for name in large[:3]),
            severity="warning",
        )


def _spread(tensor: torch.Tensor) -> float:
    """The root of the mean square of the values."""
    import torch

    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32)) / math.sqrt(tensor.numel())


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
def a_layer_was_not_gathered(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for p in at.model.model.layers[1].parameters():
            if p.dim() > 1:
                p.data.zero_()
        return at

    world.after(AtModel, damage)


@weights_damaged.fault
def an_adapter_was_merged_at_another_scale(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[0].mlp.down_proj.weight.data *= 1000
        return at

    world.after(AtModel, damage)


@weights_damaged.fault
def a_bit_is_flipped(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e30
        return at

    world.after(AtModel, damage)
