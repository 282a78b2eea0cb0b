"""Beta, which holds the policy to its reference, is out of its range.

Symptom: 0: the loss stays at ln 2, rewards and gradients are 0. Negative: every log looks healthy, since rewards
are multiplied by beta too, and the policy learns the rejected answers. Too small: it leaves the reference, KL grows
past 1, answers degenerate. Too large: it hardly moves.
Cause: a typo, or a beta of another loss: those that average over tokens take larger ones.
Fix: set `training.beta` to 0.1; look at KL and margins, and change it by factors of 2 to 3.
Prevention: compare runs by KL as well as by accuracy.
Source: DPO uses 0.1 and 0.5 (arXiv 2305.18290), Zephyr 0.01 to 0.1; trl#1627 and axolotl#2538 trained with 0. Under
0.005 or above 1 is a warning. IPO's τ goes to 10, since TRL averages over tokens there (arXiv 2310.12036); the
normalised sigmoid to 20 (Tülu 3 uses 5, arXiv 2411.15124); SPPO down to 0.0005 (arXiv 2405.00675 uses 0.001).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.losses import losses_of
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.beta"
USUAL = (0.005, 1.0)
RANGES = {"ipo": (0.005, 10.0), "sigmoid_norm": (0.005, 20.0), "sppo_hard": (0.0005, 1.0)}


@check("DPO001", title="beta is in a reasonable range", methods=("dpo",))
def beta_out_of_range(at: AtRecipe) -> Iterator[Finding]:
    """Tell a beta that teaches nothing or the reverse, and one outside of what its losses are used with."""
    beta = float(at.recipe.training["beta"])
    losses = [loss for loss in losses_of(at.recipe.training) if loss != "sft"]
    if not losses:
        raise NotApplicable("the loss does not depend on beta")
    if beta <= 0:
        told = "every reward and gradient is 0" if beta == 0 else "the policy learns the rejected answers"
        fix = f"Set {KEY} to 0.1."
        yield Finding(f"{KEY} is {beta:g}: {told}.", fix, at.where(KEY), patch=Patch(KEY, 0.1))
        return
    ranges = [RANGES.get(loss, USUAL) for loss in losses]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low <= beta <= high:
        return
    told = "hardly holds the policy to its reference" if beta < low else "hardly lets the policy move"
    yield Finding(
        f"{KEY} is {beta:g}, which {told}; {low:g} to {high:g} is usual for {', '.join(losses)}.",
        f"Set {KEY} to 0.1, and change it by factors of 2 to 3 from there.",
        at.where(KEY),
        severity="warning",
    )


@beta_out_of_range.fault
def a_beta_of_zero(world: World) -> None:
    """Nothing is learnt."""
    world.recipe["training"]["beta"] = 0.0


@beta_out_of_range.fault
def a_negative_beta(world: World) -> None:
    """The rejected answers are learnt, and the logs look healthy."""
    world.recipe["training"]["beta"] = -0.1


@beta_out_of_range.fault
def a_beta_of_the_normalised_loss(world: World) -> None:
    """5 is right for answers' averages, and far too much for their sums."""
    world.recipe["training"]["beta"] = 5.0


@beta_out_of_range.fault
def a_beta_with_a_digit_too_many(world: World) -> None:
    """0.001 where 0.1 was meant."""
    world.recipe["training"]["beta"] = 0.001
