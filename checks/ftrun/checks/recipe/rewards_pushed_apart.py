"""The coefficient that centres rewards pushes them away from zero, or drowns the preferences.

Symptom: scores grow without bound, or are all near zero and tell no answer from another.
Cause: a minus sign, or a coefficient that was meant for another loss.
Fix: set `training.center_rewards_coefficient` to 0.01, or leave it out.
Source: the square of the sum of both scores times the coefficient is added to the loss (Eisenstein 2023, arXiv
2312.09244, which takes 0.01). Told is under 0 (error) and above 1 (warning), where it outweighs the preference of
scores of 1, and above 10 an error.
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

KEY = "training.center_rewards_coefficient"
MOST, TOO_MUCH = 1.0, 10.0


@check("RM006", title="rewards are centred with a small coefficient", methods=("reward",))
def rewards_pushed_apart(at: AtRecipe) -> Iterator[Finding]:
    """Tell a coefficient out of its range."""
    coefficient = at.recipe.training["center_rewards_coefficient"]
    if coefficient is None:
        raise NotApplicable("rewards are not centred")
    if not 0 <= coefficient <= MOST:
        yield Finding(
            message=f"{KEY} is {coefficient:g}: "
            + ("scores are pushed away from 0." if coefficient < 0 else "it outweighs the preferences."),
            fix=f"Set {KEY} to 0.01.",
            where=at.where(KEY),
            severity="error" if coefficient < 0 or coefficient > TOO_MUCH else "warning",
            patch=Patch(KEY, 0.01),
        )


@rewards_pushed_apart.fault
def a_minus_sign(world: World) -> None:
    world.recipe["training"]["center_rewards_coefficient"] = -0.5


@rewards_pushed_apart.fault
def a_thousand(world: World) -> None:
    world.recipe["training"]["center_rewards_coefficient"] = 1000.0
