"""The discount leaves nothing of a reward for the tokens that earned it.

Symptom: the end of answers improves, their beginning never does.
Cause: `gamma` of a task whose steps are seconds; here a step is a token, and the score comes with the last one.
Fix: set `training.gamma` to 1.0.
Prevention: change `lam` and not `gamma` against noisy advantages.
Source: 1.0 in Ziegler 2019 (arXiv 1909.08593) and Huang 2023. Told where less than a tenth of the score reaches the
first token of the longest response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.gamma"
TENTH = 0.1


@check("PPO012", title="rewards reach the tokens that earned them", severity="warning", methods=("ppo",))
def rewards_discounted_away(at: AtRecipe) -> Iterator[Finding]:
    """Tell a discount that is nothing at the other end of a response."""
    gamma, length = float(at.recipe.training["gamma"]), int(at.recipe.training["response_length"])
    left = gamma ** max(0, length - 1)
    if left < TENTH:
        yield Finding(
            f"{KEY} is {gamma:g}: of a score, {left:.2g} is left at the first of {length} tokens.",
            f"Set {KEY} to 1.0.",
            at.where(KEY),
            patch=Patch(KEY, 1.0),
            severity="error" if gamma < TENTH else None,
        )


@rewards_discounted_away.fault
def a_discount_of_zero(world: World) -> None:
    """Only the last token learns."""
    world.recipe["training"]["gamma"] = 0.0


@rewards_discounted_away.fault
def a_discount_of_a_game(world: World) -> None:
    """0.99 over 512 tokens is 0.006."""
    world.recipe["training"] |= {"gamma": 0.99, "response_length": 512}
