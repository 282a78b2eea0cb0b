"""The weights are too coarse for the learning rate: updates round to nothing.

Symptom: the loss falls a little and stays, at a level that float32 would pass; nothing fails.
Cause: weights that are trained in bfloat16 keep 8 bits. A weight of 0.02 has neighbours 0.00012 away, and an
update of Adam, about the learning rate, that is smaller than half of this distance is rounded away, each time
again. float16 keeps 11 bits, and its gradients overflow and underflow: torch refuses to unscale them.
Fix: set `model.dtype: float32` (mixed precision then still computes in bfloat16), or train adapters with
`model.lora`.
Prevention: leave `model.dtype` at `auto`.
Source: shares of 50 % (warning) and 80 % (error) of the trained weights; measured after five steps at a learning
rate of 1e-6: 78 % of float32 weights changed, 1.5 % of bfloat16. torchtune#2254, AReaL#1292, apex#1728.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.parameters import learning_rates
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

MANY, MOST = 0.5, 0.8
SAMPLE = 65_536
"""Elements looked at in each tensor, evenly spread."""

BITS = {"bfloat16": 8, "float16": 11}
"""Significant bits of a weight."""

NEAR_RATE = ("adamw", "adafactor", "lion")
"""Optimizers whose updates are about as large as the learning rate, by the beginnings of their names."""


@check("MODEL006", title="the weights are fine enough for the learning rate")
def weights_too_coarse(at: AtModel) -> Iterator[Finding]:
    trained = {name: p for name, p in at.trainer.model.named_parameters() if p.requires_grad}
    coarse = {name: p for name, p in trained.items() if str(p.dtype).removeprefix("torch.") in BITS}
    if not coarse:
        return
    halves = [p for p in coarse.values() if str(p.dtype) == "torch.float16"]
    if halves:
        yield Finding(
            message=f"{len(halves)} of {len(trained)} trained tensors are float16, whose gradients cannot be "
            "unscaled and underflow.",
            fix="Set model.dtype to float32; training.fp16 still computes in float16.",
            where=at.where("model.dtype"),
            patch=Patch("model.dtype", "float32"),
        )
        return
    _raise_if_rounding_is_mended(at)
    rates = learning_rates(at.trainer.optimizer)
    total = sum(p.numel() for p in trained.values())
    lost = sum(_share_lost(p, rates[id(p)]) * p.numel() for p in coarse.values() if id(p) in rates)
    if lost <= MANY * total:
        return
    rate = at.trainer.args.learning_rate
    yield Finding(
        message=f"{lost / total:.0%} of the trained weights are bfloat16 and so large that an update of about "
        f"{rate:g}, the learning rate, rounds to nothing: the neighbours of a weight of 0.02 are 0.00012 away.",
        fix="Set model.dtype to float32, or train adapters with model.lora.",
        where=at.where("model.dtype"),
        patch=Patch("model.dtype", "float32"),
        severity="error" if lost > MOST * total else "warning",
    )


def _raise_if_rounding_is_mended(at: AtModel) -> None:
    """Raises NotApplicable where updates are not lost, or where their size is not known."""
    optim, options = str(at.trainer.args.optim.value), str(at.trainer.args.optim_args or "")
    if at.trainer.is_deepspeed_enabled:
        raise NotApplicable("DeepSpeed keeps float32 copies of the weights")
    if optim == "adamw_anyprecision" or "stochastic_round" in options:
        raise NotApplicable(f"{optim} makes up for what rounding takes")
    if not optim.startswith(NEAR_RATE):
        raise NotApplicable(f"the learning rate does not tell how large the updates of {optim} are")


def _share_lost(weight: torch.Tensor, rate: float) -> float:
    """Share of the elements that an update of `rate` leaves as they are.

    A float of b bits between 2^k and 2^(k+1) has neighbours 2^(k+1−b) away: an update of less than 2^(k−b) is
    lost, so all are from 2^k up, with k the least whole number over log2(rate) + b.
    """
    if rate <= 0:
        return 1.0
    bits = BITS[str(weight.dtype).removeprefix("torch.")]
    flat = weight.detach().flatten()
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    return float((sample.abs() >= 2.0 ** (math.floor(math.log2(rate) + bits) + 1)).float().mean())


@weights_too_coarse.fault
def bfloat16_at_a_small_rate(world: World) -> None:
    world.recipe["model"]["dtype"] = "bfloat16"
    world.recipe["training"]["learning_rate"] = 1e-6


@weights_too_coarse.fault
def float16_weights(world: World) -> None:
    world.recipe["model"]["dtype"] = "float16"
