"""The KL coefficient, which holds the policy to its start, is 0 or out of its range.

Symptom: too small: the score climbs while KL passes tens of nats and answers turn into what the reward likes and no
one reads; too large: nothing is learnt. With a target and a coefficient of 0, the controller multiplies 0 for ever.
Cause: a coefficient of another tool or of a loss per token, or one that was switched off for a try.
Fix: set `training.kl_coef` to 0.05 and look at KL and answers, or set `training.kl_target` to a sum of 6 nats.
Prevention: compare runs by KL as well as by score.
Source: 0.02 to 0.15 in Ziegler 2019 (arXiv 1909.08593) and Stiennon 2020 (arXiv 2009.01325); TRL's default was 0.05.
Under 0.001 or above 1 is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.kl_coef"
LOW, HIGH = 0.001, 1.0


@check("PPO001", title="the KL coefficient is set, and in a reasonable range", methods=("ppo",))
def kl_coef_unfit(at: AtRecipe) -> Iterator[Finding]:
    """Tell a coefficient that holds nothing, pushes away, or holds everything."""
    coef, target = float(at.recipe.training["kl_coef"]), at.recipe.training["kl_target"]
    if LOW <= coef <= HIGH:
        return
    fix = f"Set {KEY} to 0.05."
    if coef < 0:
        yield Finding(
            f"{KEY} is {coef:g}: the policy is paid to leave its start.",
            fix,
            at.where(KEY),
            patch=Patch(KEY, 0.05),
        )
    elif coef == 0 and target is not None:
        yield Finding(
            f"{KEY} is 0, from which no controller leads towards training.kl_target: it multiplies.",
            fix,
            at.where(KEY),
            patch=Patch(KEY, 0.05),
        )
    else:
        told = "nothing" if coef == 0 else "hardly anything"
        told = f"{told} holds the policy to its start" if coef < LOW else "the policy can hardly move"
        yield Finding(
            f"{KEY} is {coef:g}: {told}; {LOW:g} to {HIGH:g} is usual.",
            fix,
            at.where(KEY),
            severity="warning",
        )


@kl_coef_unfit.fault
def a_coefficient_of_zero(world: World) -> None:
    """Nothing keeps the policy from what the reward overlooks."""
    world.recipe["training"]["kl_coef"] = 0.0


@kl_coef_unfit.fault
def a_negative_coefficient(world: World) -> None:
    """Divergence is rewarded."""
    world.recipe["training"]["kl_coef"] = -0.05


@kl_coef_unfit.fault
def a_target_that_is_never_approached(world: World) -> None:
    """The controller multiplies zero."""
    world.recipe["training"] |= {"kl_coef": 0.0, "kl_target": 6.0}


@kl_coef_unfit.fault
def a_percentage(world: World) -> None:
    """5 was meant as 5 %."""
    world.recipe["training"]["kl_coef"] = 5.0
