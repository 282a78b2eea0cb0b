"""The first update does not begin with the probabilities of its rollout.

Symptom: the ratio is not 1 before anything has changed: clipping and KL are off by that much for the whole run.
Cause: dropout that is on while training, a temperature that only sampling knows, padding that shifts positions, or
kernels that are not the same for both.
Fix: leave `training.disable_dropout` on.
Source: "The N Implementation Details of RLHF with PPO" (Huang 2023), "Dropout"; trl#1718, trl#2708.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEAR = 1e-3
"""Attention kernels of GPUs may add in another order when they are to have a gradient: 1e-4 in bfloat16."""


@check("PPO010", title="the first update begins with the ratio 1", methods=("ppo",))
def first_ratio_off(at: AtStep) -> Iterator[Finding]:
    """Read what the dry step's first micro-batch found."""
    trainer: Any = at.trainer
    if "first_update" not in trainer.seen:
        raise NotApplicable("the dry step ended before its first update")
    figures = {name: float(value) for name, value in trainer.seen["first_update"].items()}
    ratio, spread = figures["policy/ratio"], (2 * figures["policy/approx_kl"]) ** 0.5
    if max(abs(ratio - 1), spread) > NEAR:
        dropout = not at.recipe.training["disable_dropout"]
        yield Finding(
            f"At the first update, before any step, the mean ratio is {ratio:.5g}, and log-probabilities differ "
            f"from those of the rollout by {spread:.3g} (root mean square).",
            "Set training.disable_dropout to true."
            if dropout
            else "Let both be computed in the same mode and type.",
            at.where("training.disable_dropout"),
            severity="warning" if dropout else None,
        )


@first_ratio_off.fault
def dropout_stays_on(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "lora_dropout": 0.5, "target_modules": "all-linear"}
    world.recipe["model"]["lora"]["init_lora_weights"] = False
    world.recipe["training"]["disable_dropout"] = False
