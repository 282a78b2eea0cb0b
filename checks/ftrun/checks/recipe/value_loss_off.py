"""The value model is not trained.

Symptom: values stay at their start, explained variance at 0 or below, and advantages are as noisy as the scores.
Cause: `vf_coef` of 0, as in a method without a value model.
Fix: set `training.vf_coef` to 0.1.
Prevention: look at `value/explained_variance`, which rises when values are learnt.
Source: 0.1 in Ziegler 2019 (arXiv 1909.08593) and TRL's PPO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.vf_coef"


@check("PPO013", title="the value model is trained", methods=("ppo",))
def value_loss_off(at: AtRecipe) -> Iterator[Finding]:
    """Tell a weight of the value loss that is not above 0."""
    weight = float(at.recipe.training["vf_coef"])
    if weight <= 0:
        yield Finding(
            f"{KEY} is {weight:g}: the value model learns nothing.",
            f"Set {KEY} to 0.1.",
            at.where(KEY),
            patch=Patch(KEY, 0.1),
        )


@value_loss_off.fault
def a_weight_of_zero(world: World) -> None:
    """As in a method without values."""
    world.recipe["training"]["vf_coef"] = 0.0
