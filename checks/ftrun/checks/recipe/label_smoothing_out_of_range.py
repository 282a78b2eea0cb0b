"""The label smoothing is outside of what its loss allows.

Symptom: `exo_pair` with 0 stops with an error of TRL; `robust` at 0.5 divides by zero, and above it learns the
rejected answers.
Cause: the value of another loss: `robust` takes the share of wrong labels, `exo_pair` a small ε.
Fix: set `training.label_smoothing` to 0.1 for `robust`, 0.001 for `exo_pair`, 0 to 0.5 for the `aot` losses.
Source: robust DPO (arXiv 2403.00409): ε in [0, 0.5); EXO (arXiv 2402.00856): 10⁻³.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.losses import SMOOTHED, losses_of
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.label_smoothing"
ADVISED = {"robust": 0.1, "exo_pair": 1e-3, "aot": 0.0, "aot_unpaired": 0.0}


@check("DPO003", title="label smoothing is what the loss takes", methods=("dpo",))
def label_smoothing_out_of_range(at: AtRecipe) -> Iterator[Finding]:
    """Tell a value that a loss cannot be computed with, or that turns it round."""
    value = float(at.recipe.training["label_smoothing"])
    losses = [loss for loss in losses_of(at.recipe.training) if loss in SMOOTHED]
    if not losses:
        raise NotApplicable("no loss of this run reads it")
    for loss in losses:
        if 0 <= value < 0.5 and (value > 0 or loss != "exo_pair"):
            continue
        least = "above 0" if loss == "exo_pair" else "0"
        yield Finding(
            f"{KEY} is {value:g}; the loss {loss} takes {least} to below 0.5.",
            f"Set {KEY} to {ADVISED[loss]:g}.",
            at.where(KEY),
            patch=Patch(KEY, ADVISED[loss]) if len(losses) == 1 else None,
        )


@label_smoothing_out_of_range.fault
def exo_without_an_epsilon(world: World) -> None:
    """The default of 0."""
    world.recipe["training"]["loss_type"] = "exo_pair"


@label_smoothing_out_of_range.fault
def half_of_all_labels_are_wrong(world: World) -> None:
    """Divides by zero."""
    world.recipe["training"] |= {"loss_type": "robust", "label_smoothing": 0.5}


@label_smoothing_out_of_range.fault
def a_negative_share(world: World) -> None:
    """A share of labels is not negative."""
    world.recipe["training"] |= {"loss_type": "aot", "label_smoothing": -0.1}
